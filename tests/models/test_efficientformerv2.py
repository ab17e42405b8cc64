from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deploy_kit.errors import UserError
from deploy_kit.models import create_model, load_checkpoint
from deploy_kit.models.efficientformerv2 import LocalGlobalQuery
from tests.golden.golden import Golden
from tests.models.faithful import activations, check_deploys, check_takes_official_values, golden_error, relative, run


def test_computes_what_the_published_implementation_computes() -> None:
    assert golden_error("efficientformerv2_s0") <= 1e-9


def test_takes_every_value_of_the_official_checkpoint() -> None:
    check_takes_official_values("efficientformerv2_s0")


def test_leaves_a_graph_that_deploys() -> None:
    check_deploys(create_model("efficientformerv2_s0", input_size=(64, 96)), (64, 96))


def test_a_query_adds_every_second_pixel_to_its_convolution() -> None:
    query = LocalGlobalQuery(6, 8).double().eval()
    x = torch.randn(2, 6, 10, 7, dtype=torch.float64)
    with torch.no_grad():
        expected = query.proj(query.local(x) + x[:, :, ::2, ::2])
        assert relative(query(x), expected) < 1e-12


@pytest.mark.parametrize("size", [(32, 32), (96, 160)])
def test_takes_any_multiple_of_32(size: tuple[int, int]) -> None:
    model = create_model("efficientformerv2_s0", input_size=size, num_classes=7)
    assert run(model, torch.zeros(2, 3, *size)).shape == (2, 7)


def test_refuses_other_sizes_and_says_which_it_takes() -> None:
    with pytest.raises(UserError, match="efficientformerv2_s0 cannot take 240x240") as error:
        create_model("efficientformerv2_s0", input_size=240)
    assert "multiples of 32" in error.value.fix


def test_resizes_the_biases_of_a_checkpoint_for_other_images() -> None:
    state = Golden.load("efficientformerv2_s0").state_dict()
    model = create_model("efficientformerv2_s0", input_size=(96, 128))
    load_checkpoint(model, state)
    mixers = (("network.4.4.token_mixer", 7, (3, 4)), ("network.5.attn", 14, (6, 8)))
    for key, before, after in mixers:
        plane = state[f"{key}.attention_biases"].reshape(1, 8, before, before)
        expected = F.interpolate(plane, after, mode="bicubic").flatten(2)[0]
        assert model.state_dict()[f"{key}.attention_biases"].equal(expected)


def test_has_the_chosen_activation() -> None:
    count = 2 + 16 + 5  # a module each for the stem's layers, the blocks' MLPs, and the attentions' projections
    assert activations(create_model("efficientformerv2_s0", input_size=32)) == {nn.GELU: count - 2}
    hard = create_model("efficientformerv2_s0", input_size=32, activation="hardswish")
    assert activations(hard) == {nn.Hardswish: count - 2}
