from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from scipy import stats

from deploy_kit.benchmarks.comparison import CONFIDENCE, FEWEST_ROUNDS, Verdict, interleave, pair_ratios, ratio_of
from deploy_kit.benchmarks.measurement import Round
from deploy_kit.benchmarks.suites.false_verdicts import shares
from tests.benchmarks.support import round_of


class Scripted:
    """A runner whose rounds take a time that a function says."""

    def __init__(self, name: str, log: list[str], time: Callable[[], float]):
        self.name, self.log, self.time = name, log, time

    def round(self) -> Round:
        self.log.append(self.name)
        return round_of([round(self.time() * 1e6)])


def test_each_is_first_in_every_other_pair() -> None:
    log: list[str] = []
    pairs, a_first = interleave(Scripted("a", log, lambda: 1.0), Scripted("b", log, lambda: 2.0), 8)
    assert "".join(log) == "abba" * 4
    assert a_first == [True, False] * 4
    assert pair_ratios(pairs) == [2.0] * 8


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([1.05] * 8, Verdict.SLOWER),
        ([0.95] * 8, Verdict.FASTER),
        ([1.0] * 8, Verdict.NOT_SHOWN),
        ([1.05, 0.95] * 10, Verdict.NOT_SHOWN),
        ([1.05] * 29 + [0.2], Verdict.SLOWER),
        ([1.001] * 29 + [9.0], Verdict.SLOWER),
    ],
)
def test_verdicts(ratios: list[float], verdict: Verdict) -> None:
    assert ratio_of(ratios).verdict == verdict


def test_the_estimate_is_not_moved_by_one_disturbed_pair() -> None:
    assert ratio_of([1.05] * 29 + [9.0]).estimate == pytest.approx(1.05)


@pytest.mark.parametrize("count", [FEWEST_ROUNDS, 15, 30])
def test_the_interval_is_the_signed_rank_tests(count: int) -> None:
    """A ratio is inside of the interval where Wilcoxon's exact test does not reject it."""
    generator = random.Random(count)
    for _ in range(20):
        logs = [generator.gauss(0.01, 0.02) for _ in range(count)]
        found = ratio_of([2.718281828459045**value for value in logs])
        assert found.low < found.estimate < found.high
        rejected = stats.wilcoxon(logs, method="exact").pvalue <= 1 - CONFIDENCE
        assert rejected == (found.verdict != Verdict.NOT_SHOWN)


def test_fewer_pairs_than_can_show_anything_have_no_verdict() -> None:
    assert ratio_of([1.5] * (FEWEST_ROUNDS - 1)).verdict == Verdict.NOT_SHOWN


def test_simulated_verdicts() -> None:
    same = shares(0.02, 0.0, pairs=30, trials=300, seed=3)
    slower = shares(0.02, 0.05, pairs=30, trials=300, seed=3)
    assert same[Verdict.NOT_SHOWN] >= 0.97
    assert slower[Verdict.SLOWER] >= 0.95
