from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from scipy import stats

from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.comparison import (
    CONFIDENCE,
    EXACT,
    FEWEST_ROUNDS,
    MOST_PAIRS,
    PAIRS,
    PRECISION,
    Verdict,
    compare,
    interleave,
    pair_ratios,
    ratio_of,
    time_of,
)
from deploy_kit.benchmarks.measurement import Round
from deploy_kit.benchmarks.protocol import Protocol
from deploy_kit.benchmarks.runners.program import Program
from deploy_kit.benchmarks.suites.false_verdicts import shares
from deploy_kit.errors import UserError
from tests.benchmarks.support import round_of, runner_document
from tests.benchmarks.test_harness import Folder
from tests.benchmarks.test_protocol import SNAPDRAGON_888


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


@pytest.mark.parametrize("count", [EXACT, 120])
def test_many_pairs_have_the_normal_interval(count: int) -> None:
    generator = random.Random(count)
    logs = [generator.gauss(0.0, 0.02) for _ in range(count)]
    found = ratio_of([math.exp(value) for value in logs])
    for bound in (found.low, found.high):
        p = stats.wilcoxon([value - math.log(bound) for value in logs], method="approx").pvalue
        assert p == pytest.approx(1 - CONFIDENCE, abs=0.003)


@pytest.mark.parametrize("noise", [0.02, 0.05])
def test_simulated_verdicts(noise: float) -> None:
    same, _ = shares(noise, 0.0, pairs=None, trials=200, seed=3)
    slower, pairs = shares(noise, 0.05, pairs=None, trials=200, seed=3)
    assert same[Verdict.NOT_SHOWN] >= 0.97
    assert slower[Verdict.SLOWER] >= 0.95
    assert pairs > 30


def test_pairs_are_added_until_the_interval_is_narrow() -> None:
    generator = random.Random(0)
    log: list[str] = []
    quiet, _ = interleave(Scripted("a", log, lambda: 1.0), Scripted("b", log, lambda: 1.0), None)
    assert len(quiet) == PAIRS
    noisy, _ = interleave(
        Scripted("a", log, lambda: generator.lognormvariate(0, 0.06)), Scripted("b", log, lambda: 1.0), None
    )
    assert PAIRS < len(noisy) < MOST_PAIRS
    assert ratio_of(pair_ratios(noisy)).half_width <= PRECISION
    hopeless, _ = interleave(
        Scripted("a", log, lambda: generator.lognormvariate(0, 0.5)), Scripted("b", log, lambda: 1.0), None
    )
    assert len(hopeless) == MOST_PAIRS


def test_a_round_stands_for_its_undisturbed_samples() -> None:
    assert time_of([100] * 8 + [900] * 42) == 100
    assert time_of([7]) == 7


def test_an_emulated_device_has_no_times_to_compare(tiny_onnx: Artifact, tmp_path: Path) -> None:
    device = Folder(tmp_path)
    emulated = SNAPDRAGON_888.model_copy(update={"emulated": True})
    device.info = lambda: emulated  # type: ignore[method-assign]  # an emulated phone
    runner = Program("none", ("/bin/false",))
    with pytest.raises(UserError, match="its times are no latencies to compare") as refused:
        compare((tiny_onnx, tiny_onnx), (runner, runner), device, Protocol(), command="x")
    assert "--metric instructions" in refused.value.fix


def test_the_time_of_a_wrong_answer_is_none(tiny_onnx: Artifact, tmp_path: Path) -> None:
    shape = [1, 10]
    document = runner_document(
        [10_000] * 50, warmup_ns=[1] * 10, outputs=[{"file": "0.bin", "dtype": "float32", "shape": shape}]
    )
    program = tmp_path / "runner"
    (tmp_path / "document").write_text(json.dumps(document))
    program.write_text(
        '#!/bin/sh\nfor word; do result="$word"; done\n'
        f'head -c 40 /dev/zero > "$(dirname "$result")/0.bin"; cp {tmp_path}/document "$result"\n'
    )
    program.chmod(0o755)
    root = tmp_path / "phone"
    root.mkdir()
    runner = Program("wrong", (), (program,))
    found = compare((tiny_onnx, tiny_onnx), (runner, runner), Folder(root), Protocol(), 8, command="x")
    assert not found.right
    assert {name: check.verdict for name, check in found.outputs.items() if check} == {"A": "wrong", "B": "wrong"}
    assert list(root.iterdir()) == []
