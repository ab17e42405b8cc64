from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deploy_kit.capture import capture
from deploy_kit.errors import UserError
from deploy_kit.exporters.onnx_file import convert
from deploy_kit.graph import rank
from deploy_kit.models import create_model, get_architecture
from deploy_kit.models.efficientvit import SEGMENTATIONS, LiteMLA, Upsample
from deploy_kit.models.layers import randomize_
from deploy_kit.statistics import count
from tests.models.faithful import activations, check_graph, golden_error, golden_layout, graph_of, layout, run

GOLDEN = ["efficientvit_b0", "efficientvit_b1", "efficientvit_l1", "efficientvit_seg_b0_cityscapes"]


@pytest.mark.parametrize("name", GOLDEN)
def test_computes_what_the_published_implementation_computes(name: str) -> None:
    assert golden_error(name) <= 1e-9


@pytest.mark.parametrize("name", GOLDEN)
def test_has_the_keys_shapes_and_types_of_official_checkpoints(name: str) -> None:
    assert layout(create_model(name)) == golden_layout(name)


def of_enlargement(name: str) -> int:
    """The products with bicubic matrices, which the authors do not count: columns, then rows, of 1/32 and 1/16."""
    if name not in SEGMENTATIONS:
        return 0
    height, width = (side // 8 for side in get_architecture(name).input_size)
    pixels = [height // f * width * (width // f) + width * height * (height // f) for f in (2, 4)]
    return SEGMENTATIONS[name].width * sum(pixels)


def test_its_graph_has_four_axes_at_most_and_no_shape_arithmetic() -> None:
    check_graph(graph_of("efficientvit_b0"))


def test_so_has_that_of_segmentation_with_a_free_batch_and_nothing_bicubic() -> None:
    graph = graph_of("efficientvit_seg_b0_cityscapes", input_size=(64, 96), dynamic_batch=True)
    check_graph(graph)
    assert not any("bicubic" in name for name in count(graph).operators)
    products = [node for node in graph.nodes if node.op == "call_function" and "linear" in str(node.target)]
    assert {rank(node) for node in products} == {3}  # PyTorch 1.13's own, prepacked, are wrong on images


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 4)])
def test_enlarges_as_bicubic_interpolation_does(factor: int, size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = F.interpolate(x, scale_factor=factor, mode="bicubic", align_corners=False)
    torch.testing.assert_close(Upsample(factor, size).double()(x), expected, rtol=1e-12, atol=1e-12)


def test_both_orders_of_the_products_in_its_attention_are_one_function() -> None:
    attention = LiteMLA(32, head_dim=16).eval().double()
    q, k, v = torch.rand(3, 2, 4, 16, 30, dtype=torch.float64).unbind()
    torch.testing.assert_close(attention.linear(q, k, v), attention.quadratic(q, k, v), rtol=1e-12, atol=1e-12)


def test_the_order_of_the_products_is_the_cheaper_one() -> None:
    attention = LiteMLA(32, head_dim=16)
    randomize_(attention, seed=0)
    used = []
    attention.linear = lambda q, k, v: used.append("linear") or v  # type: ignore[method-assign, func-returns-value]
    attention.quadratic = lambda q, k, v: used.append("quadratic") or v  # type: ignore[method-assign, func-returns-value]
    for size in ((4, 4), (4, 5)):
        attention(torch.zeros(1, 32, *size))
    assert used == ["quadratic", "linear"]


def test_no_query_that_meets_a_key_gives_zero_and_no_division_by_zero() -> None:
    attention = LiteMLA(32, head_dim=16)
    zero, v = torch.zeros(1, 4, 16, 30), torch.rand(1, 4, 16, 30)
    assert attention.linear(zero, zero, v).eq(0).all()


def test_nor_does_it_in_onnx(tmp_path: Path) -> None:
    attention = LiteMLA(32, head_dim=16).eval()
    for parameter in attention.parameters():
        nn.init.zeros_(parameter)
    x = torch.zeros(1, 32, 6, 6)
    convert(capture(attention, (x,)), tmp_path / "model.onnx", 20)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (output,) = session.run(None, {"input": x.numpy()})
    assert (output == 0).all()


@pytest.mark.parametrize("size", [(1, 1), (50, 71), (96, 64)])
def test_classifies_images_of_any_size(size: tuple[int, int]) -> None:
    model = create_model("efficientvit_b0", input_size=size, num_classes=7)
    assert run(model, torch.zeros(2, 3, *size)).shape == (2, 7)


@pytest.mark.parametrize("size", [(32, 32), (64, 160)])
def test_segments_images_whose_sides_are_multiples_of_32(size: tuple[int, int]) -> None:
    model = create_model("efficientvit_seg_b0_cityscapes", input_size=size, num_classes=7)
    assert run(model, torch.zeros(2, 3, *size)).shape == (2, 7, size[0] // 8, size[1] // 8)


def test_refuses_to_segment_other_sizes_and_says_which_it_takes() -> None:
    with pytest.raises(UserError, match="cannot take 1000x2000 images") as error:
        create_model("efficientvit_seg_b0_cityscapes", input_size=(1000, 2000))
    assert "multiples of 32, such as 1024x2048" in error.value.fix


@pytest.mark.parametrize(
    ("activation", "layer"), [(None, nn.Hardswish), ("relu", nn.ReLU), ("gelu", nn.GELU), ("silu", nn.SiLU)]
)
def test_has_the_chosen_activation_in_place_of_the_authors(activation: str | None, layer: type[nn.Module]) -> None:
    assert activations(create_model("efficientvit_b0", activation=activation)) == {layer: 24}
