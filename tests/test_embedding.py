"""``--embed-preprocessing``: uint8 pixels in, and the same outputs as with the preprocessing outside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

from deploy_kit import exporters
from deploy_kit.api import reload_model, verify
from deploy_kit.artifact import Artifact, open_artifact
from deploy_kit.classify import classify
from deploy_kit.embedding import WithPreprocessing
from deploy_kit.errors import ExportError, ProofError, UserError
from deploy_kit.exporters.coreml_image import to_image, to_planes
from deploy_kit.fusion import PASSES, Pass
from deploy_kit.graph import Graph, aten
from deploy_kit.models.digits import Digits, count_right, load_digits_split
from deploy_kit.parity.inputs import make_cases, pixels
from deploy_kit.parity.reference import compute_references
from deploy_kit.preprocessing import Preprocessing
from deploy_kit.sources import LoadedModel, embed_preprocessing, load_model
from tests.support import TINY, TINY_SIZE, Bench, TwoInputs, export_to, load_tiny, once, random, tiny

Made = Callable[[str], Artifact]


def embedded(source: str | nn.Module = TINY, input_size: str | None = TINY_SIZE) -> LoadedModel:
    return embed_preprocessing(load_model(source, input_size=input_size))


@pytest.fixture(scope="session")
def made(shared: Path) -> Made:
    """The small model's artifact for a target, exported once; the test is skipped where the target is not installed."""

    def make(target: str) -> Artifact:
        needs = exporters.get_exporter(target).requirements()
        if missing := [need.name for need in needs if need.found is None and not need.optional]:
            pytest.skip(f"{', '.join(missing)} is not installed")
        folder = once(shared, f"embedded_{target}", lambda out: export_to(out, embedded(), target))
        return open_artifact(folder / "tests.support.tiny" / target)

    return make


class Grey(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3))


@pytest.mark.parametrize(("model", "size"), [(tiny(), TINY_SIZE), (random(Grey()), "1x1x24x16")])
def test_it_computes_what_the_model_computes_of_the_preprocessed_image(model: nn.Module, size: str) -> None:
    outside, inside = load_model(model, input_size=size), embedded(model, size)
    assert outside.preprocessing is not None
    assert inside.preprocessing is not None
    image = PIL.Image.fromarray(load_sample_image("flower.jpg"))
    given = inside.preprocessing.apply(image)
    assert (given.dtype, tuple(given.shape)) == (torch.uint8, inside.input_shapes[0])
    with torch.no_grad():
        expected = outside.module(outside.preprocessing.apply(image))
        assert torch.allclose(inside.module(given), expected, rtol=1e-5, atol=1e-6)


def test_a_model_of_bgr_takes_pixels_in_rgb() -> None:
    outside = load_tiny()
    assert outside.preprocessing is not None
    bgr = outside.preprocessing.model_copy(update={"color": "BGR", "mean": (0.1, 0.2, 0.3)})
    outside = LoadedModel(outside.module, outside.record, bgr)
    inside = embed_preprocessing(outside)
    assert inside.preprocessing is not None
    assert inside.preprocessing.color == "RGB"
    image = PIL.Image.fromarray(load_sample_image("flower.jpg"))
    with torch.no_grad():
        expected = outside.module(bgr.apply(image))
        assert torch.allclose(inside.module(inside.preprocessing.apply(image)), expected, rtol=1e-5, atol=1e-6)


def test_each_channel_has_its_own_mean_and_deviation() -> None:
    preprocessing = Preprocessing(resize=2, crop=(1, 1), mean=(0.1, 0.2, 0.4), std=(0.5, 0.25, 2.0))
    out = WithPreprocessing(nn.Identity(), preprocessing)(
        torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    )
    assert torch.allclose(out, torch.tensor([-0.2, 0.0, 0.3]).view(1, 3, 1, 1), atol=1e-6)


def test_the_reference_is_computed_in_float64_of_integers() -> None:
    loaded = embedded()
    cases = make_cases(loaded.input_shapes, loaded.preprocessing, dynamic_batch=True)
    assert all(case.inputs[0].dtype == torch.uint8 for case in cases)
    assert [case.inputs[0].shape for case in cases] == [(1, 32, 32, 3)] * 6 + [(3, 32, 32, 3)]
    references = compute_references(loaded.module, cases)
    assert all(reference.exact[0].dtype == torch.float64 for reference in references)


