"""``bisect`` names the first module that is wrong, or says that none is."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest

from deploy_kit.api import export
from deploy_kit.artifact import Artifact, open_artifact
from deploy_kit.bisect import bisect
from deploy_kit.cli import main
from deploy_kit.exporters import onnx as onnx_target
from deploy_kit.fusion import PASSES, Pass
from deploy_kit.manifest import MANIFEST
from deploy_kit.sources import load_model
from tests.parity.test_locate import after, forget_the_square_root, spoil_the_head
from tests.support import TINY, TINY_SIZE, export_to, load_tiny


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    loaded = load_model(TINY, input_size=TINY_SIZE)
    return export_to(tmp_path_factory.mktemp("bisect"), loaded, "onnx", simplify=False)


@pytest.fixture
def wrong(artifact: Artifact, tmp_path: Path) -> Path:
    return with_the_file_of_another_model(artifact, tmp_path)


def with_the_file_of_another_model(artifact: Artifact, tmp_path: Path, **options: object) -> Path:
    """A copy of an artifact, and a manifest that vouches for what is in it."""
    folder = Path(shutil.copytree(artifact.folder, tmp_path / "wrong"))
    other = export_to(tmp_path / "other", load_tiny(seed=1), "onnx", simplify=False, **options)
    shutil.copy(other.main_file, folder / artifact.main_file.name)
    manifest = json.loads((folder / MANIFEST).read_text())
    for record in manifest["files"]:
        content = (folder / record["path"]).read_bytes()
        record.update(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def test_nothing_diverges_where_the_artifact_is_right(artifact: Artifact) -> None:
    found = bisect(artifact.folder)
    assert (found.proof.passed, found.diverges_at, found.taps) == (True, None, [])
    assert found.verdict.startswith("nothing diverges: the artifact is proven by onnxruntime")


def test_a_file_that_the_exporter_would_not_write_now_is_told_apart(wrong: Path) -> None:
    found = bisect(wrong)
    assert not found.proof.passed
    assert found.diverges_at is None
    assert "the artifact's own file is not what was exported" in found.verdict


def test_the_first_wrong_module_of_an_exporter_is_named(wrong: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_target, "convert", spoil_the_head(onnx_target.convert))
    found = bisect(open_artifact(wrong))
    assert found.diverges_at == "head"
    *right, last = found.taps
    assert (last.module, last.operator) == ("head", "linear")
    assert last.failure is not None
    assert right
    assert not any(tap.failure for tap in right)
    assert max(tap.comparison.noise_ratio or 0 for tap in right) < 20


def test_a_wrong_pass_is_named(wrong: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "affine_into_neighbours"
    monkeypatch.setitem(PASSES, name, Pass(name, after(name, forget_the_square_root)))
    assert bisect(wrong).diverges_at == f"the pass {name}, at bn"


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_first_wrong_module_of_a_reduced_precision_is_named(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(TINY, input_size=TINY_SIZE)
    right = export_to(tmp_path / "right", loaded, "onnx", simplify=False, precision=precision)
    assert bisect(right).verdict.startswith("nothing diverges: the artifact is proven by onnxruntime")
    wrong = with_the_file_of_another_model(right, tmp_path, precision=precision)
    assert "the artifact's own file is not what was exported" in bisect(wrong).verdict
    monkeypatch.setattr(onnx_target, "convert", spoil_the_head(onnx_target.convert))
    found = bisect(wrong)
    assert found.verdict == "it diverges at head"
    *rest, last = found.taps
    assert (last.module, last.operator) == ("head", "linear")
    assert "PyTorch's in the same precision" in (last.failure or "")
    assert rest
    assert not any(tap.failure for tap in rest)


def test_a_precision_that_costs_too_much_is_no_divergence(tmp_path: Path) -> None:
    options = {"precision": "int8", "simplify": False}
    loaded = load_model("tests.exporters.test_precision:fragile", input_size=TINY_SIZE)
    found = bisect(export(loaded, "onnx", out=tmp_path, options=options, allow_lossy=True))
    assert not found.proof.passed
    assert (found.diverges_at, found.taps) == (None, [])
    assert re.fullmatch(r"nothing diverges: .* keeps [\d.]+ dB, and PyTorch [\d.]+ dB in .*", found.verdict)


def test_the_command_says_so_and_fails(
    wrong: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["deploykit", "bisect", str(artifact.folder)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "nothing diverges" in capsys.readouterr().out
    monkeypatch.setattr(onnx_target, "convert", spoil_the_head(onnx_target.convert))
    monkeypatch.setattr("sys.argv", ["deploykit", "bisect", str(wrong), "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert json.loads(capsys.readouterr().out)["diverges_at"] == "head"
