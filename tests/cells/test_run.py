from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deploy_kit.api import parse_options
from deploy_kit.artifact import open_artifact
from deploy_kit.cells import run, worker
from deploy_kit.cells.recipe import CellSpec, ModelOptions
from deploy_kit.cells.run import run_cell
from deploy_kit.exporters import get_exporter
from deploy_kit.outcome import Outcome
from deploy_kit.stages import Stages
from tests.support import TINY, TINY_SIZE, TOKENS, TOKENS_SIZE, load_tiny

TINY_CELL = CellSpec(model=TINY, target="onnx", precision="fp32", of_model=ModelOptions(input_size=TINY_SIZE))


def test_a_cell_is_exported_proven_and_asked(tmp_path: Path) -> None:
    loaded = load_tiny()
    inputs = torch.randn(6, 3, 32, 32)
    labels = loaded.module(inputs).argmax(1)
    labels[0] = (labels[0] + 1) % 10
    save_file({"inputs": inputs, "labels": labels}, tmp_path / "data.safetensors")
    result = run_cell(TINY_CELL, tmp_path / "cell", limit=300, accuracy=tmp_path / "data.safetensors")
    artifact = open_artifact(tmp_path / "cell")
    assert (result.outcome, result.reason, result.cell) == (Outcome.OK, None, TINY_CELL)
    assert result.bytes == artifact.size
    assert result.sha256 == artifact.manifest.files[0].sha256
    assert result.snr_db is not None
    assert result.snr_db > 80
    assert result.operators == artifact.manifest.operators
    assert result.accuracy is not None
    assert (result.accuracy.right, result.accuracy.total) == (5, 6)
    assert result.peak_kb is not None
    assert result.seconds > sum(result.stages.values()) > 0
    assert "prove" in result.stages


def test_a_cell_may_take_integers(tmp_path: Path) -> None:
    cell = TINY_CELL.model_copy(update={"model": TOKENS, "of_model": ModelOptions(input_size=TOKENS_SIZE)})
    result = run_cell(cell, tmp_path / "cell", limit=300)
    assert (result.outcome, result.reason) == (Outcome.OK, None)
    assert open_artifact(tmp_path / "cell").manifest.model.input_size == TOKENS_SIZE
    small = cell.model_copy(update={"of_model": ModelOptions(input_size="1x12:int64:51")})
    assert "values of 0 to 50: IndexError" in (run_cell(small, tmp_path / "small", limit=300).reason or "")


def test_a_failure_is_a_result_and_leaves_no_folder(tmp_path: Path) -> None:
    cell = TINY_CELL.model_copy(update={"model": "tests.support:no_such_model"})
    result = run_cell(cell, tmp_path / "cell", limit=300)
    assert result.outcome == Outcome.EXPORT_FAILED
    assert "no_such_model" in (result.reason or "")
    assert not result.works
    assert not (tmp_path / "cell").exists()


@pytest.mark.parametrize(
    ("program", "limit", "outcome", "reason"),
    [
        ("import os; os.abort()", 300, Outcome.CRASHED, "SIGABRT"),
        ("raise MemoryError('no more')", 300, Outcome.CRASHED, "MemoryError: no more"),
        ("import time; time.sleep(600)", 1, Outcome.TOO_SLOW, "not done after 1 s"),
    ],
)
def test_what_crashes_or_hangs_is_a_result(
    program: str, limit: int, outcome: Outcome, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "WORKER", ("-c", program))
    monkeypatch.setattr(run, "GRACE", 0)
    result = run_cell(TINY_CELL, tmp_path / "cell", limit=limit)
    assert result.outcome == outcome
    assert reason in (result.reason or "")
    assert not (tmp_path / "cell").exists()


def test_temporary_files_go_where_the_caller_can_sweep_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "WORKER", ("-c", "import sys, tempfile; sys.exit(tempfile.gettempdir() + sys.argv[1])"))
    (tmp_path / "work").mkdir()
    result = run_cell(TINY_CELL, tmp_path / "cell", limit=300, scratch=tmp_path / "work")
    assert (result.reason or "").count(f"{tmp_path}/work/") == 2  # its own, and those of its job
    assert list((tmp_path / "work").iterdir()) == []


def test_a_cell_ends_itself_at_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hangs.py").write_text("import time\n\ndef build():\n    time.sleep(600)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "GRACE", 300)
    result = run_cell(TINY_CELL.model_copy(update={"model": "hangs:build"}), tmp_path / "cell", limit=1)
    assert (result.outcome, result.reason) == (Outcome.TOO_SLOW, "not done after 1 s")
    assert result.toolchain  # which the cell itself says
    assert not (tmp_path / "cell").exists()


def test_what_was_asked_for_and_is_not_known_has_its_reason(tmp_path: Path) -> None:
    save_file({"pictures": torch.zeros(1)}, tmp_path / "data.safetensors")
    result = run_cell(
        TINY_CELL, tmp_path / "cell", limit=300, accuracy=tmp_path / "data.safetensors", instructions=True
    )
    assert result.outcome == Outcome.OK
    assert (result.accuracy, result.instructions) == (None, None)
    assert "'inputs' and 'labels'" in result.unavailable["accuracy"]
    assert "no native runner called 'onnx'" in result.unavailable["instructions"]


def test_what_a_model_computes_is_computed_once_for_all_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter, loaded = get_exporter("onnx"), load_tiny()
    options = parse_options(exporter, {})
    first = worker.references(loaded, exporter, options, tmp_path / "tiny.pt", Stages())
    monkeypatch.setattr(worker, "expect", lambda *_: pytest.fail("it is known"))
    again = worker.references(loaded, exporter, options, tmp_path / "tiny.pt", Stages())
    assert first is not None
    assert again is not None
    assert [(case.name, case.kind) for case in again.cases] == [(case.name, case.kind) for case in first.cases]
    for one, other in zip(first.references, again.references, strict=True):
        assert torch.equal(one.exact[0], other.exact[0])
        assert torch.equal(one.eager[0], other.eager[0])
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.pt"]
    int8 = parse_options(exporter, {"precision": "int8"})
    assert worker.references(loaded, exporter, int8, tmp_path / "tiny.pt", Stages()) is None
