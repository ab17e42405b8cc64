"""fp16 and int8 on every target: what is in the file, what proves it, and what happens when too much is lost."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import PIL.Image
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from deploy_kit.api import Artifact, export, verify
from deploy_kit.errors import ProofError, UserError
from deploy_kit.exporters import get_exporter
from deploy_kit.outcome import Outcome
from deploy_kit.sources import load_model
from tests.support import export_to, random

SIZE = "1x3x32x32"
EVERYTHING = "tests.support:everything"
PACKAGES = {"executorch": "executorch", "openvino": "openvino", "tensorrt": "tensorrt_rtx", "coreml": "coremltools"}


def need(target: str) -> None:
    package = PACKAGES.get(target)
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def export_everything(folder: Path, target: str, precision: str, **options: object) -> Artifact:
    need(target)
    loaded = load_model(EVERYTHING, input_size=SIZE)
    return export(loaded, target, out=folder, options={"precision": precision, **options})


SLOW = {(target, precision) for target in ("executorch", "coreml") for precision in ("fp16", "int8")}
CASES = [
    pytest.param(target, precision, marks=[pytest.mark.slow] if (target, precision) in SLOW else [])
    for target in ("onnx", "openvino", "executorch", "torchscript-lite", "tensorrt", "coreml")
    for precision in ("fp16", "int8")
]


@pytest.mark.parametrize(("target", "precision"), CASES)
def test_a_user_s_own_model_keeps_its_answers(target: str, precision: str, tmp_path: Path) -> None:
    if (target, precision) == ("torchscript-lite", "fp16"):
        with pytest.raises(UserError, match="fp32"):
            export_everything(tmp_path, target, precision)
        return
    artifact = export_everything(tmp_path, target, precision)
    proof = artifact.manifest.proof
    if artifact.manifest.outcome == Outcome.EMITTED_UNVERIFIED:
        assert proof.source is not None
        proof = proof.source
    else:
        assert artifact.manifest.outcome == Outcome.OK
    assert proof.passed
    assert proof.precision == precision
    assert proof.snr_db is not None
    assert proof.snr_db < 100, "it computes in float32"
    assert verify(artifact).precision == precision


class Wide(nn.Module):
    """Nearly all of it is one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.head = nn.Conv2d(3, 16, 4, stride=4), nn.Conv2d(16, 4096, 1), nn.Conv2d(4096, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.wide(torch.relu(self.stem(x))))).mean((2, 3))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("wide")
    loaded = load_model(random(Wide()), input_size=SIZE)
    return {
        precision: export_to(folder / precision, loaded, "onnx", precision=precision, simplify=False)
        for precision in ("fp32", "fp16", "int8")
    }


def test_the_weights_are_smaller(wide: dict[str, Artifact]) -> None:
    full = wide["fp32"].size
    assert 0.45 < wide["fp16"].size / full < 0.6
    assert 0.2 < wide["int8"].size / full < 0.45


def test_onnx_int8_is_static_with_a_scale_for_each_channel(wide: dict[str, Artifact]) -> None:
    graph = onnx.load(str(wide["int8"].main_file)).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 3
    for node in convolutions:
        activation, weight = (made_by[name] for name in node.input[:2])
        assert (activation.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        assert made_by[activation.input[0]].op_type == "QuantizeLinear"
        stored, scale = constants[weight.input[0]], constants[weight.input[1]]
        assert stored.dtype == np.int8
        assert scale.shape == (stored.shape[0],)


def test_the_manifest_says_how_it_was_calibrated_and_what_to_expect(wide: dict[str, Artifact]) -> None:
    details = json.loads((wide["int8"].folder / "manifest.json").read_text())["details"]
    assert "photographs" in details["calibration"]
    assert details["int8"]["int8_operators"] == 3
    assert details["int8"]["simulated_snr_db"] > 20


def test_the_runtime_computes_what_was_simulated(wide: dict[str, Artifact]) -> None:
    proof = wide["int8"].manifest.proof
    assert proof.snr_db == pytest.approx(wide["int8"].manifest.details["int8"]["simulated_snr_db"], abs=6)


class Fragile(nn.Module):
    """``bad`` reads one huge value beside small ones, and takes nothing of it: int8 loses the small ones."""

    gain: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bad, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, 8, 1), nn.Linear(8, 10)
        self.register_buffer("gain", torch.tensor([1.0] * 7 + [2000.0]).reshape(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.bad(torch.relu(torch.sigmoid(self.stem(x)) * self.gain))).mean((2, 3)))


