from __future__ import annotations

import pytest

from deploy_kit.benchmarks.timing import rotated, speedup, summarise

ROUNDS = [
    {"plain": [0.020, 0.022, 0.024], "deploykit": [0.010, 0.011, 0.012]},
    {"plain": [0.030, 0.033, 0.036], "deploykit": [0.010, 0.011, 0.012]},
    {"plain": [0.040, 0.044, 0.048], "deploykit": [0.010, 0.011, 0.012]},
]


def test_a_timing_is_the_median_over_all_processes() -> None:
    timing = summarise(ROUNDS, "deploykit")
    assert (timing.median_ms, timing.samples) == (pytest.approx(11), 9)
    assert timing.p10_ms <= timing.median_ms <= timing.p90_ms


def test_a_speedup_is_the_median_over_processes_and_their_range() -> None:
    ratio = speedup(ROUNDS, "deploykit", "plain")
    assert (ratio.median, ratio.lowest, ratio.highest) == (pytest.approx(3), pytest.approx(2), pytest.approx(4))


def test_each_process_begins_with_another_contestant() -> None:
    assert [rotated(["a", "b", "c"], turn)[0] for turn in range(4)] == ["a", "b", "c", "a"]
