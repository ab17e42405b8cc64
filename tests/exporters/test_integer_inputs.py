"""A model that takes indices, on every target: proven on valid ones, with the types that the artifact takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from deploy_kit.api import export, reload_model, verify
from deploy_kit.bisect import bisect
from deploy_kit.exporters import get_exporter
from deploy_kit.manifest import Manifest
from deploy_kit.outcome import Outcome
from deploy_kit.parity.proof import Proof
from deploy_kit.sources import LoadedModel, load_model
from tests.support import TOKENS, TOKENS_SIZE, random


class Picked(nn.Module):
    """A layer on some rows, with what a table says of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.table = nn.Linear(16, 16), nn.Embedding(8, 16)

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        return self.layer(x.index_select(0, rows)) + self.table(rows)


@pytest.fixture(scope="module")
def picked(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    path = tmp_path_factory.mktemp("programs") / "picked.pt2"
    example = (torch.zeros(8, 16), torch.tensor([7, 0, 0, 3, 5, 1]))
    torch.export.save(torch.export.export(random(Picked()), example), path)
    return load_model(str(path))


def skip_without(target: str) -> None:
    for need in get_exporter(target).requirements():
        if need.found is None and not need.optional:
            pytest.skip(f"{need.name} is not installed")


def proof_of(manifest: Manifest) -> Proof:
    """The proof of an artifact, or of what it was made from where nothing here runs it."""
    if manifest.outcome != Outcome.EMITTED_UNVERIFIED:
        return manifest.proof
    assert manifest.proof.source is not None
    return manifest.proof.source


TARGETS = pytest.mark.parametrize(
    ("target", "options", "dtype"),
    [
        ("onnx", {"simplify": False}, "int64"),
        ("torchscript-lite", {}, "int64"),
        pytest.param("executorch", {}, "int64", marks=pytest.mark.slow),
        ("openvino", {}, "int64"),
        ("tensorrt", {}, "int64"),
        pytest.param("coreml", {}, "int32", marks=pytest.mark.slow),
    ],
)


@TARGETS
def test_a_program_that_takes_indices_is_proven(
    target: str, options: dict[str, object], dtype: str, picked: LoadedModel, tmp_path: Path
) -> None:
    skip_without(target)
    manifest = export(picked, target, out=tmp_path, options=options).manifest
    assert [record.dtype for record in manifest.inputs] == ["float32", dtype]
    proof = proof_of(manifest)
    assert proof.passed
    assert [case.kind for case in proof.cases] == ["seeded"] * 4
    fp16 = manifest.details.get("fp16")
    assert fp16 is None or fp16["skipped"] is None


@TARGETS
def test_a_model_from_code_that_takes_integers_is_proven_and_built_again(
    target: str, options: dict[str, object], dtype: str, tmp_path: Path
) -> None:
    skip_without(target)
    loaded = load_model(TOKENS, input_size=TOKENS_SIZE)
    artifact = export(loaded, target, out=tmp_path, options=options)
    assert [record.dtype for record in artifact.manifest.inputs] == [dtype]
    assert proof_of(artifact.manifest).passed
    again = reload_model(artifact.manifest)
    assert again.record == loaded.record == artifact.manifest.model
    assert again.capture().example_inputs[0].equal(loaded.capture().example_inputs[0])


def test_one_of_any_batch_is_verified_and_bisected_later(tmp_path: Path) -> None:
    loaded = load_model(TOKENS, input_size=TOKENS_SIZE)
    artifact = export(loaded, "onnx", out=tmp_path, options={"simplify": False, "dynamic_batch": True})
    proof = verify(artifact.folder)
    assert proof == artifact.manifest.proof
    assert [case.case for case in proof.cases][-1] == "seeded inputs, batch of 3"
    assert bisect(artifact.folder).verdict.startswith("nothing diverges")


def test_int8_is_calibrated_on_its_integers(tmp_path: Path) -> None:
    loaded = load_model(TOKENS, input_size=TOKENS_SIZE)
    options = {"simplify": False, "precision": "int8"}
    manifest = export(loaded, "onnx", out=tmp_path, options=options).manifest
    assert manifest.details["calibration"] == "8 seeded inputs"
    assert manifest.proof.passed
