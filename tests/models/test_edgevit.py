from __future__ import annotations

import pytest
import torch
from torch import nn

from deploy_kit.errors import UserError
from deploy_kit.models import create_model, get_architecture
from tests.models.faithful import activations, golden_error, golden_layout, layout, run


@pytest.mark.parametrize("name", ["edgevit_xxs", "edgevit_s"])
def test_computes_what_the_published_implementation_computes(name: str) -> None:
    assert golden_error(name) <= 1e-9


@pytest.mark.parametrize("name", ["edgevit_xxs", "edgevit_s"])
def test_has_the_keys_shapes_and_types_of_official_checkpoints(name: str) -> None:
    assert layout(create_model(name)) == golden_layout(name)


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (256, 224)])
def test_takes_any_multiple_of_32(size: tuple[int, int]) -> None:
    model = create_model("edgevit_xxs", input_size=size, num_classes=7)
    assert run(model, torch.zeros(2, 3, *size)).shape == (2, 7)


@pytest.mark.parametrize("size", [0, -32, 100, (224, 230), (16, 224)])
def test_refuses_other_sizes_and_says_which_it_takes(size: int | tuple[int, int]) -> None:
    with pytest.raises(UserError, match="edgevit_xxs cannot take") as error:
        create_model("edgevit_xxs", input_size=size)
    assert "multiples of 32" in error.value.fix


@pytest.mark.parametrize(
    ("activation", "layer"),
    [(None, nn.GELU), ("gelu", nn.GELU), ("relu", nn.ReLU), ("hardswish", nn.Hardswish), ("silu", nn.SiLU)],
)
def test_has_the_chosen_activation_in_every_mlp(activation: str | None, layer: type[nn.Module]) -> None:
    assert activations(create_model("edgevit_xxs", activation=activation)) == {layer: 7 + 5}


def test_activations_change_no_weight() -> None:
    gelu, relu = (create_model("edgevit_xxs", activation=name).state_dict() for name in ("gelu", "relu"))
    assert all(gelu[key].equal(relu[key]) for key in relu)


def test_reports_what_the_paper_reports() -> None:
    published = get_architecture("edgevit_s").published
    assert (published.top1, published.macs) == (81.0, 1.9e9)
    assert "2205.03436" in published.paper