def test_noise_is_of_all_bytes_and_faint_noise_of_few_about_the_middle() -> None:
    (all_bytes,), (few,) = pixels([(1, 64, 64, 3)], seed=0), pixels([(1, 64, 64, 3)], seed=1, scale=0.1)
    assert (all_bytes.min(), all_bytes.max(), len(all_bytes.unique())) == (0, 255, 256)
    assert 110 < few.min() < 120 < 136 < few.max() < 146
    assert pixels([(1, 64, 64, 3)], seed=0)[0].equal(all_bytes)
    assert not pixels([(1, 64, 64, 3)], seed=1)[0].equal(all_bytes)


def test_the_record_keeps_the_model_and_says_what_is_inside() -> None:
    before, after = load_tiny(), embed_preprocessing(load_tiny())
    assert after.record == before.record.model_copy(update={"embeds_preprocessing": True})
    assert after.preprocessing is not None
    assert (after.preprocessing.layout, after.preprocessing.embedded) == ("NHWC", True)


@pytest.mark.parametrize(
    ("model", "size"), [(TwoInputs(), "2x6,2x5"), (nn.Linear(6, 2), "1x6"), (nn.Conv2d(4, 2, 1), "1x4x16x16")]
)
def test_a_model_of_something_else_than_images_is_refused(model: nn.Module, size: str) -> None:
    with pytest.raises(UserError, match="does not take one batch of images") as error:
        embed_preprocessing(load_model(model, input_size=size))
    assert "--embed-preprocessing" in error.value.fix


TARGETS = [
    *("torchscript-lite", "onnx", "tensorrt", "openvino"),
    *(pytest.param(target, marks=pytest.mark.slow) for target in ("executorch", "coreml")),
]


@pytest.mark.parametrize("target", TARGETS)
def test_the_artifact_takes_pixels_and_is_proven(made: Made, target: str) -> None:
    manifest = made(target).manifest
    (given,) = manifest.inputs
    assert (given.dtype, given.shape) == ("uint8", [1, 32, 32, 3])
    proof = manifest.proof.source or manifest.proof
    assert proof.passed
    assert [case.kind for case in proof.cases] == ["noise"] * 2 + ["photograph"] * 4
    assert manifest.model.embeds_preprocessing
    assert manifest.model.input_shapes == [[1, 3, 32, 32]]
    assert manifest.preprocessing is not None
    assert manifest.preprocessing.embedded


def test_it_is_verified_again_from_its_manifest(made: Made) -> None:
    artifact = made("onnx")
    assert reload_model(artifact.manifest).record == artifact.manifest.model
    assert verify(artifact.folder).passed


def test_a_mean_or_an_order_of_channels_that_is_wrong_fails_the_proof(made: Made) -> None:
    file, loaded = made("onnx").main_file, load_tiny()
    assert loaded.preprocessing is not None
    assert Bench(embed_preprocessing(loaded), "onnx").prove(file).passed
    mean, std = loaded.preprocessing.mean, loaded.preprocessing.std
    for wrong in ({"mean": (0.5, *mean[1:])}, {"std": (0.23, *std[1:])}, {"mean": mean[::-1], "std": std[::-1]}):
        other = LoadedModel(loaded.module, loaded.record, loaded.preprocessing.model_copy(update=wrong))
        assert not Bench(embed_preprocessing(other), "onnx").prove(file).passed, wrong


def test_it_classifies_images_as_the_plain_artifact_does(
    made: Made, tiny_onnx: Artifact, tiny_lite: Artifact, tmp_path: Path
) -> None:
    PIL.Image.fromarray(load_sample_image("flower.jpg")).save(tmp_path / "flower.png")
    for target, plain in (("onnx", tiny_onnx), ("torchscript-lite", tiny_lite)):
        (expected,), (got,) = (classify(artifact, [tmp_path / "flower.png"]) for artifact in (plain, made(target)))
        assert torch.allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_onnx_casts_once_and_first(made: Made) -> None:
    import onnx

    graph = onnx.load(str(made("onnx").main_file)).graph
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [node.op_type for node in graph.node if "input" in node.input] == ["Cast"]
    assert made("onnx").manifest.operators["Cast"] == 1


def test_the_mobile_interpreter_gets_channels_last_images_without_a_copy(made: Made) -> None:
    operators = made("torchscript-lite").manifest.operators
    assert operators["aten::to"] == 1
    assert not {"aten::contiguous", "aten::clone"} & set(operators)
    entering = WithPreprocessing(nn.Identity(), Preprocessing(resize=8, crop=(8, 8)))
    image = entering(torch.zeros(1, 8, 8, 3, dtype=torch.uint8))
    assert image.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
def test_executorch_leaves_the_cast_alone_outside_of_xnnpack(made: Made) -> None:
    left = made("executorch").manifest.details["placement"]["undelegated"]
    assert set(left) - {"mean"} == {"_to_dim_order_copy"}
    assert left["_to_dim_order_copy"] == 1


