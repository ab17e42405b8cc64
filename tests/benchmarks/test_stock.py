from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from deploy_kit.benchmarks.suites import stock as suite
from deploy_kit.benchmarks.suites.stock import Cell
from deploy_kit.benchmarks.timing import Ratio, Timing
from deploy_kit.errors import MissingDependencyError, UserError
from deploy_kit.exporters.mobile import interpreter

TIMINGS = {"torch.onnx.export": Timing(8.0, 7.9, 8.1, 100), "deploykit": Timing(4.0, 3.9, 4.2, 100)}


def cell(model: str, times: float) -> Cell:
    faster = {"torch.onnx.export": Ratio(times, times - 0.1, times + 0.1)}
    return Cell(model, "onnx", "timm's", TIMINGS, faster, dict.fromkeys(TIMINGS, 12.0), {"deploykit": None})


def test_what_is_done_is_kept_and_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results, done = tmp_path / "results.json", []

    def contest(model: str, target: str, folder: Path, processes: int, iterations: int, **job: object) -> Cell:
        done.append((model, target))
        return cell(model, 2.0 if model == "levit_128s" else 8.0)

    monkeypatch.setattr(suite, "contest", contest)
    given = ["--targets", "onnx", "--results", str(results), "--models", "levit_128s"]
    assert suite.main(given) == 0
    assert suite.main([*given, "deit_tiny"]) == 0
    assert done == [("levit_128s", "onnx"), ("deit_tiny", "onnx")]
    assert suite.read_cells(results) == [cell("levit_128s", 2.0), cell("deit_tiny", 8.0)]
    printed = capsys.readouterr().out
    means = [line for line in printed.splitlines() if "geometric mean" in line]
    assert "4.00" in means[-1]  # of 2 and 8


@pytest.mark.parametrize("text", ["", "{}x", '{"a": "b"}', '[{"target": "onnx"}]', "[1]"])
def test_results_of_something_else_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(UserError, match="no results of this suite"):
        suite.read_cells(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("model", "form"),
    [
        ("edgevit_xxs", "ours, as written"),
        ("levit_128s", "timm's levit_128s.fb_dist_in1k"),
        ("efficientvit_b0", "timm's efficientvit_b0"),
        ("poolformer_s12", "timm's poolformer_s12"),
    ],
)
def test_the_stock_export_is_of_the_published_form(model: str, form: str) -> None:
    try:
        official, named = suite.published_form(model)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    assert named == form
    assert type(official).__module__.startswith("deploy_kit" if form.startswith("ours") else "timm")


@pytest.mark.slow
@pytest.mark.parametrize("target", suite.STOCK)
def test_a_contest_is_timed_in_the_target_s_runtime(target: str, tmp_path: Path) -> None:
    result = suite.contest("efficientvit_m0", target, tmp_path, processes=2, iterations=3)
    assert set(result.timings) == {*result.faster, "deploykit"}
    assert all(timing.samples == 6 and timing.median_ms > 0 for timing in result.timings.values())
    assert set(result.seconds) == set(result.timings)


def test_subgraphs_are_said_where_there_are_delegates(capsys: pytest.CaptureFixture[str]) -> None:
    timings = {"stock": TIMINGS["torch.onnx.export"], "deploykit": TIMINGS["deploykit"]}
    placements = {"stock": {"subgraphs": 80}, "deploykit": {"subgraphs": 1}}
    seconds = {"stock": 33.3, "deploykit": 11.1}
    suite.report([Cell("m", "executorch", "timm's", timings, {"stock": Ratio(2, 2, 2)}, seconds, placements)])
    (row,) = [line.split() for line in capsys.readouterr().out.splitlines() if "33.3" in line]
    assert row == ["m", "33.3", "11.1", "80", "1"]


def test_without_a_mobile_interpreter_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(interpreter.VARIABLE, raising=False)
    monkeypatch.setattr(interpreter, "_system_pythons", lambda: iter(()))
    with pytest.raises(UserError, match="needs a mobile interpreter") as caught:
        suite.lite(nn.Linear(2, 2), (torch.zeros(1, 2),), tmp_path)
    assert "apt-get install" in caught.value.fix
