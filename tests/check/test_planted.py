"""The suite of planted regressions, with checks that are made up; the real ones are slow."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from deploy_kit.benchmarks.suites import planted_regressions as suite
from deploy_kit.benchmarks.suites.planted_regressions import PLANTS, Plant, Row
from deploy_kit.cells.recipe import Tolerances, read_recipe
from deploy_kit.cells.result import CellResult, InstructionCount, Score
from deploy_kit.check.baseline import Baseline
from deploy_kit.check.compare import compare_cell, gone
from deploy_kit.check.findings import CheckReport, Finding, Kind, Level
from deploy_kit.errors import DeployKitError
from deploy_kit.outcome import Outcome
from tests.check.fakes import PINS, cell, checked, failing, known, report, working

CHANGED: dict[Kind, tuple[CellResult | None, CellResult]] = {
    Kind.WORKS_TO_FAILS: (working(), failing(Outcome.MISMATCH)),
    Kind.FAILS_TO_WORKS: (failing(), working()),
    Kind.FAILS_OTHERWISE: (failing(), failing(Outcome.TOO_SLOW)),
    Kind.NEW_CELL: (None, working()),
    Kind.UNDELEGATED: (working(), working(undelegated={"aten.sin.default": 2})),
    Kind.SIZE: (working(), working(bytes=1_100_000)),
    Kind.ERROR: (working(), working(noise_ratio=15.0)),
    Kind.ACCURACY: (working(), working(accuracy=Score(right=80, total=100))),
    Kind.INSTRUCTIONS: (working(), working(instructions=InstructionCount(count=5_500_000, pins=PINS))),
    Kind.NOT_COMPARED: (working(), working(accuracy=None)),
}


@pytest.mark.parametrize("kind", CHANGED)
def test_each_kind_is_found_as_itself_and_no_other(kind: Kind) -> None:
    before, after = CHANGED[kind]
    found = compare_cell(None if before is None else known(before), after, Tolerances())
    assert [finding.kind for finding in found] == [kind]
    assert found[0].level != Level.NOTE
    assert found[0].fix


def test_what_is_gone_is_found_as_itself() -> None:
    assert [each.kind for each in gone(Baseline(cells={"a/b/fp32": known(working())}), [])] == [Kind.GONE_CELL]


def test_every_kind_that_a_change_can_have_is_planted() -> None:
    assert {plant.kind for plant in PLANTS} == set(Kind) - {Kind.NOT_COMPARED}
    assert len({plant.name for plant in PLANTS}) == len(PLANTS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    suite.train(folder)
    return folder


@pytest.fixture
def scratch(trained: Path, tmp_path: Path) -> Path:
    """A folder of a test's own: projects stay in it."""
    return shutil.copytree(trained, tmp_path / "scratch")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_model_is_worth_asking(trained: Path) -> None:
    from safetensors.torch import load_file

    names: dict[str, Any] = {}
    exec(suite.MODEL, names)
    net: nn.Module = names["net"]()
    net.load_state_dict(torch.load(trained / suite.WEIGHTS, weights_only=True))
    data = load_file(trained / suite.DATA)
    right = (net(data["inputs"]).argmax(1) == data["labels"]).float().mean().item()
    assert right > 0.9


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_each_plant_changes_the_project(plant: Plant, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    suite.project(folder, trained, [plant.target], plant.precision, plant.asks, plant.instructions)
    plant.before(folder)
    recipe = read_recipe(folder / suite.RECIPE)
    assert f"planted:net/{plant.target}/{plant.precision}" in {each.id for each in recipe.cells()}
    before = contents(folder)
    plant.change(folder)
    assert contents(folder) != before
    compile(contents(folder)["planted.py"], "planted.py", "exec")


def a_finding(kind: Kind, level: Level = Level.ERROR) -> Finding:
    return Finding(kind=kind, level=level, cell=cell().id, message="it differs")


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[list[Finding]]:
    """What the next checks find; one that writes a baseline finds nothing."""
    findings: list[list[Finding]] = []

    def check(folder: Path, cache: Path, *options: str) -> CheckReport:
        found = [] if "--update-baseline" in options else findings.pop(0)
        return report(checked(working(), *found))

    monkeypatch.setattr(suite, "check", check)
    return findings


SIZE = next(plant for plant in PLANTS if plant.kind == Kind.SIZE)


@pytest.mark.parametrize(
    ("found", "right"),
    [
        ([a_finding(Kind.SIZE)], True),
        ([a_finding(Kind.SIZE), a_finding(Kind.ACCURACY, Level.NOTE)], True),
        ([], False),
        ([a_finding(Kind.ERROR)], False),
        ([a_finding(Kind.SIZE), a_finding(Kind.ERROR)], False),
        ([a_finding(Kind.SIZE, Level.NOTE)], False),
    ],
)
def test_a_plant_is_found_where_its_kind_alone_is(
    found: list[Finding], right: bool, checks: list[list[Finding]], trained: Path
) -> None:
    checks.append(found)
    row = suite.planted(SIZE, trained)
    assert row.right is right
    assert not (trained / "project").exists()


def run(monkeypatch: pytest.MonkeyPatch, rows: Sequence[bool | None], greens: Sequence[bool]) -> int:
    def row(right: bool | None) -> Row:
        return Row("p", "size", [], [], right, "", 1.0)

    given, others = iter(rows), iter(greens)
    monkeypatch.setattr(suite, "train", lambda folder: None)
    monkeypatch.setattr(suite, "planted", lambda plant, folder: row(next(given)))
    monkeypatch.setattr(suite, "unchanged", lambda targets, folder, first: row(next(others)))
    names = [plant.name for plant in PLANTS[: len(rows)]]
    return suite.main(["--json", "--unchanged", str(len(greens)), "--plants", *names])


@pytest.mark.parametrize(
    ("rows", "greens", "code"),
    [
        ([True, True], [True, True], 0),
        ([True, None], [True], 0),
        ([True, False], [True], 1),
        ([True], [True, False], 1),
        ([], [], 0),
    ],
)
def test_one_that_was_not_found_fails_the_suite(
    rows: list[bool | None],
    greens: list[bool],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, rows, greens) == code
    document = json.loads(capsys.readouterr().out)
    assert document["passed"] is (code == 0)
    assert [row["right"] for row in document["planted"]] == rows
    assert [row["right"] for row in document["unchanged"]] == greens


def test_an_unchanged_check_finds_nothing(checks: list[list[Finding]], scratch: Path) -> None:
    checks += [[a_finding(Kind.LATENCY, Level.NOTE)], [a_finding(Kind.LATENCY)]]
    assert suite.unchanged(["onnx"], scratch, first=True).right is True
    assert suite.unchanged(["onnx"], scratch, first=False).right is False


def test_a_check_that_breaks_is_no_result(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setattr(suite, "COMMAND", (sys.executable, "-c", "raise SystemExit('no such recipe')"))
    with pytest.raises(DeployKitError, match="the check ended with 1: no such recipe"):
        suite.check(tmp_path, tmp_path)
    (tmp_path / "unchanged").mkdir()
    for row in (suite.planted(SIZE, trained), suite.unchanged(["onnx"], tmp_path, first=False)):
        assert row.right is False
        assert "no such recipe" in row.told


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Kind.UNDELEGATED, Kind.SIZE, Kind.LATENCY])
def test_real_regressions_are_found(kind: Kind, trained: Path) -> None:
    plant = next(plant for plant in PLANTS if plant.kind == kind)
    row = suite.planted(plant, trained)
    assert (row.right, row.told) == (True, row.told)


@pytest.mark.slow
def test_a_real_project_that_has_not_changed_is_green(scratch: Path) -> None:
    rows = [suite.unchanged(["onnx"], scratch, first=first) for first in (True, False)]
    assert [row.found for row in rows] == [[], []]