@pytest.mark.slow
def test_executorch_bundles_pixels(tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    from deploy_kit.exporters import executorch as target
    from deploy_kit.outcome import Outcome

    artifact = export_to(tmp_path, embedded(), "executorch", bundle_io=True)
    job = {"do": "check_bundle", "target": str(artifact.folder / target.BUNDLE), "rtol": 1e-4, "atol": 1e-5}
    assert target.work(job, "check the bundle", Outcome.RUN_FAILED) == {"problem": None}


@pytest.mark.slow
def test_executorch_keeps_the_cast_from_coreml_which_has_no_uint8(tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    pytest.importorskip("coremltools")
    placement = export_to(tmp_path, embedded(), "executorch", delegate="coreml").manifest.details["placement"]
    assert placement["undelegated"] == {"_to_dim_order_copy": 1}


@pytest.mark.slow
def test_coreml_gets_an_image_and_normalises_it_in_the_program(made: Made) -> None:
    artifact = made("coreml")
    from coremltools.models.utils import load_spec

    (feature,) = load_spec(str(artifact.main_file)).description.input
    image = feature.type.imageType
    assert (feature.name, image.width, image.height) == ("input", 32, 32)
    assert image.ColorSpace.Name(image.colorSpace) == "RGB"
    assert artifact.manifest.operators["mul"] == 1
    assert "an image" in " ".join(artifact.manifest.notes)


@pytest.mark.slow
def test_coreml_takes_grey_images_too(tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    artifact = export_to(tmp_path, embedded(random(Grey()), "1x1x24x16"), "coreml", precision="fp32")
    assert artifact.manifest.proof.passed


def test_coreml_takes_one_image_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    with pytest.raises(ExportError, match="one image") as error:
        export_to(tmp_path, embedded(input_size="2x3x32x32"), "coreml")
    assert "batch of 1" in error.value.fix


@pytest.mark.parametrize("channels", [1, 3])
def test_the_image_that_coreml_is_given_has_the_pixels(channels: int) -> None:
    (rows,) = pixels([(1, 6, 4, channels)], seed=0)
    (planes,) = to_planes([rows])
    assert (planes.shape, planes.dtype) == ((1, channels, 6, 4), torch.float32)
    image = to_image(planes)
    assert image.mode == ("RGB" if channels == 3 else "L")
    assert torch.equal(torch.from_numpy(np.array(image)).reshape(rows.shape), rows)


def test_the_batch_can_be_free_or_more_than_one(tmp_path: Path) -> None:
    artifact = export_to(tmp_path, embedded(), "onnx", dynamic_batch=True, simplify=False)
    assert artifact.manifest.inputs[0].shape == [None, 32, 32, 3]
    assert "noise, batch of 3" in [case.case for case in artifact.manifest.proof.cases]
    two = export_to(tmp_path / "two", embedded(input_size="2x3x32x32"), "onnx", simplify=False)
    assert two.manifest.inputs[0].shape == [2, 32, 32, 3]


def test_an_exported_program_can_embed_it_too(tmp_path: Path) -> None:
    class Casting(nn.Module):  # a program with a cast of its own, which float64 must widen
        def __init__(self) -> None:
            super().__init__()
            self.body = tiny()

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x.to(torch.float32))

    path = tmp_path / "tiny.pt2"
    torch.export.save(torch.export.export(Casting(), (torch.zeros(1, 3, 32, 32),)), path)
    artifact = export_to(tmp_path, embedded(str(path), None), "onnx", simplify=False)
    assert artifact.manifest.inputs[0].dtype == "uint8"
    assert verify(artifact.folder).passed


def test_a_wrong_pass_is_found_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = PASSES["affine_into_neighbours"].apply

    def wrong(graph: Graph) -> list[tuple[torch.fx.Node, str]]:
        changes = right(graph)
        node = next(graph.calls(aten.conv2d.default))
        bias = graph.constant(node.args[2])
        assert bias is not None
        node.update_arg(2, graph.add_constant(bias + 1, "changed", before=node))
        return changes

    monkeypatch.setitem(PASSES, "affine_into_neighbours", Pass("affine_into_neighbours", wrong))
    with pytest.raises(ProofError, match=r"it diverges at the pass affine_into_neighbours, at model\.bn"):
        export_to(tmp_path, embed_preprocessing(load_tiny()), "onnx", simplify=False)


def test_the_trained_model_reads_the_pixels_of_digits() -> None:
    _, held_out = load_digits_split()
    held_out_pixels = ((held_out.images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    model = embed_preprocessing(load_model("edgevit_digits")).module
    assert count_right(model, Digits(held_out_pixels, held_out.labels)) == 359
