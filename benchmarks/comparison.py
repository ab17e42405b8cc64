"""Which of two artifacts is faster on a device: interleaved rounds, a ratio with a confidence interval, a verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol as Structure

import numpy as np
from pydantic import BaseModel, ConfigDict

from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.harness import cool, example_inputs, installed, placed, record_of
from deploy_kit.benchmarks.measurement import ArtifactRecord, OutputCheck, Round
from deploy_kit.benchmarks.outputs import check_outputs
from deploy_kit.benchmarks.protocol import Protocol
from deploy_kit.benchmarks.runners.base import Runner
from deploy_kit.benchmarks.summary import summarise
from deploy_kit.benchmarks.validity import reasons
from deploy_kit.devices.base import Device, DeviceInfo
from deploy_kit.devices.qemu import Qemu
from deploy_kit.errors import UserError

CONFIDENCE = 0.985
PAIRS, MOST_PAIRS, STEP = 30, 300, 10
"""Pairs that are run at least, and at most where the device is noisy; and between two looks at the interval."""
PRECISION = 0.02
"""The half width of the interval at which there are pairs enough: a difference of 5% is then nearly always shown."""
FEWEST_ROUNDS = 8
"""Fewer pairs can never show a difference at this confidence: all eight the same way has a chance of 2 in 256."""
UNDISTURBED = 0.1
"""The quantile that stands for a round: what disturbs an inference makes it longer, and never shorter."""
EXACT = 50
"""The most pairs that the signed ranks' own distribution is used for; that of more is normal."""


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
    def half_width(self) -> float:
        """Half of the interval, relative to its middle."""
        return math.inf if self.low == 0 else (self.high - self.low) / (self.high + self.low)

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
    started: str
    """UTC, ISO 8601, by this machine's clock."""
    pairs: list[tuple[Round, Round]]
    a_first: list[bool]
    ratio: Ratio
    verdict: Verdict
    outputs: dict[str, OutputCheck | None]
    """Whether A's and B's last outputs were right; None where that was not checked."""
    notes: list[str]
    command: str

    @property
    def right(self) -> bool:
        """Whether no outputs are known to be wrong: the time of a wrong answer is none."""
        return all(check is None or check.verdict == "right" for check in self.outputs.values())


class Timed(Structure):
    """What runs one round, as `deploy_kit.benchmarks.harness.Placed` does."""

    def round(self) -> Round: ...


def compare(
    artifacts: tuple[Artifact, Artifact],
    runners: tuple[Runner, Runner],
    device: Device,
    protocol: Protocol,
    pairs: int | None = None,
    *,
    command: str,
    check: bool = True,
) -> Comparison:
    """Run two artifacts in turn on one device, and say what that shows.

    Args:
        pairs: how often each is run; None goes on until the interval is as narrow as `PRECISION`. When to stop is
            decided by its width alone, not by what it shows.
        command: what repeats the comparison; it is kept.
        check: whether the last outputs are compared with the models'.

    Raises:
        DeviceError: as `harness.bench` does.
        UserError: as `harness.bench` does, or the device has no times.
    """
    (a, b), (runner_a, runner_b) = artifacts, runners
    started = datetime.now(UTC).isoformat(timespec="seconds")
    info = device.info()
    check_comparable(info, pairs)
    with ExitStack() as stack:
        home_a = stack.enter_context(installed(runner_a, device))
        home_b = home_a if runner_b == runner_a else stack.enter_context(installed(runner_b, device))
        there_a = stack.enter_context(placed(a, device, runner_a, protocol, home_a))
        there_b = stack.enter_context(placed(b, device, runner_b, protocol, home_b))
        rounds, a_first = interleave(there_a, there_b, pairs, lambda: cool(device, protocol))
        outputs = [there.outputs(last.result.outputs) for there, last in zip((there_a, there_b), rounds[-1])]
    ratio = ratio_of(pair_ratios(rounds))
    notes = []
    checked: dict[str, OutputCheck | None] = {}
    for name, artifact, arrays, mine in zip("AB", artifacts, outputs, zip(*rounds)):
        found = reasons(info, mine, summarise([each.result.samples_ns for each in mine]))
        notes += [f"{name}: {reason}" for reason in dict.fromkeys(found)]
        checked[name], unchecked = (
            check_outputs(artifact, example_inputs(artifact.manifest.inputs), arrays) if check else (None, "")
        )
        if unchecked:
            notes.append(f"{name}: outputs not checked: {unchecked}")
    if ratio.half_width > PRECISION:
        notes.append(f"the device is noisy: a difference under {ratio.half_width:.1%} cannot be shown by these pairs")
    return Comparison(
        a=record_of(a),
        b=record_of(b),
        device=info,
        protocol=protocol,
        started=started,
        pairs=rounds,
        a_first=a_first,
        ratio=ratio,
        verdict=ratio.verdict,
        outputs=checked,
        notes=notes,
        command=command,
    )


