"""Which of two artifacts is faster on a device: interleaved rounds, a ratio with a confidence interval, a verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from enum import StrEnum
from typing import Protocol as Structure

from pydantic import BaseModel, ConfigDict

from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.harness import cool, installed, placed, record_of
from deploy_kit.benchmarks.measurement import ArtifactRecord, Round
from deploy_kit.benchmarks.protocol import Protocol
from deploy_kit.benchmarks.runners.base import Runner
from deploy_kit.benchmarks.summary import summarise
from deploy_kit.benchmarks.validity import reasons
from deploy_kit.devices.base import Device, DeviceInfo
from deploy_kit.errors import UserError

CONFIDENCE = 0.985
PAIRS = 30
"""As many pairs as find a 5% slowdown 95 times in 100 where rounds scatter by 2%; see `suites.false_verdicts`."""
FEWEST_ROUNDS = 8
"""Fewer pairs can never show a difference at this confidence: all eight the same way has a chance of 2 in 256."""


class Verdict(StrEnum):
    """What the rounds show of the second artifact against the first."""

    FASTER = "faster"
    SLOWER = "slower"
    NOT_SHOWN = "no difference shown"


class Ratio(BaseModel):
    """How many times as long B takes as A: Hodges and Lehmann's estimate, and its interval at ``confidence``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    estimate: float
    low: float
    high: float
    confidence: float = CONFIDENCE

    @property
    def verdict(self) -> Verdict:
        """Faster or slower where all of the interval is on one side of 1."""
        if self.high < 1:
            return Verdict.FASTER
        return Verdict.SLOWER if self.low > 1 else Verdict.NOT_SHOWN


class Comparison(BaseModel):
    """A comparison with all its rounds: A's and B's of each pair, and which of them was first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    a: ArtifactRecord
    b: ArtifactRecord
    device: DeviceInfo
    protocol: Protocol
    pairs: list[tuple[Round, Round]]
    a_first: list[bool]
    ratio: Ratio
    verdict: Verdict
    notes: list[str]


class Timed(Structure):
    """What runs one round, as `deploy_kit.benchmarks.harness.Placed` does."""

    def round(self) -> Round: ...


def compare(
    artifacts: tuple[Artifact, Artifact],
    runners: tuple[Runner, Runner],
    device: Device,
    protocol: Protocol,
    pairs: int = PAIRS,
) -> Comparison:
    """Run two artifacts in turn on one device, and say what that shows; raises as `harness.bench` does."""
    _check_pairs(pairs)
    (a, b), (runner_a, runner_b) = artifacts, runners
    with ExitStack() as stack:
        home_a = stack.enter_context(installed(runner_a, device))
        home_b = home_a if runner_b == runner_a else stack.enter_context(installed(runner_b, device))
        there_a = stack.enter_context(placed(a, device, runner_a, protocol, home_a))
        there_b = stack.enter_context(placed(b, device, runner_b, protocol, home_b))
        rounds, a_first = interleave(there_a, there_b, pairs, lambda: cool(device, protocol))
    ratio = ratio_of(pair_ratios(rounds))
    notes = []
    for name, index in (("A", 0), ("B", 1)):
        mine = [pair[index] for pair in rounds]
        found = reasons(there_a.info, mine, summarise([each.result.samples_ns for each in mine]))
        notes += [f"{name}: {reason}" for reason in dict.fromkeys(found)]
    return Comparison(
        a=record_of(a),
        b=record_of(b),
        device=there_a.info,
        protocol=protocol,
        pairs=rounds,
        a_first=a_first,
        ratio=ratio,
        verdict=ratio.verdict,
        notes=notes,
    )


def _check_pairs(pairs: int) -> None:
    if pairs < FEWEST_ROUNDS:
        raise UserError(
            f"{pairs} pairs can show no difference at {CONFIDENCE:.1%} confidence", fix=f"take {FEWEST_ROUNDS} or more"
        )


def interleave(
    a: Timed, b: Timed, pairs: int, before_each: Callable[[], None] = lambda: None
) -> tuple[list[tuple[Round, Round]], list[bool]]:
    """Run A and B in turn, ``pairs`` times, each first in every other pair: A B, B A, A B, ...

    Returns:
        The rounds of each pair, A's first, and whether A ran first.
    """
    rounds, orders = [], []
    for number in range(pairs):
        a_first = number % 2 == 0
        found = {}
        for name, timed in (("a", a), ("b", b)) if a_first else (("b", b), ("a", a)):
            before_each()
            found[name] = timed.round()
        rounds.append((found["a"], found["b"]))
        orders.append(a_first)
    return rounds, orders


def pair_ratios(pairs: Sequence[tuple[Round, Round]]) -> list[float]:
    """Of each pair, B's median over A's."""
    return [statistics.median(b.result.samples_ns) / statistics.median(a.result.samples_ns) for a, b in pairs]


def ratio_of(ratios: Sequence[float]) -> Ratio:
    """The ratio that pairs' ratios show, by Wilcoxon's signed ranks of their logarithms.

    The estimate is the median of all pairwise means (Hodges and Lehmann 1963), and the interval is exact for any
    distribution that is symmetric (Tukey 1949): one disturbed pair moves neither far.
    """
    logs = [math.log(ratio) for ratio in ratios]
    count = len(logs)
    means = sorted((logs[i] + logs[j]) / 2 for i in range(count) for j in range(i, count))
    left_out = _signed_rank_quantile(count, (1 - CONFIDENCE) / 2)
    low, high = (means[left_out], means[-1 - left_out]) if left_out is not None else (-math.inf, math.inf)
    return Ratio(estimate=math.exp(statistics.median(means)), low=math.exp(low), high=math.exp(high))


def _signed_rank_quantile(count: int, tail: float) -> int | None:
    """The largest k with P(W <= k) <= tail, W the sum of positive ranks of ``count`` pairs; None if there is none."""
    ways = [1]
    for rank in range(1, count + 1):
        ways = [
            (ways[total] if total < len(ways) else 0) + (ways[total - rank] if total >= rank else 0)
            for total in range(len(ways) + rank)
        ]
    reached, quantile = 0, None
    for total, number in enumerate(ways):
        reached += number
        if reached > tail * 2**count:
            return quantile
        quantile = total
    return quantile
