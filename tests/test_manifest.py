from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy_kit.artifact import Artifact
from deploy_kit.errors import UserError
from deploy_kit.manifest import MANIFEST, SCHEMA_VERSION, Manifest, WeightsRecord, read_manifest
from deploy_kit.sources import hash_state
from tests.support import tiny


@pytest.fixture
def document(tiny_onnx: Artifact) -> dict[str, Any]:
    return json.loads(tiny_onnx.manifest.to_json())


def read(document: object, folder: Path) -> Manifest:
    (folder / MANIFEST).write_text(document if isinstance(document, str) else json.dumps(document))
    return read_manifest(folder)


def test_a_manifest_survives_being_written_and_read(tiny_onnx: Artifact, tmp_path: Path) -> None:
    assert read(tiny_onnx.manifest.to_json(), tmp_path) == tiny_onnx.manifest


def test_it_says_what_was_exported_and_how(tiny_onnx: Artifact) -> None:
    manifest = tiny_onnx.manifest
    assert manifest.schema_version == SCHEMA_VERSION
    assert manifest.target == "onnx"
    assert manifest.model.source == "tests.support:tiny"
    assert manifest.model.weights.sha256 == hash_state(tiny())
    assert [(tensor.name, tensor.shape, tensor.dtype) for tensor in manifest.inputs] == [
        ("input", [1, 3, 32, 32], "float32")
    ]
    assert [tensor.shape for tensor in manifest.outputs] == [[1, 10]]
    assert {"deploykit", "python", "torch", "onnx", "onnxruntime"} <= set(manifest.toolchain)
    assert manifest.preprocessing is not None
    assert manifest.preprocessing.crop == (32, 32)
    assert manifest.operators["Conv"] == 2
    assert manifest.proof.passed
    assert manifest.measurements == []


def test_it_records_every_rewrite_by_module(tiny_onnx: Artifact) -> None:
    rewrites = {(rewrite.pass_name, rewrite.module) for rewrite in tiny_onnx.manifest.fusion.rewrites}
    assert ("affine_into_neighbours", "bn") in rewrites
    assert ("identity_into_depthwise", "local.conv") in rewrites
    assert ("layer_norm_affine_into_linear", "norm") in rewrites
    assert "batch_norm" in tiny_onnx.manifest.fusion.before.operators
    assert "batch_norm" not in tiny_onnx.manifest.fusion.after.operators


def test_one_that_was_written_before_inputs_had_types_is_read(document: dict[str, Any], tmp_path: Path) -> None:
    assert document["model"].pop("input_types") == []
    assert read(document, tmp_path).model.input_size == "1x3x32x32"


@pytest.mark.parametrize("version", [0, 2, "1", None, 99])
def test_another_version_is_refused(version: object, document: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="schema version"):
        read({**document, "schema_version": version}, tmp_path)


def without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda document: {key: value for key, value in document.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: {**d, "extra": 1}, "damaged: extra"),
        (lambda d: {**d, "model": {**d["model"], "extra": 1}}, "damaged: model.extra"),
        (lambda d: {**d, "files": []}, "damaged: files"),
        (lambda d: {**d, "proof": {**d["proof"], "passed": "perhaps"}}, "damaged: proof.passed"),
        (without("model"), "damaged: model"),
        (without("schema_version"), "schema version None"),
        (lambda d: [], "schema version None"),
        (lambda d: json.dumps(d)[:-20], "cannot be read"),
        (lambda d: "", "cannot be read"),
    ],
)
def test_a_damaged_one_is_refused(
    change: Callable[[dict[str, Any]], object], message: str, document: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        read(change(document), tmp_path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(b"\xff\xfe{")
    with pytest.raises(UserError, match="cannot be read"):
        read_manifest(tmp_path)


def test_a_folder_without_one_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not an artifact"):
        read_manifest(tmp_path)


def test_weights_are_described_in_a_line() -> None:
    assert WeightsRecord(kind="random", sha256="0", seed=3).description == "random (seed 3): not trained"
    checkpoint = WeightsRecord(kind="checkpoint", sha256="0123456789abcdef", path="runs/best.pth")
    assert checkpoint.description == "best.pth, sha256 0123456789ab"
    for kind in ("program", "callable", "timm"):
        assert WeightsRecord(kind=kind, sha256="0").description
