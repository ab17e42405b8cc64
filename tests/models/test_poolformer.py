from __future__ import annotations

import pytest
import torch
from torch import nn

from deploy_kit.errors import UserError
from deploy_kit.models import create_model
from tests.models.faithful import activations, check_graph, golden_error, golden_layout, graph_of, layout, run


def test_computes_what_the_published_implementation_computes() -> None:
    assert golden_error("poolformer_s12") <= 1e-9


def test_has_the_keys_shapes_and_types_of_official_checkpoints() -> None:
    assert layout(create_model("poolformer_s12")) == golden_layout("poolformer_s12")


def test_its_graph_has_four_axes_at_most_and_no_shape_arithmetic() -> None:
    check_graph(graph_of("poolformer_s12"))


@pytest.mark.parametrize("size", [(3, 3), (50, 71), (64, 96)])
def test_takes_images_of_any_size(size: tuple[int, int]) -> None:
    model = create_model("poolformer_s12", input_size=size, num_classes=7)
    assert run(model, torch.zeros(2, 3, *size)).shape == (2, 7)


def test_refuses_images_smaller_than_its_stem() -> None:
    with pytest.raises(UserError, match="poolformer_s12 cannot take 2x8 images") as error:
        create_model("poolformer_s12", input_size=(2, 8))
    assert "from 3 on" in error.value.fix


@pytest.mark.parametrize(("activation", "layer"), [(None, nn.GELU), ("relu", nn.ReLU), ("hardswish", nn.Hardswish)])
def test_has_the_chosen_activation_in_every_mlp(activation: str | None, layer: type[nn.Module]) -> None:
    assert activations(create_model("poolformer_s12", activation=activation)) == {layer: 12}


def test_the_border_averages_only_what_is_in_the_image() -> None:
    block = create_model("poolformer_s12").network[0][0]
    nn.init.zeros_(block.mlp.fc2.weight)
    nn.init.zeros_(block.mlp.fc2.bias)
    for norm in (block.norm1, block.norm2):
        nn.init.zeros_(norm.weight)  # the norm's output is its bias, the same in the whole image
    x = torch.randn(1, 64, 5, 5)
    torch.testing.assert_close(run(block, x), x)
