from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy_kit.errors import UserError
from deploy_kit.models import create_model, load_checkpoint
from deploy_kit.models.efficientvit_m import EfficientViT, EfficientViTConfig, WindowAttention
from tests.golden.golden import Golden
from tests.models.faithful import activations, check_deploys, check_takes_official_values, golden_error, relative, run


@pytest.mark.parametrize("name", ["efficientvit_m0", "efficientvit_m4"])
def test_computes_what_the_published_implementation_computes(name: str) -> None:
    assert golden_error(name) <= 1e-9


@pytest.mark.parametrize("name", ["efficientvit_m0", "efficientvit_m4"])
def test_takes_every_value_of_the_official_checkpoint(name: str) -> None:
    check_takes_official_values(name)


def test_leaves_a_graph_that_deploys() -> None:
    small = EfficientViTConfig((16, 24, 32), (1, 1, 1), (2, 2, 2), (5, 3, 3, 3))
    check_deploys(EfficientViT(small, (128, 64), 10, nn.ReLU), (128, 64))


def in_windows(attention: WindowAttention, x: Tensor) -> Tensor:
    """The same attention, one window at a time."""
    (height, width), out = attention.window, torch.zeros_like(x)
    padded = F.pad(x, (0, width, 0, height))
    for top in range(0, x.shape[2], height):
        for left in range(0, x.shape[3], width):
            part = out[:, :, top : top + height, left : left + width]
            window = attention.attn(padded[:, :, top : top + height, left : left + width])
            part.copy_(window[:, :, : part.shape[2], : part.shape[3]])
    return out


@pytest.mark.parametrize("resolution", [(14, 14), (14, 7), (8, 15), (16, 3), (5, 6)])
def test_attends_in_windows_and_fills_the_last_ones_up_with_zeros(resolution: tuple[int, int]) -> None:
    attention = WindowAttention(24, 2, (3, 5), resolution, nn.ReLU).double().eval()
    with torch.no_grad():
        attention.attn.attention_biases.normal_()
        x = torch.randn(3, 24, *resolution, dtype=torch.float64)
        assert relative(attention(x), in_windows(attention, x)) < 1e-12


@pytest.mark.parametrize("size", [(16, 16), (64, 96), (240, 256)])
def test_takes_any_multiple_of_16(size: tuple[int, int]) -> None:
    model = create_model("efficientvit_m0", input_size=size, num_classes=7)
    assert run(model, torch.zeros(2, 3, *size)).shape == (2, 7)


def test_refuses_other_sizes_and_says_which_it_takes() -> None:
    with pytest.raises(UserError, match="efficientvit_m0 cannot take 230x224") as error:
        create_model("efficientvit_m0", input_size=(230, 224))
    assert "multiples of 16" in error.value.fix


def test_resizes_the_biases_of_a_checkpoint_for_other_images() -> None:
    state = Golden.load("efficientvit_m0").state_dict()
    model = create_model("efficientvit_m0", input_size=(320, 256))
    load_checkpoint(model, state)
    windows = model.state_dict()
    kept, resized = "blocks2.3.mixer.m.attn.attention_biases", "blocks3.5.mixer.m.attn.attention_biases"
    assert windows[kept].equal(state[kept])
    plane = state[resized].reshape(1, 4, 4, 4)
    assert windows[resized].equal(F.interpolate(plane, (5, 4), mode="bicubic").reshape(4, 20))


def test_refuses_a_checkpoint_whose_biases_are_ordered_in_another_way() -> None:
    state = Golden.load("efficientvit_m0").state_dict()
    key = "blocks2.3.mixer.m.attn.attention_bias_idxs"
    state[key] = state[key].flip(0)
    with pytest.raises(UserError, match="not the table of offsets"):
        load_checkpoint(create_model("efficientvit_m0"), state)


def test_refuses_the_checkpoint_of_another_size() -> None:
    with pytest.raises(UserError, match="does not fit the model"):
        load_checkpoint(create_model("efficientvit_m1"), Golden.load("efficientvit_m0").state_dict())


def test_biases_follow_the_parameter() -> None:
    model = create_model("efficientvit_m0", input_size=64)
    image = torch.zeros(1, 3, 64, 64)
    before = run(model, image)
    with torch.no_grad():
        model.get_parameter("blocks1.0.mixer.m.attn.attention_biases")[:, 1] += 3
    assert not run(model, image).equal(before)


def test_has_the_chosen_activation() -> None:
    assert activations(create_model("efficientvit_m0")) == {nn.ReLU: 29}
    assert activations(create_model("efficientvit_m0", activation="hardswish")) == {nn.Hardswish: 29}
