from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deploy_kit.errors import UserError
from deploy_kit.models import create_model, load_checkpoint
from tests.golden.golden import Golden
from tests.models.faithful import activations, check_deploys, check_takes_official_values, golden_error, relative, run


def test_computes_what_the_published_implementation_computes() -> None:
    assert golden_error("efficientformer_l1") <= 1e-9


def test_takes_every_value_of_the_official_checkpoint() -> None:
    check_takes_official_values("efficientformer_l1")


def test_leaves_a_graph_that_deploys() -> None:
    check_deploys(create_model("efficientformer_l1", input_size=(64, 96)), (64, 96))


@pytest.mark.parametrize("size", [(32, 32), (64, 160)])
def test_takes_any_multiple_of_32(size: tuple[int, int]) -> None:
    model = create_model("efficientformer_l1", input_size=size, num_classes=7)
    assert run(model, torch.zeros(2, 3, *size)).shape == (2, 7)


def test_refuses_other_sizes_and_says_which_it_takes() -> None:
    with pytest.raises(UserError, match="efficientformer_l1 cannot take 240x224") as error:
        create_model("efficientformer_l1", input_size=(240, 224))
    assert "multiples of 32" in error.value.fix


def test_resizes_the_biases_of_a_checkpoint_for_other_images() -> None:
    state, key = Golden.load("efficientformer_l1").state_dict(), "network.6.4.token_mixer.attention_biases"
    model = create_model("efficientformer_l1", input_size=(96, 64))
    load_checkpoint(model, state)
    plane = state[key].reshape(1, 8, 7, 7)
    assert model.state_dict()[key].equal(F.interpolate(plane, (3, 2), mode="bicubic").reshape(8, 6))


def test_both_heads_count() -> None:
    model, image = create_model("efficientformer_l1", input_size=32).double(), torch.ones(1, 3, 32, 32).double()
    both = run(model, image)
    first, second = model.get_submodule("head"), model.get_submodule("dist_head")
    alone = []
    for head in (first, second):
        model.head = model.dist_head = head
        alone.append(run(model, image))
    assert relative((alone[0] + alone[1]) / 2, both) < 1e-12
    assert relative(alone[0], both) > 0.01


def test_has_the_chosen_activation_in_its_blocks_and_relu_in_its_stem() -> None:
    assert activations(create_model("efficientformer_l1", input_size=32)) == {nn.ReLU: 2, nn.GELU: 15}
    silu = create_model("efficientformer_l1", input_size=32, activation="silu")
    assert activations(silu) == {nn.ReLU: 2, nn.SiLU: 15}
