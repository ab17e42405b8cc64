from __future__ import annotations

from typing import Any

import pytest

from deploy_kit.cells.recipe import Tolerances
from deploy_kit.cells.result import CellResult, InstructionCount, Score
from deploy_kit.check.baseline import Baseline, Known
from deploy_kit.check.compare import compare_cell, gone
from deploy_kit.check.findings import Finding, Kind, Level
from deploy_kit.outcome import Outcome
from tests.check.fakes import PINS, cell, failing, known, working


def found(before: CellResult | Known | None, after: CellResult, **tolerances: float) -> list[tuple[Kind, Level]]:
    return [(finding.kind, finding.level) for finding in findings(before, after, **tolerances)]


def findings(before: CellResult | Known | None, after: CellResult, **tolerances: float) -> list[Finding]:
    expected = known(before) if isinstance(before, CellResult) else before
    return compare_cell(expected, after, Tolerances(**tolerances))


def test_what_is_as_expected_has_no_findings() -> None:
    assert found(working(), working()) == []
    assert found(failing(), failing()) == []


def test_a_cell_that_no_longer_works() -> None:
    (finding,) = findings(working(), failing(Outcome.MISMATCH, "the error is 900 times float32's own"))
    assert (finding.kind, finding.level) == (Kind.WORKS_TO_FAILS, Level.ERROR)
    assert (finding.before, finding.after) == ("ok", "mismatch")
    assert "900 times" in finding.message
    assert "deploykit check --update-baseline" in finding.fix


def test_an_expected_failure_that_works_must_be_updated() -> None:
    (finding,) = findings(failing(), working())
    assert (finding.kind, finding.level) == (Kind.FAILS_TO_WORKS, Level.ERROR)
    assert "the expected failure must be updated" in finding.message
    assert finding.fix == "deploykit check --update-baseline"


@pytest.mark.parametrize(
    ("after", "kinds"),
    [
        (failing(Outcome.CRASHED), [(Kind.FAILS_OTHERWISE, Level.WARNING)]),
        (failing(reason="no module called 'nets'"), [(Kind.FAILS_OTHERWISE, Level.WARNING)]),
        (failing(reason="no such operator in /tmp/deploykit-ab12cd34/x/net.onnx at 0x7f00aa12, after 3.2 s"), []),
    ],
)
def test_a_failure_is_another_where_its_words_are(after: CellResult, kinds: list[Any]) -> None:
    before = failing(reason="no such operator")
    if not kinds:
        before = failing(reason="no such operator in /home/me/deploykit-zz99yy88/net.onnx at 0x55d0bb34ee, after 12 s")
    assert found(before, after) == kinds


def test_a_new_cell_never_passes_silently() -> None:
    assert found(None, working()) == [(Kind.NEW_CELL, Level.WARNING)]
    assert found(None, failing()) == [(Kind.NEW_CELL, Level.ERROR)]
    assert found(None, failing(Outcome.UNAVAILABLE)) == [(Kind.NEW_CELL, Level.WARNING)]


def test_what_can_no_longer_be_tried_or_proven_may_be_broken() -> None:
    gone_target = failing(Outcome.UNAVAILABLE, "executorch is not installed")
    assert found(working(), gone_target) == [(Kind.WORKS_TO_FAILS, Level.ERROR)]
    assert found(failing(), gone_target) == [(Kind.NOT_COMPARED, Level.WARNING)]
    assert found(gone_target, gone_target) == []
    unproven = working(outcome=Outcome.EMITTED_UNVERIFIED)
    assert found(working(), unproven) == [(Kind.NOT_COMPARED, Level.ERROR)]
    assert found(unproven, working()) == [(Kind.NOT_COMPARED, Level.NOTE)]
    assert found(unproven, unproven) == []


def test_operators_that_are_no_longer_delegated_are_named_and_counted() -> None:
    after = working(undelegated={"aten.sin.default": 3, "aten.mean.dim": 1})
    (finding,) = findings(working(), after)
    assert (finding.kind, finding.level) == (Kind.UNDELEGATED, Level.ERROR)
    assert "2 more aten.sin.default" in finding.message
    assert "1 more aten.mean.dim" in finding.message
    assert (finding.before, finding.after) == (1, 4)


def test_one_operator_for_another_is_still_a_regression() -> None:
    assert found(working(), working(undelegated={"aten.cos.default": 1})) == [(Kind.UNDELEGATED, Level.ERROR)]
    assert found(working(), working(undelegated={})) == [(Kind.UNDELEGATED, Level.NOTE)]
    slow = working(undelegated=None, outcome=Outcome.OK_UNDELEGATED)
    assert found(working(undelegated=None), slow) == [(Kind.UNDELEGATED, Level.ERROR)]
    assert found(working(undelegated=None), working(undelegated=None)) == []


@pytest.mark.parametrize(
    ("size", "level"), [(1_010_000, None), (1_010_001, Level.ERROR), (990_000, None), (989_999, Level.NOTE)]
)
def test_size_is_compared_to_its_tolerance(size: int, level: Level | None) -> None:
    assert found(working(), working(bytes=size)) == ([] if level is None else [(Kind.SIZE, level)])


def test_size_says_what_it_was_and_is() -> None:
    (finding,) = findings(working(), working(bytes=1_100_000))
    assert "1,100,000 bytes, and had 1,000,000: +10.00%" in finding.message
    assert (finding.before, finding.after) == (1_000_000, 1_100_000)
    assert found(working(), working(bytes=1_100_000), size=0.1) == []


