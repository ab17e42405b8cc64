"""A program that takes indices, on every target: proven on valid ones, with the types that the artifact takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from deploy_kit.api import export
from deploy_kit.exporters import get_exporter
from deploy_kit.outcome import Outcome
from deploy_kit.sources import LoadedModel, load_model
from tests.support import random


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


@pytest.mark.parametrize(
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
def test_a_program_that_takes_indices_is_proven(
    target: str, options: dict[str, object], dtype: str, picked: LoadedModel, tmp_path: Path
) -> None:
    for need in get_exporter(target).requirements():
        if need.found is None and not need.optional:
            pytest.skip(f"{need.name} is not installed")
    manifest = export(picked, target, out=tmp_path, options=options).manifest
    assert [record.dtype for record in manifest.inputs] == ["float32", dtype]
    proof = manifest.proof
    if manifest.outcome == Outcome.EMITTED_UNVERIFIED:
        assert proof.source is not None
        proof = proof.source
    assert proof.passed
    assert [case.kind for case in proof.cases] == ["seeded"] * 4
    fp16 = manifest.details.get("fp16")
    assert fp16 is None or fp16["skipped"] is None
