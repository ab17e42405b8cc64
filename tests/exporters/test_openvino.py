from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from deploy_kit.artifact import Artifact, open_artifact
from deploy_kit.capture import capture
from deploy_kit.errors import ExportError, MissingDependencyError
from deploy_kit.exporters import openvino as target
from deploy_kit.exporters.base import Options
from deploy_kit.exporters.openvino import FILE, OpenVINO
from deploy_kit.outcome import Outcome
from deploy_kit.sources import load_model
from deploy_kit.stages import Stages
from tests.support import TINY, TINY_SIZE, Bench, TwoInputs, export_to, load_tiny, once, random


@pytest.fixture(scope="session")
def installed() -> None:
    pytest.importorskip("openvino", reason=f"openvino is not installed: {target.INSTALL}")


@pytest.fixture(scope="session")
def artifact(installed: None, shared: Path) -> Artifact:
    loaded = load_model(TINY, input_size=TINY_SIZE)
    folder = once(shared, "openvino", lambda out: export_to(out, loaded, "openvino"))
    return open_artifact(folder / "tests.support.tiny" / "openvino")


def test_it_is_proven_in_openvino(artifact: Artifact) -> None:
    manifest = artifact.manifest
    assert manifest.outcome == Outcome.OK
    assert manifest.proof.verified_by == f"openvino {target.find_openvino()} (CPU, f32)"
    assert {file.path for file in manifest.files} == {"model.xml", "model.bin"}
    assert manifest.operators["Convolution"] + manifest.operators["GroupConvolution"] == 2
    assert "openvino" in manifest.toolchain


def test_another_model_s_file_fails_the_proof(artifact: Artifact) -> None:
    assert Bench(load_tiny(), "openvino").prove(artifact.main_file).passed
    assert not Bench(load_tiny(seed=1), "openvino").prove(artifact.main_file).passed


def test_several_inputs_and_outputs_keep_their_order(installed: None, tmp_path: Path) -> None:
    loaded = load_model(random(TwoInputs()), input_size="2x6,2x5")
    assert export_to(tmp_path, loaded, "openvino").manifest.proof.passed


def test_a_damaged_file_is_one_that_cannot_be_loaded(installed: None, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("<net>")
    with pytest.raises(ExportError, match="cannot be loaded") as error:
        OpenVINO().run(tmp_path / FILE, [(torch.zeros(1, 3, 32, 32),)], Options(), {})
    assert error.value.outcome == Outcome.LOAD_FAILED


def test_a_worker_that_crashes_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text("import os; os.kill(os.getpid(), 11)")
    monkeypatch.setattr(target, "WORKER", worker)
    monkeypatch.setattr(target, "find_openvino", lambda: "2026.4")
    graph = capture(nn.Linear(2, 2).eval(), (torch.randn(1, 2),))
    with pytest.raises(ExportError, match=r"could not convert the model: .*SIGSEGV") as error:
        OpenVINO().export(graph, tmp_path, Options(), Stages())
    assert error.value.outcome == Outcome.LOWER_FAILED


def test_without_openvino_the_command_for_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(target, "find_openvino", lambda: None)
    (need,) = OpenVINO().requirements()
    assert (need.found, need.install) == (None, "pip install 'deploy-kit[openvino]'")
    graph = capture(nn.Linear(2, 2).eval(), (torch.randn(1, 2),))
    with pytest.raises(MissingDependencyError, match="openvino") as error:
        OpenVINO().export(graph, tmp_path, Options(), Stages())
    assert error.value.outcome == Outcome.UNAVAILABLE
    with pytest.raises(MissingDependencyError):
        OpenVINO().run(tmp_path / FILE, [], Options(), {})