@pytest.mark.parametrize(
    ("before", "after", "level"),
    [
        (0.5, 3.5, None),  # as right artifacts scatter
        (1.0, 4.1, Level.ERROR),
        (5.0, 10.1, Level.ERROR),
        (5.0, 9.9, None),
        (12.0, 1.0, Level.NOTE),
        (0.0, 0.0, None),
    ],
)
def test_the_error_of_float32_is_judged_by_float32_s_own(before: float, after: float, level: Level | None) -> None:
    expected = [] if level is None else [(Kind.ERROR, level)]
    # the SNR is another wherever the weights are, and says nothing of the artifact
    assert found(working(noise_ratio=before), working(noise_ratio=after, snr_db=90.0)) == expected


@pytest.mark.parametrize(
    ("before", "after", "level"),
    [(60.0, 54.1, None), (60.0, 53.9, Level.ERROR), (999.0, 120.0, None), (53.0, 60.0, Level.NOTE)],
)
def test_the_error_of_less_precision_is_judged_by_its_snr(before: float, after: float, level: Level | None) -> None:
    half = cell(precision="fp16")
    expected = [] if level is None else [(Kind.ERROR, level)]
    was, now = (working(half, snr_db=snr, noise_ratio=snr) for snr in (before, after))
    assert found(was, now) == expected


def test_accuracy_may_not_fall() -> None:
    def score(right: int, total: int = 100) -> CellResult:
        return working(accuracy=Score(right=right, total=total))

    (finding,) = findings(score(90), score(89))
    assert (finding.kind, finding.level) == (Kind.ACCURACY, Level.ERROR)
    assert "89 of 100 right (89.00%), and had 90 (90.00%)" in finding.message
    assert found(score(90), score(88), accuracy=0.02) == []
    assert found(score(90), score(87), accuracy=0.02) == [(Kind.ACCURACY, Level.ERROR)]
    assert found(score(90), score(95)) == [(Kind.ACCURACY, Level.NOTE)]
    assert found(score(90), score(45, 50)) == [(Kind.NOT_COMPARED, Level.WARNING)]


def test_instructions_are_exact_where_the_pins_are_equal() -> None:
    def count(number: int, **pins: str) -> CellResult:
        return working(instructions=InstructionCount(count=number, pins={**PINS, **pins}))

    (finding,) = findings(count(5_000_000), count(5_000_001))
    assert (finding.kind, finding.level) == (Kind.INSTRUCTIONS, Level.ERROR)
    assert "5,000,001 ARM instructions, and was 5,000,000" in finding.message
    assert found(count(5_000_000), count(4_999_999)) == [(Kind.INSTRUCTIONS, Level.NOTE)]
    assert found(count(5_000_000), count(5_040_000), instructions=0.01) == []
    (finding,) = findings(count(5_000_000), count(9_000_000, runner="other"))
    assert (finding.kind, finding.level) == (Kind.NOT_COMPARED, Level.NOTE)
    assert "runner none before, other now" in finding.message


@pytest.mark.parametrize("name", ["accuracy", "instructions"])
def test_a_figure_that_is_no_longer_known_is_said_with_its_reason(name: str) -> None:
    after = working(**{name: None, "unavailable": {name: "there is no qemu"}})
    (finding,) = findings(working(), after)
    assert (finding.kind, finding.level) == (Kind.NOT_COMPARED, Level.WARNING)
    assert "there is no qemu" in finding.message
    assert found(working(**{name: None}), working()) == [(Kind.NOT_COMPARED, Level.NOTE)]


@pytest.mark.parametrize("name", ["accuracy", "instructions"])
def test_a_figure_that_is_asked_for_and_was_never_known_is_no_silence(name: str) -> None:
    after = working(**{name: None, "unavailable": {name: "there is no qemu"}})
    (finding,) = findings(working(**{name: None}), after)
    assert (finding.kind, finding.level) == (Kind.NOT_COMPARED, Level.WARNING)
    assert "there is no qemu" in finding.message
    assert finding.fix
    assert found(None, after) == [(Kind.NEW_CELL, Level.WARNING), (Kind.NOT_COMPARED, Level.WARNING)]


def test_instructions_are_not_asked_of_a_target_without_a_native_runner() -> None:
    after = working(cell(target="onnx"), instructions=None, unavailable={"instructions": "no runner of onnx"})
    assert found(after, after) == []


def test_a_cell_that_the_recipe_no_longer_has() -> None:
    baseline = Baseline(cells={"net/executorch/fp32": known(working()), "old/onnx/fp32": known(working())})
    (finding,) = gone(baseline, [cell()])
    assert (finding.kind, finding.level, finding.cell) == (Kind.GONE_CELL, Level.WARNING, "old/onnx/fp32")
    assert finding.fix


def test_cells_that_are_only_tried_elsewhere_are_told_once_a_target_and_are_not_gone() -> None:
    others = [cell(name, "coreml") for name in "abc"] + [cell("a", "openvino"), cell("new", "tensorrt")]
    names = [each.id for each in others[:4]]
    baseline = Baseline(cells={name: known(working()) for name in ("net/executorch/fp32", *names)})
    found = gone(baseline, [cell()], others)
    assert [(each.kind, each.level, each.cell) for each in found] == [
        (Kind.NOT_COMPARED, Level.WARNING, "a/coreml/fp32"),
        (Kind.NOT_COMPARED, Level.WARNING, "a/openvino/fp32"),
    ]
    assert "nor can 2 other cells of the baseline, as coreml is not installed" in found[0].message
    assert "as openvino is not installed: it stays as it is expected" in found[1].message
    assert all(each.fix for each in found)