def fragile() -> nn.Module:
    model = Fragile()
    random(model)
    with torch.no_grad():
        model.bad.weight[:, 7] = 0
        model.bad.weight.mul_(4)
        model.gain.copy_(torch.tensor([1.0] * 7 + [2000.0]).reshape(1, 8, 1, 1))
        model.head.bias.zero_()
    return model


def export_fragile(folder: Path, allow_lossy: bool = False, **options: Any) -> Artifact:
    loaded = load_model(fragile(), input_size=SIZE)
    options = {"precision": "int8", "simplify": False, **options}
    return export(loaded, "onnx", out=folder, options=options, allow_lossy=allow_lossy)


def test_what_loses_too_much_is_refused_with_the_modules_that_lose_it(tmp_path: Path) -> None:
    with pytest.raises(ProofError, match=r"loses more than int8 may.*modules lose most: bad \(") as caught:
        export_fragile(tmp_path)
    assert "--keep-fp32 bad" in caught.value.fix
    assert "--auto-mixed" in caught.value.fix
    assert caught.value.outcome == Outcome.LOSSY
    assert not list(tmp_path.rglob("*.onnx"))


def test_lossy_is_kept_and_said_where_it_is_allowed(tmp_path: Path) -> None:
    manifest = export_fragile(tmp_path, allow_lossy=True).manifest
    assert manifest.outcome == Outcome.LOSSY
    assert not manifest.proof.passed
    assert manifest.details["losses"][0]["module"] == "bad"


@pytest.mark.parametrize("options", [{"keep_fp32": ["bad"]}, {"auto_mixed": True}])
def test_keeping_that_module_in_float32_cures_it(options: dict[str, Any], tmp_path: Path) -> None:
    manifest = export_fragile(tmp_path, **options).manifest
    assert manifest.outcome == Outcome.OK
    assert manifest.details["int8"]["kept_in_fp32"] == ["bad"]


def test_an_artifact_with_other_numbers_fails_its_proof(wide: dict[str, Artifact], tmp_path: Path) -> None:
    """The proof is of the file: one whose scales are wrong is not what was simulated."""
    model = onnx.load(str(wide["int8"].main_file))
    weights = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1]
    assert weights
    for weight in weights:
        weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
    onnx.save(model, str(tmp_path / "model.onnx"))
    exporter, manifest = get_exporter("onnx"), wide["int8"].manifest
    options = exporter.options_type.model_validate(manifest.options)
    inputs = [(torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)),)]
    right = exporter.run(wide["int8"].main_file, inputs, options, manifest.details).outputs
    wrong = exporter.run(tmp_path / "model.onnx", inputs, options, manifest.details).outputs
    assert right is not None
    assert wrong is not None
    assert (right[0][0] - wrong[0][0]).abs().max() > 0.1 * right[0][0].abs().max()


def test_calibrating_on_a_folder_and_proving_on_other_images_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(20):
        pixels = generator.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{index:02}.png")
    artifact = export_everything(tmp_path, "onnx", "int8", calibration=str(folder))
    assert artifact.manifest.details["calibration"] == f"12 images of {folder}"
    assert len(artifact.manifest.proof.cases) == 8
    folder.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="there is no folder"):
        verify(artifact)
    assert verify(artifact, calibration=tmp_path / "moved").passed
