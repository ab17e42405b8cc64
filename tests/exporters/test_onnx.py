from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import onnxsim
import pytest
import torch
from torch import Tensor, nn

from deploy_kit.artifact import Artifact
from deploy_kit.errors import ExportError
from deploy_kit.exporters import onnx as target
from deploy_kit.exporters import onnx_file
from deploy_kit.exporters.onnx import Onnx, check, simplify
from deploy_kit.sources import load_model
from tests.support import TINY_SIZE, Bench, TwoInputs, export_to, load_tiny, random, tiny


def test_the_file_is_valid_and_its_operators_are_counted(tiny_onnx: Artifact) -> None:
    onnx.checker.check_model(str(tiny_onnx.main_file), full_check=True)
    assert tiny_onnx.manifest.operators["Conv"] == 2
    assert "BatchNormalization" not in tiny_onnx.manifest.operators
    assert tiny_onnx.manifest.proof.verified_by == f"onnxruntime {onnxruntime.__version__}"


def test_it_computes_what_the_model_computes(tiny_onnx: Artifact) -> None:
    image = torch.randn(1, 3, 32, 32)
    (output,) = onnxruntime.InferenceSession(tiny_onnx.main_file).run(["output"], {"input": image.numpy()})
    assert np.allclose(output, tiny()(image).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("opset", range(18, 24))
def test_every_opset_is_written_and_proven(opset: int, tmp_path: Path) -> None:
    artifact = export_to(tmp_path, load_tiny(), "onnx", opset=opset, simplify=False)
    versions = {entry.domain: entry.version for entry in onnx.load(artifact.main_file).opset_import}
    assert versions[""] == opset
    assert artifact.manifest.details["opset"] == opset
    assert artifact.manifest.proof.passed


def test_a_free_batch_takes_any_batch(tmp_path: Path) -> None:
    artifact = export_to(tmp_path, load_tiny(), "onnx", dynamic_batch=True, simplify=True)
    session = onnxruntime.InferenceSession(artifact.main_file)
    images = torch.randn(5, 3, 32, 32)
    for batch in (1, 3, 5):
        (output,) = session.run(None, {"input": images[:batch].numpy()})
        assert np.allclose(output, tiny()(images[:batch]).detach().numpy(), atol=1e-5)
    manifest = artifact.manifest
    assert [tensor.shape for tensor in (*manifest.inputs, *manifest.outputs)] == [[None, 3, 32, 32], [None, 10]]
    assert "noise, batch of 3" in [case.case for case in manifest.proof.cases]


class Apart(nn.Module):
    """Every image by itself; ``Mixed`` is the same for one image, and not for three."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) + 1


class Mixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) + x.mean((2, 3)).softmax(0) * x.shape[0]


def test_a_batch_that_is_computed_wrongly_is_caught(tmp_path: Path) -> None:
    apart, mixed = (load_model(model, input_size=TINY_SIZE) for model in (Apart(), Mixed()))
    wrong = export_to(tmp_path, mixed, "onnx", dynamic_batch=True, simplify=False)
    failures = Bench(apart, "onnx", dynamic_batch=True).prove(wrong.main_file).failures
    assert [failure.split(":")[0] for failure in failures] == ["noise, batch of 3"]


def test_inputs_and_outputs_keep_their_order(tmp_path: Path) -> None:
    model = random(TwoInputs())
    artifact = export_to(tmp_path, load_model(model, input_size="2x6,2x5"), "onnx", simplify=False)
    session = onnxruntime.InferenceSession(artifact.main_file)
    assert [given.name for given in session.get_inputs()] == ["input_0", "input_1"]
    x, y = torch.randn(2, 6), torch.randn(2, 5)
    total, others = model(x, y)
    outputs = session.run(None, {"input_0": x.numpy(), "input_1": y.numpy()})
    for output, expected in zip(outputs, (total, others["square"], others["x"]), strict=True):
        assert np.allclose(output, expected.detach().numpy(), atol=1e-5)


class Unexportable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x[:, 0]).real


def test_an_operator_without_an_onnx_form_is_named_with_its_source_line(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        export_to(tmp_path, load_model(Unexportable(), input_size="1x3x8x8"), "onnx")
    message = str(caught.value)
    assert message.startswith("Unexportable for onnx: ")
    assert "aten.linalg_eig" in message
    assert "test_onnx.py" in message
    assert "torch.linalg.eigvals(x[:, 0]).real" in message
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


class DataDependent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_control_flow_that_cannot_be_followed_is_named_with_its_source_line(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"test_onnx\.py.*if x\.sum\(\) > 0"):
        export_to(tmp_path, load_model(DataDependent(), input_size="1x3x8x8"), "onnx")


def test_whether_simplification_was_kept_is_recorded(tmp_path: Path) -> None:
    simplified = export_to(tmp_path, load_tiny(), "onnx").manifest.details["simplified"]
    assert isinstance(simplified["kept"], bool)
    assert simplified["reason"]
    assert simplified["time_ratio"] > 0


def forget_a_weight(file: str) -> tuple[onnx.ModelProto, bool]:
    model = onnx.load(file)
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
    return model, True


def fail(file: str) -> tuple[onnx.ModelProto, bool]:
    raise RuntimeError("onnxsim is unhappy")


@pytest.mark.parametrize(
    ("simplifier", "reason"),
    [
        (forget_a_weight, "its outputs differ"),
        (lambda file: (onnx.load(file), False), "could not confirm"),
        (fail, "onnxsim failed: onnxsim is unhappy"),
    ],
)
def test_a_simplification_that_is_wrong_is_not_kept(
    simplifier: Callable[[str], object],
    reason: str,
    tiny_onnx: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(tiny_onnx.main_file.read_bytes())
    monkeypatch.setattr(onnxsim, "simplify", simplifier)
    result = simplify(file, (torch.randn(1, 3, 32, 32),))
    assert result["kept"] is False
    assert reason in result["reason"]
    assert file.read_bytes() == tiny_onnx.main_file.read_bytes()


@pytest.mark.parametrize(("seconds", "kept"), [(2.0, False), (0.5, True)])
def test_a_simplification_is_kept_only_where_it_is_not_slower(
    seconds: float, kept: bool, tiny_onnx: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(tiny_onnx.main_file.read_bytes())
    measured = {"seconds": {"plain": [1.0], "simplified": [seconds]}, "difference": {"plain": 0, "simplified": 0.0}}
    monkeypatch.setattr(target, "work", lambda job: measured)
    monkeypatch.setattr(onnxsim, "simplify", lambda file: (onnx.helper.make_model(onnx.GraphProto()), True))
    assert simplify(file, (torch.randn(1, 3, 32, 32),))["kept"] is kept
    assert (file.read_bytes() != tiny_onnx.main_file.read_bytes()) == kept


def test_what_the_checker_refuses_is_an_error(tiny_onnx: Artifact, tmp_path: Path) -> None:
    model = onnx.load(tiny_onnx.main_file)
    model.graph.node[0].op_type = "Convolve"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="ONNX's checker refuses the file"):
        check(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed with SIGSEGV"),
        ("raise RuntimeError('no kernel for that')", "RuntimeError: no kernel for that"),
        ("print('rubbish')", "rubbish"),
    ],
)
def test_a_runtime_that_fails_is_an_error(
    script: str, message: str, tiny_onnx: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(script)
    monkeypatch.setattr(onnx_file, "WORKER", worker)
    with pytest.raises(ExportError, match=f"onnxruntime failed: .*{message}"):
        Onnx().run(tiny_onnx.main_file, [(torch.zeros(1, 3, 32, 32),)], Onnx.options_type(), {})


def test_a_runtime_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(onnx_file, "WORKER", worker)
    run = onnx_file.run_worker
    monkeypatch.setattr(onnx_file, "run_worker", lambda command, job, timeout: run(command, job, timeout=0.5))
    with pytest.raises(ExportError, match="still running"):
        onnx_file.work({"do": "run"})