def check_comparable(info: DeviceInfo, pairs: int | None) -> None:
    """Raise `UserError` where so many pairs, or times of such a device, can show nothing."""
    if pairs is not None and pairs < FEWEST_ROUNDS:
        raise UserError(
            f"{pairs} pairs can show no difference at {CONFIDENCE:.1%} confidence", fix=f"take {FEWEST_ROUNDS} or more"
        )
    if info.emulated:
        raise UserError(
            f"{info.spec} is emulated: its times are no latencies to compare",
            fix=f"count instead: deploykit bench A B --device {Qemu.spec} --metric instructions",
        )


def interleave(
    a: Timed, b: Timed, pairs: int | None, before_each: Callable[[], None] = lambda: None
) -> tuple[list[tuple[Round, Round]], list[bool]]:
    """Run A and B in turn, each first in every other pair: A B, B A, A B, ...

    Args:
        pairs: how often; None goes on until there are `enough`.

    Returns:
        The rounds of each pair, A's first, and whether A ran first.
    """
    rounds: list[tuple[Round, Round]] = []
    orders: list[bool] = []
    while not (enough(pair_ratios(rounds)) if pairs is None else len(rounds) == pairs):
        a_first = len(rounds) % 2 == 0
        found = {}
        for name, timed in (("a", a), ("b", b)) if a_first else (("b", b), ("a", a)):
            before_each()
            found[name] = timed.round()
        rounds.append((found["a"], found["b"]))
        orders.append(a_first)
    return rounds, orders


def enough(ratios: Sequence[float]) -> bool:
    """Whether so many pairs are enough: their interval is narrow, or they are as many as are run at all."""
    count = len(ratios)
    if count >= MOST_PAIRS:
        return True
    return count >= PAIRS and (count - PAIRS) % STEP == 0 and ratio_of(ratios).half_width <= PRECISION


def pair_ratios(pairs: Sequence[tuple[Round, Round]]) -> list[float]:
    """Of each pair, B's time over A's."""
    return [time_of(b.result.samples_ns) / time_of(a.result.samples_ns) for a, b in pairs]


def time_of(samples: Sequence[int]) -> int:
    """What stands for a round: its quantile `UNDISTURBED`, a sample."""
    return sorted(samples)[int(UNDISTURBED * (len(samples) - 1))]


def ratio_of(ratios: Sequence[float]) -> Ratio:
    """The ratio that pairs' ratios show, by Wilcoxon's signed ranks of their logarithms.

    The estimate is the median of all pairwise means (Hodges and Lehmann 1963), and the interval is exact for any
    distribution that is symmetric (Tukey 1949), for more than `EXACT` pairs by the normal distribution: one disturbed
    pair moves neither far.
    """
    logs = np.log(np.asarray(ratios, dtype=np.float64))
    count = len(logs)
    first, second = np.triu_indices(count)
    means = np.sort((logs[first] + logs[second]) / 2)
    left_out = _signed_rank_quantile(count, (1 - CONFIDENCE) / 2)
    low, high = (means[left_out], means[-1 - left_out]) if left_out is not None else (-math.inf, math.inf)
    return Ratio(estimate=math.exp(np.median(means)), low=math.exp(low), high=math.exp(high))


def _signed_rank_quantile(count: int, tail: float) -> int | None:
    """The largest k with P(W <= k) <= tail, W the sum of positive ranks of ``count`` pairs; None if there is none."""
    if count > EXACT:
        mean, deviation = count * (count + 1) / 4, math.sqrt(count * (count + 1) * (2 * count + 1) / 24)
        return math.floor(mean + statistics.NormalDist().inv_cdf(tail) * deviation - 0.5)
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
