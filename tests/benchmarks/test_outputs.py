"""What a device computed is compared with the model: a runner that is fast and wrong is caught."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from deploy_kit.artifact import Artifact, open_artifact
from deploy_kit.benchmarks.harness import bench, example_inputs
from deploy_kit.benchmarks.measurement import Measurement
from deploy_kit.benchmarks.outputs import FLOAT64, check_outputs
from deploy_kit.benchmarks.protocol import Protocol
from deploy_kit.exporters import get_exporter
from deploy_kit.manifest import MANIFEST
from tests.benchmarks.test_harness import DOCUMENT, Folder, script
from tests.support import export_to, load_tiny


def computed(artifact: Artifact) -> list[np.ndarray]:
    """What the artifact computes of the timed inputs."""
    exporter = get_exporter(artifact.manifest.target)
    options = exporter.options_type(**artifact.manifest.options)
    inputs = example_inputs(artifact.manifest.inputs)
    ran = exporter.run(artifact.main_file, [inputs], options, artifact.manifest.details).outputs
    assert ran is not None
    return [output.numpy() for output in ran[0]]


@pytest.fixture(scope="module")
def right(tiny_onnx: Artifact) -> list[np.ndarray]:
    return computed(tiny_onnx)


def inputs_of(artifact: Artifact) -> tuple[Tensor, ...]:
    return example_inputs(artifact.manifest.inputs)


def measured(tmp_path: Path, artifact: Artifact, outputs: list[np.ndarray], **options: Any) -> Measurement:
    """A measurement by a runner that brings back these outputs."""
    lines = []
    for index, output in enumerate(outputs):
        (tmp_path / f"given{index}").write_bytes(output.tobytes())
        lines.append(f'cp "{tmp_path}/given{index}" "$(dirname "$result")/{index}.bin"')
    records = [
        {"file": f"{index}.bin", "dtype": str(output.dtype), "shape": list(output.shape)}
        for index, output in enumerate(outputs)
    ]
    text = json.dumps({**DOCUMENT, "outputs": records})
    runner = script(tmp_path, "\n".join([*lines, f"cat > \"$result\" <<'END'\n{text}\nEND\n"]))
    (tmp_path / "device").mkdir()
    device = Folder(tmp_path / "device")
    return bench(artifact, device, runner, Protocol(), command="x", energy="none", **options).measurement


def test_right_outputs_are_proven_against_float64(tmp_path: Path, tiny_onnx: Artifact, right: list[np.ndarray]) -> None:
    found = measured(tmp_path, tiny_onnx, right)
    assert found.outputs is not None
    assert (found.outputs.verdict, found.outputs.against, found.valid) == ("right", FLOAT64, True)
    assert found.outputs.noise_ratio is not None
    assert found.outputs.noise_ratio < 20
    assert "outputs" not in found.unavailable


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda x: x + 1e-3 * np.abs(x).max(), "times float32's own"),
        (np.zeros_like, "times float32's own"),
        (lambda x: x.astype(np.float16).astype(np.float32), "times float32's own"),
        (lambda x: np.full_like(x, np.nan), "not finite"),
        (lambda x: x[:, :-1].copy(), "has shape"),
    ],
)
def test_a_runner_that_is_fast_and_wrong_is_caught(
    tmp_path: Path,
    tiny_onnx: Artifact,
    right: list[np.ndarray],
    spoil: Callable[[np.ndarray], np.ndarray],
    reason: str,
) -> None:
    found = measured(tmp_path, tiny_onnx, [spoil(output) for output in right])
    assert found.outputs is not None
    assert (found.outputs.verdict, found.valid) == ("wrong", False)
    assert found.reasons[0].startswith("wrong outputs: ")
    assert reason in found.reasons[0]


def test_no_check_is_null_with_the_reason(tmp_path: Path, tiny_onnx: Artifact, right: list[np.ndarray]) -> None:
    found = measured(tmp_path, tiny_onnx, [0 * output for output in right], check=False)
    assert (found.outputs, found.unavailable["outputs"], found.valid) == (None, "not asked for", True)


def test_a_runner_that_keeps_no_outputs_proves_nothing(tiny_onnx: Artifact) -> None:
    assert check_outputs(tiny_onnx, inputs_of(tiny_onnx), []) == (None, "the runner kept no outputs")


def test_where_the_model_is_not_here_the_artifact_itself_is_run(tmp_path: Path) -> None:
    artifact = export_to(tmp_path, load_tiny(), "onnx", simplify=False)
    assert artifact.manifest.model.source == "module"
    outputs, inputs = computed(artifact), inputs_of(artifact)
    found, _ = check_outputs(artifact, inputs, outputs)
    assert found is not None
    assert (found.verdict, found.noise_ratio) == ("right", None)
    assert found.against.startswith("the artifact, run here by onnxruntime")
    assert "module in memory" in found.against
    wrong, _ = check_outputs(artifact, inputs, [np.roll(output, 1) for output in outputs])
    assert wrong is not None
    assert wrong.verdict == "wrong"


def test_where_nothing_can_be_compared_both_reasons_are_told(
    tmp_path: Path, tiny_onnx: Artifact, right: list[np.ndarray]
) -> None:
    manifest = json.loads((tiny_onnx.folder / MANIFEST).read_text())
    manifest["model"]["source"] = "module"
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    for record in manifest["files"]:
        (tmp_path / record["path"]).write_bytes((tiny_onnx.folder / record["path"]).read_bytes())
    broken = open_artifact(tmp_path)
    broken.main_file.write_bytes(b"no model")
    found, reason = check_outputs(broken, inputs_of(broken), right)
    assert found is None
    assert "module in memory" in reason
    assert len(reason.split("; ")) >= 2
