from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import deploy_kit
from deploy_kit import export, fuse, load_model, verify
from deploy_kit.artifact import Artifact
from deploy_kit.errors import ProofError, UserError
from deploy_kit.stages import Stages
from tests.support import TINY, TINY_SIZE, Tiny, TwoInputs, load_tiny, random


def test_importing_the_package_imports_no_torch() -> None:
    code = "import deploy_kit, sys; assert dir(deploy_kit); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_the_public_names_are_there() -> None:
    assert deploy_kit.__all__ == ["export", "fuse", "load_model", "verify"]
    with pytest.raises(AttributeError, match="bench_all"):
        deploy_kit.bench_all  # noqa: B018


def test_fuse_records_what_it_does_and_leaves_the_model_alone() -> None:
    loaded = load_tiny()
    before = {name: value.clone() for name, value in loaded.module.state_dict().items()}
    fused = fuse(loaded, "onnx")
    assert {rewrite.module for rewrite in fused.record.rewrites} >= {"bn", "local.conv", "norm"}
    assert fused.record.after.operator_count < fused.record.before.operator_count
    assert all(torch.equal(value, before[name]) for name, value in loaded.module.state_dict().items())
    image = torch.randn(1, 3, 32, 32)
    assert torch.allclose(fused.after.module(image), loaded.module(image), atol=1e-5)


def test_an_artifact_can_be_verified_later(tiny_onnx: Artifact) -> None:
    stages = Stages()
    proof = verify(tiny_onnx.folder, stages=stages)
    assert proof.passed
    assert [stage.name for stage in stages.finished] == [
        "check the files",
        "load the model",
        "compute the float64 reference",
        "prove",
    ]
    assert verify(tiny_onnx) == proof


def test_a_module_in_memory_is_exported_but_cannot_be_verified_later(tmp_path: Path) -> None:
    loaded = load_model(random(Tiny()), input_size=TINY_SIZE)
    artifact = export(loaded, "onnx", out=tmp_path, options={"simplify": False})
    assert artifact.folder == tmp_path / "Tiny" / "onnx"
    with pytest.raises(UserError, match="module in memory") as caught:
        verify(artifact)
    assert "package.module:callable" in caught.value.fix


def test_exporting_a_module_needs_its_input_size(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="input shape"):
        export(random(Tiny()), "onnx", out=tmp_path)


def test_weights_that_moved_are_found_by_verify(tmp_path: Path) -> None:
    checkpoint = tmp_path / "a.pth"
    torch.save(random(Tiny(), 4).state_dict(), checkpoint)
    loaded = load_model(TINY, input_size=TINY_SIZE, weights=checkpoint)
    artifact = export(loaded, "onnx", out=tmp_path, options={"simplify": False})
    moved = checkpoint.rename(tmp_path / "b.pth")
    with pytest.raises(UserError, match=r"a\.pth.* any more") as caught:
        verify(artifact)
    assert "--weights" in caught.value.fix
    assert verify(artifact, weights=moved).passed
    torch.save(random(Tiny(), 5).state_dict(), moved)
    with pytest.raises(UserError, match="not those that the artifact was made from"):
        verify(artifact, weights=moved)


def test_a_model_that_changed_since_is_noticed(tiny_onnx: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.tiny", lambda: random(Tiny(), 9))
    with pytest.raises(UserError, match="not those that the artifact was made from"):
        verify(tiny_onnx)


def test_a_model_whose_code_changed_since_fails_the_proof(tiny_onnx: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are the same, the function is not."""

    class Other(Tiny):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.flip(1))

    monkeypatch.setattr("tests.support.tiny", lambda: random(Other()))
    with pytest.raises(ProofError, match="does not compute what the model computes"):
        verify(tiny_onnx)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("onix", {}, "no target called 'onix'"),
        ("onnx", {"opzet": 20}, "no option of the target onnx called 'opzet'"),
        ("onnx", {"opset": 12}, "--opset 12"),
        ("onnx", {"opset": "new"}, "--opset 'new'"),
        ("torchscript-lite", {"bytecode_version": 3}, "--bytecode-version 3"),
    ],
)
def test_wrong_targets_and_options_are_the_users_error(target: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fuse(TINY, target, options)


def test_several_inputs_and_outputs_are_named_in_order(tmp_path: Path) -> None:
    artifact = export(load_model(random(TwoInputs()), input_size="1x6,1x5"), "onnx", out=tmp_path)
    assert [tensor.name for tensor in artifact.manifest.inputs] == ["input_0", "input_1"]
    assert [tensor.name for tensor in artifact.manifest.outputs] == ["output_0", "output_1", "output_2"]
    assert artifact.manifest.preprocessing is None
    assert {case.kind for case in artifact.manifest.proof.cases} == {"noise"}


@pytest.mark.parametrize("seed", range(3))
def test_a_right_artifact_passes_with_room_whatever_its_weights(seed: int, tmp_path: Path) -> None:
    proof = export(load_tiny(seed), "onnx", out=tmp_path, options={"simplify": False}).manifest.proof
    assert proof.noise_ratio is not None
    assert proof.noise_ratio < 10


def test_stages_tell_when_they_begin_and_end_even_when_they_fail() -> None:
    events: list[str] = []
    stages = Stages(events.append, lambda stage: events.append(f"{stage.name} over"))
    with pytest.raises(ValueError, match="x"), stages.stage("work"):
        raise ValueError("x")
    assert events == ["work", "work over"]
    assert stages.finished[0].seconds >= 0
