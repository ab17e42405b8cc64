"""The statistics of a series of latencies, and what is odd about it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

P99_SAMPLES = 100
"""Fewer samples have no 99th percentile that is not just their largest."""

TRIM = 0.1
"""The share of samples that the trimmed mean leaves out at either end."""

SEPARATION = 6.0
"""Ashman's D from which two groups of samples are two modes. Halves of one normal distribution have 2.7, those of a
uniform one 3.5; two normal distributions that do not overlap have more than 6."""

SMALLEST_MODE = 0.1
"""The share of samples that the smaller mode has at least."""

DRIFT = 0.03
"""The change from the first to the last sample, relative to the median, from which a significant trend is a drift."""

SIGNIFICANT = 0.001


class Summary(BaseModel):
    """Statistics in milliseconds; None where there are too few samples.

    ``cov`` is the standard deviation over the mean. ``modes_ms`` are the medians of two separate groups of samples, if
    there are two. ``drift`` is the relative change from the first to the last sample, if there is a trend.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int
    mean_ms: float
    std_ms: float | None
    cov: float | None
    min_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float | None
    max_ms: float
    trimmed_mean_ms: float
    modes_ms: tuple[float, float] | None
    drift: float | None


def summarise(rounds: Sequence[Sequence[int]]) -> Summary:
    """The statistics of all rounds' samples, in nanoseconds; a drift is one within a round, the largest."""
    samples = sorted(value / 1e6 for values in rounds for value in values)
    mean = statistics.fmean(samples)
    std = statistics.stdev(samples) if len(samples) > 1 else None
    drifts = [found for values in rounds if (found := drift(values)) is not None]
    return Summary(
        samples=len(samples),
        mean_ms=mean,
        std_ms=std,
        cov=None if std is None else std / mean,
        min_ms=samples[0],
        p50_ms=percentile(samples, 50),
        p90_ms=percentile(samples, 90),
        p95_ms=percentile(samples, 95),
        p99_ms=percentile(samples, 99) if len(samples) >= P99_SAMPLES else None,
        max_ms=samples[-1],
        trimmed_mean_ms=trimmed_mean(samples),
        modes_ms=modes(samples),
        drift=max(drifts, key=abs, default=None),
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The percentile of ascending values, linear between neighbours (Hyndman and Fan's type 7, as numpy's)."""
    position = (len(ordered) - 1) * percent / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def trimmed_mean(ordered: Sequence[float]) -> float:
    """The mean of ascending values without the tenth at either end."""
    left_out = int(len(ordered) * TRIM)
    return statistics.fmean(ordered[left_out : len(ordered) - left_out])


def modes(ordered: Sequence[float]) -> tuple[float, float] | None:
    """The medians of two groups into which ascending values fall, or None where they are one.

    The cut is where the variance within the groups is least (Otsu 1979); they are two modes where Ashman's D,
    sqrt(2) |m1 - m2| / sqrt(s1^2 + s2^2) (Ashman, Bird and Zepf 1994), exceeds `SEPARATION`.
    """
    count, smallest = len(ordered), math.ceil(len(ordered) * SMALLEST_MODE)
    if count < 20:
        return None
    sums, squares = [0.0], [0.0]
    middle = statistics.fmean(ordered)
    for value in ordered:
        sums.append(sums[-1] + (value - middle))
        squares.append(squares[-1] + (value - middle) ** 2)

    def within(first: int, last: int) -> float:
        total = sums[last] - sums[first]
        return max(0.0, squares[last] - squares[first] - total * total / (last - first))

    cut = min(range(smallest, count - smallest + 1), key=lambda index: within(0, index) + within(index, count))
    low, high = ordered[:cut], ordered[cut:]
    spread = math.sqrt(within(0, cut) / len(low) + within(cut, count) / len(high))
    distance = statistics.fmean(high) - statistics.fmean(low)
    if math.sqrt(2) * distance <= SEPARATION * spread or distance <= 0:
        return None
    return statistics.median(low), statistics.median(high)


def drift(values: Sequence[float]) -> float | None:
    """The relative change over a series in time, or None where there is no trend.

    The slope is Theil and Sen's, the median of all pairs' slopes, and the trend is one by Kendall's test.
    """
    if len(values) < 20:
        return None
    from scipy import stats

    tau = stats.kendalltau(range(len(values)), values)
    if not tau.pvalue < SIGNIFICANT:
        return None
    slope = stats.theilslopes(values, range(len(values))).slope
    change = float(slope * (len(values) - 1) / statistics.median(values))
    return change if abs(change) >= DRIFT else None
