from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deploy_kit.errors import UserError
from deploy_kit.models import create_model, load_checkpoint
from deploy_kit.models.levit_layers import average_heads, offset_index
from tests.golden.golden import Golden
from tests.models.faithful import activations, check_deploys, check_takes_official_values, golden_error, relative, run


@pytest.mark.parametrize("name", ["levit_128s", "levit_256"])
def test_computes_what_the_published_implementation_computes(name: str) -> None:
    assert golden_error(name) <= 1e-9


@pytest.mark.parametrize("name", ["levit_128s", "levit_256"])
def test_takes_every_value_of_the_official_checkpoint(name: str) -> None:
    check_takes_official_values(name)


def test_takes_the_checkpoint_of_the_authors_convolutional_form() -> None:
    golden, model, other = Golden.load("levit_128s"), create_model("levit_128s"), create_model("levit_128s")
    state = golden.state_dict()
    load_checkpoint(model, state)
    for key in state:
        if key.startswith("blocks.") and key.endswith(".c.weight"):
            state[key] = state[key][:, :, None, None]
    load_checkpoint(other, {"model": state})
    assert all(value.equal(other.state_dict()[key]) for key, value in model.state_dict().items())


def test_leaves_a_graph_that_deploys() -> None:
    check_deploys(create_model("levit_128s", input_size=(64, 96)), (64, 96))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_bias_stands_between_two_tokens_by_their_distance_in_each_axis(stride: int) -> None:
    height, width = 5, 4
    queries = [(y, x) for y in range(0, height, stride) for x in range(0, width, stride)]
    keys = [(y, x) for y in range(height) for x in range(width)]
    offsets = {offset: index for index, offset in enumerate(keys)}
    expected = [[offsets[abs(qy - ky), abs(qx - kx)] for ky, kx in keys] for qy, qx in queries]
    assert offset_index((height, width), stride).tolist() == expected


def test_two_heads_are_averaged_as_one() -> None:
    first, second = nn.Linear(6, 4).double(), nn.Linear(6, 4).double()
    x = torch.randn(3, 6, dtype=torch.float64)
    with torch.no_grad():
        assert relative(average_heads(x, first, second), (first(x) + second(x)) / 2) < 1e-12


@pytest.mark.parametrize("size", [(16, 16), (48, 112), (208, 256)])
def test_takes_any_multiple_of_16(size: tuple[int, int]) -> None:
    model = create_model("levit_128s", input_size=size, num_classes=7)
    assert run(model, torch.zeros(2, 3, *size)).shape == (2, 7)


def test_refuses_other_sizes_and_says_which_it_takes() -> None:
    with pytest.raises(UserError, match="levit_128s cannot take 225x225") as error:
        create_model("levit_128s", input_size=225)
    assert "multiples of 16" in error.value.fix


def test_resizes_the_biases_of_a_checkpoint_for_other_images() -> None:
    state = Golden.load("levit_128s").state_dict()
    model = create_model("levit_128s", input_size=(256, 192))
    load_checkpoint(model, state)
    for key, before, after in (("blocks.0.m", 14, (16, 12)), ("blocks.4", 14, (16, 12)), ("blocks.12", 7, (8, 6))):
        plane = state[f"{key}.attention_biases"].reshape(1, -1, before, before)
        expected = F.interpolate(plane, after, mode="bicubic").flatten(2)[0]
        assert model.state_dict()[f"{key}.attention_biases"].equal(expected)


def test_has_the_chosen_activation() -> None:
    assert activations(create_model("levit_128s", input_size=64)) == {nn.Hardswish: 25}
    assert activations(create_model("levit_128s", input_size=64, activation="relu")) == {nn.ReLU: 25}
