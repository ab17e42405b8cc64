from __future__ import annotations

import pytest
import torch
from torch import nn

from deploy_kit.errors import UserError
from deploy_kit.models import create_model, get_architecture
from deploy_kit.statistics import count
from tests.models.faithful import golden_error, golden_layout, graph_of, layout, macs, parameters, shape_arithmetic

PARAMETERS = {
    "poolformer_s12": 11_915_176,
    "poolformer_s24": 21_388_968,
    "poolformer_s36": 30_862_760,
    "poolformer_m36": 56_172_520,
    "poolformer_m48": 73_473_448,
}


def test_computes_what_the_published_implementation_computes() -> None:
    assert golden_error("poolformer_s12") <= 1e-9


def test_has_the_keys_shapes_and_types_of_official_checkpoints() -> None:
    assert layout(create_model("poolformer_s12")) == golden_layout("poolformer_s12")


@pytest.mark.parametrize("name", PARAMETERS)
def test_has_the_published_number_of_parameters(name: str) -> None:
    assert parameters(name) == PARAMETERS[name]


@pytest.mark.parametrize(
    "name", ["poolformer_s12", *(pytest.param(name, marks=pytest.mark.slow) for name in list(PARAMETERS)[1:])]
)
def test_has_the_published_multiply_accumulates(name: str) -> None:
    assert macs(name) == pytest.approx(get_architecture(name).published.macs, rel=0.01)


def test_its_graph_has_four_axes_at_most_and_no_shape_arithmetic() -> None:
    graph = graph_of("poolformer_s12")
    assert count(graph).largest_rank == 4
    assert shape_arithmetic(graph) == []


@pytest.mark.parametrize("size", [(3, 3), (50, 71), (64, 96)])
def test_takes_images_of_any_size(size: tuple[int, int]) -> None:
    model = create_model("poolformer_s12", input_size=size, num_classes=7)
    with torch.no_grad():
        assert model(torch.zeros(2, 3, *size)).shape == (2, 7)


def test_refuses_images_smaller_than_its_stem() -> None:
    with pytest.raises(UserError, match="poolformer_s12 cannot take 2x8 images") as error:
        create_model("poolformer_s12", input_size=(2, 8))
    assert "from 3 on" in error.value.fix


@pytest.mark.parametrize(("activation", "layer"), [(None, nn.GELU), ("relu", nn.ReLU), ("hardswish", nn.Hardswish)])
def test_has_the_chosen_activation_in_every_mlp(activation: str | None, layer: type[nn.Module]) -> None:
    model = create_model("poolformer_s12", activation=activation)
    activations = [module for name, module in model.named_modules() if name.endswith("mlp.act")]
    assert len(activations) == 12
    assert {type(module) for module in activations} == {layer}


def test_the_border_averages_only_what_is_in_the_image() -> None:
    block = create_model("poolformer_s12").network[0][0]
    nn.init.zeros_(block.mlp.fc2.weight)
    nn.init.zeros_(block.mlp.fc2.bias)
    for norm in (block.norm1, block.norm2):
        nn.init.zeros_(norm.weight)  # the norm's output is its bias, the same in the whole image
    x = torch.randn(1, 64, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(block(x), x)
