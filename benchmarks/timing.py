"""What the suites share: the summary of interleaved timings, and the machine that they were taken on."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Rounds = Sequence[Mapping[str, Sequence[float]]]
"""Of each process, the seconds of every inference by contestant."""


@dataclass(frozen=True)
class Timing:
    """Inference times in milliseconds over all processes."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    samples: int


@dataclass(frozen=True)
class Ratio:
    """How many times faster one contestant is: the median over processes of the ratio of medians, and its range."""

    median: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.lowest:.2f} to {self.highest:.2f})"


def summarise(rounds: Rounds, contestant: str) -> Timing:
    """A contestant's times over all processes."""
    samples = sorted(1000 * seconds for result in rounds for seconds in result[contestant])
    deciles = statistics.quantiles(samples, n=10)
    return Timing(statistics.median(samples), deciles[0], deciles[-1], len(samples))


def speedup(rounds: Rounds, ours: str, over: str) -> Ratio:
    """How many times faster ``ours`` is than ``over``."""
    ratios = [statistics.median(result[over]) / statistics.median(result[ours]) for result in rounds]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """``names`` from another one on in every turn: nobody always comes first."""
    return [names[(turn + index) % len(names)] for index in range(len(names))]


def machine() -> str:
    """The machine's architecture and processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"{platform.machine()}, {next(named, platform.processor() or 'unknown')}"
