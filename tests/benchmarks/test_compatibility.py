from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy_kit.benchmarks.suites import compatibility as suite
from deploy_kit.benchmarks.suites.compatibility import Cell
from deploy_kit.cells.recipe import CellSpec
from deploy_kit.cells.result import CellResult
from deploy_kit.errors import UserError
from deploy_kit.exporters import get_exporter
from deploy_kit.exporters.base import Requirement
from deploy_kit.models import get_architecture, list_models, smallest_models
from deploy_kit.outcome import Outcome

OLD = Cell("edgevit_xxs", "coreml", "ok", 61.0, None, None, "2026-01-02", (("coremltools", "8.0"), ("torch", "2.13.0")))
FAILED = Cell("edgevit_xxs", "onnx", "lower_failed", reason="no Einsum", date="2026-01-02")


@pytest.mark.slow
def test_a_run_keeps_what_it_did_not_try_and_writes_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite.write_docs([OLD, FAILED], tmp_path)
    page = tmp_path / "compatibility.md"
    page.write_text(page.read_text() + "A note of a person's.\n")
    given = ["--models", "edgevit_digits", "--targets", "onnx", "--docs", str(tmp_path), "--json"]
    assert suite.main(given) == 0
    (cell,) = json.loads(capsys.readouterr().out)
    assert (cell["model"], cell["target"], cell["outcome"]) == ("edgevit_digits", "onnx", "ok")
    assert cell["snr_db"] > 80
    assert dict(cell["versions"]).keys() >= {"deploykit", "torch", "onnxruntime"}
    known = suite.read_cells(tmp_path)
    assert known[:2] == [OLD, FAILED]
    text = page.read_text()
    assert "| model | coreml | onnx |" in text
    assert "| `edgevit_xxs` | ok, 61 dB | lower_failed (1) |" in text
    assert f"| `edgevit_digits` | not tried | ok, {cell['snr_db']:.0f} dB |" in text
    assert "1. `edgevit_xxs`, `onnx`: no Einsum" in text
    assert "- `coreml`: 2026-01-02; coremltools 8.0, torch 2.13.0" in text
    assert text.startswith("# Compatibility")
    assert text.endswith("A note of a person's.\n")


def test_a_reason_is_one_line_without_this_machine_s_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path(suite.__file__).resolve().parents[2]
    reason = f"edgevit_xs for onnx: no form of Einsum\n  ({here}/models/edgevit.py, line 7)"

    def run(cell: CellSpec, *_: object, **__: object) -> CellResult:
        return CellResult(cell=cell, outcome=Outcome.EXPORT_FAILED, reason=reason, seconds=1.0, created="")

    monkeypatch.setattr(suite, "run_cell", run)
    cell = suite.measure("edgevit_xs", "onnx", 5, tmp_path)
    assert (cell.outcome, cell.reason) == ("export_failed", "no form of Einsum (models/edgevit.py, line 7)")


def test_a_failed_export_is_a_cell_and_an_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suite, "measure", lambda model, target, limit, scratch: FAILED)
    given = ["--models", "edgevit_xxs", "--targets", "onnx", "--docs", str(tmp_path)]
    assert suite.main(given) == 1
    assert "no Einsum" in capsys.readouterr().out
    assert suite.read_cells(tmp_path) == [FAILED]


@pytest.mark.parametrize(
    ("known", "code"),
    [([FAILED], 0), ([], 1), ([Cell("edgevit_xxs", "onnx", "ok")], 1), ([Cell("edgevit_xxs", "onnx", "lossy")], 1)],
)
def test_a_check_fails_where_an_outcome_is_worse_than_known_and_writes_nothing(
    known: list[Cell], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "measure", lambda model, target, limit, scratch: FAILED)
    suite.write_docs(known, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    given = ["--models", "edgevit_xxs", "--targets", "onnx", "--docs", str(tmp_path), "--check"]
    assert suite.main(given) == code
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_the_smallest_of_each_family_come_first_and_whatever_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def measure(model: str, target: str, limit: int, scratch: Path) -> Cell:
        tried.append(model)
        return Cell(model, target, "ok")

    monkeypatch.setattr(suite, "measure", measure)
    given = ["--models", "edgevit_s", "edgevit_xxs", "levit_256", "levit_128s", "--targets", "onnx"]
    assert suite.main([*given, "--docs", str(tmp_path)]) == 0
    assert tried == ["edgevit_xxs", "levit_128s", "edgevit_s", "levit_256"]
    tried.clear()
    monkeypatch.setattr(suite.time, "monotonic", iter(range(0, 1000, 10)).__next__)
    assert suite.main([*given, "--docs", str(tmp_path), "--budget", "5"]) == 0
    assert tried == ["edgevit_xxs", "levit_128s"]


def test_a_run_goes_on_with_what_has_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def measure(model: str, target: str, limit: int, scratch: Path) -> Cell:
        tried.append(model)
        return Cell(model, target, "ok")

    monkeypatch.setattr(suite, "measure", measure)
    suite.write_docs([Cell("edgevit_xxs", "onnx", "ok")], tmp_path)
    given = ["--models", "edgevit_s", "edgevit_xxs", "--targets", "onnx", "--docs", str(tmp_path), "--missing"]
    assert suite.main(given) == 0
    assert tried == ["edgevit_s"]


def test_new_cells_take_the_place_of_old_ones_in_the_order_of_the_models() -> None:
    new = Cell("edgevit_xxs", "onnx", "ok", 120.0)
    other = Cell("edgevit_s", "onnx", "ok", 119.0)
    gone = Cell("a_model_that_was_removed", "onnx", "ok", 1.0)
    assert suite.merge([gone, other, FAILED, OLD], [new]) == [OLD, new, other]


def test_versions_and_dates_that_differ_are_both_there() -> None:
    newer = Cell("edgevit_xs", "coreml", "ok", 60.0, None, None, "2026-03-04", (("coremltools", "9.0"),))
    assert "- `coreml`: 2026-01-02 to 2026-03-04; coremltools 8.0 and 9.0, torch 2.13.0" in suite.render([OLD, newer])


def test_what_nothing_here_can_run_has_the_figure_of_its_source() -> None:
    cell = Cell("edgevit_xs", "tensorrt", "emitted_unverified", 126.4, 0.97)
    assert suite.describe(cell) == "emitted_unverified, 126 dB of its source, 97% delegated"


def test_the_smallest_of_each_family_are_one_of_each_file_and_task() -> None:
    chosen = smallest_models(list_models())
    assert {"edgevit_xxs", "flatformer", "efficientvit_m0"} <= set(chosen)
    assert not {"edgevit_xs", "edgevit_s"} & set(chosen)
    assert {get_architecture(name).build.__module__ for name in chosen} == {
        get_architecture(name).build.__module__ for name in list_models()
    }


def test_targets_that_lack_something_are_left_out_or_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = [Requirement("openvino", None, "the proof", "pip install openvino")]
    monkeypatch.setattr(type(get_exporter("openvino")), "requirements", lambda self: missing)
    assert "openvino" not in suite.installed(None)
    assert "onnx" in suite.installed(None)
    with pytest.raises(UserError, match="needs openvino") as caught:
        suite.installed(["openvino"])
    assert caught.value.fix == "pip install openvino"


def test_a_page_without_markers_and_damaged_cells_are_errors_that_change_nothing(tmp_path: Path) -> None:
    page, data = tmp_path / "compatibility.md", tmp_path / "compatibility.json"
    page.write_text("my own page\n")
    with pytest.raises(UserError, match="has no line"):
        suite.write_docs([OLD], tmp_path)
    assert page.read_text() == "my own page\n"
    assert not data.exists()
    data.write_text('[{"model": "edgevit_xxs"}]')
    with pytest.raises(UserError, match="is damaged"):
        suite.read_cells(tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        suite.read_cells(tmp_path / "nowhere")
