from __future__ import annotations

import pytest
import torch
from torch import nn

from deploy_kit.errors import UserError
from deploy_kit.models import create_model, load_checkpoint
from deploy_kit.models.swin import cut, join, roll
from tests.golden.golden import Golden
from tests.models.faithful import activations, check_deploys, golden_error, golden_layout, layout, relative, run

CONSTANTS = ("relative_position_index", "attn_mask")


@pytest.fixture(scope="module")
def official() -> dict[str, torch.Tensor]:
    return Golden.load("swin_tiny").state_dict()


def test_computes_what_the_published_implementation_computes() -> None:
    assert golden_error("swin_tiny") <= 1e-9


def test_has_the_keys_shapes_and_types_of_official_checkpoints_but_for_their_constants() -> None:
    assert layout(create_model("swin_tiny")) == golden_layout("swin_tiny", without=CONSTANTS)


def test_takes_timm_s_names_of_the_same_weights(official: dict[str, torch.Tensor]) -> None:
    renamed = {}
    for key, value in official.items():
        if not key.endswith(CONSTANTS):
            for stage in (2, 1, 0):
                key = key.replace(f"layers.{stage}.downsample", f"layers.{stage + 1}.downsample")
            renamed[key.replace("head.", "head.fc.")] = value
    model = create_model("swin_tiny")
    load_checkpoint(model, renamed)
    assert all(value.equal(official[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("constant", ["layers.2.blocks.1.attn_mask", "layers.0.blocks.0.attn.relative_position_index"])
def test_refuses_constants_that_are_not_the_published_ones(constant: str, official: dict[str, torch.Tensor]) -> None:
    with pytest.raises(UserError, match=constant):
        load_checkpoint(create_model("swin_tiny"), {**official, constant: official[constant].flip(-1)})


def test_its_graph_has_four_axes_at_most_and_no_shapes_masks_or_tables() -> None:
    check_deploys(create_model("swin_tiny"), (224, 224))


def test_images_of_another_size_get_the_window_of_the_authors(official: dict[str, torch.Tensor]) -> None:
    """7 where it divides every stage; 384 pixels have windows of 12, and the biases of 7 are interpolated."""
    same = create_model("swin_tiny", input_size=(224, 448), num_classes=7)
    assert same.layers[0].blocks[1].attn.window == 7
    assert run(same, torch.zeros(1, 3, 224, 448)).shape == (1, 7)
    larger = create_model("swin_tiny", input_size=384)
    load_checkpoint(larger, official)
    learned = official["layers.0.blocks.0.attn.relative_position_bias_table"].T.reshape(1, 3, 13, 13)
    table = larger.layers[0].blocks[0].attn.relative_position_bias_table.T.reshape(1, 3, 23, 23)
    assert table.equal(nn.functional.interpolate(learned, (23, 23), mode="bicubic"))


def test_a_stage_of_one_window_is_not_shifted() -> None:
    model = create_model("swin_tiny")
    shifts = [[block.shift for block in stage.blocks] for stage in model.layers]
    assert shifts == [[0, 3], [0, 3], [0, 3, 0, 3, 0, 3], [0, 0]]


@pytest.mark.parametrize("size", [(224, 256), (96, 64)])
def test_refuses_other_sizes_and_says_which_it_takes(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="cannot take") as error:
        create_model("swin_tiny", input_size=size)
    assert "multiple of 32" in error.value.fix
    assert "multiples of 224" in error.value.fix


def test_tokens_attend_to_their_window_of_the_shifted_image_alone() -> None:
    """The first pixel's window is cut off by the image's border to 3 x 3 tokens: those see a change of it."""
    block = create_model("swin_tiny", input_size=448).layers[2].blocks[1].double()
    x = torch.randn(1, 28, 28, 384, dtype=torch.float64)
    changed = x.clone()
    changed[0, 0, 0] = torch.randn(384)
    reached = (run(block, x) - run(block, changed)).abs().sum(3)[0] > 1e-9
    assert reached[:3, :3].all()
    assert not reached[3:, :].any()
    assert not reached[:, 3:].any()


def test_windows_and_rolls_are_those_of_six_axes_and_torch() -> None:
    x = torch.randn(2, 14, 21, 5)
    windows = x.reshape(2, 2, 7, 3, 7, 5).permute(0, 1, 3, 2, 4, 5).reshape(-1, 49, 5)
    assert cut(x, 7).equal(windows)
    assert join(windows, (14, 21), 7).equal(x)
    for shift in (-3, 3):
        assert roll(x, shift).equal(torch.roll(x, (shift, shift), (1, 2)))


@pytest.mark.parametrize(("activation", "layer"), [(None, nn.GELU), ("relu", nn.ReLU), ("hardswish", nn.Hardswish)])
def test_has_the_chosen_activation_in_every_mlp(activation: str | None, layer: type[nn.Module]) -> None:
    assert activations(create_model("swin_tiny", activation=activation)) == {layer: 12}


def test_masks_do_not_change_with_the_batch(official: dict[str, torch.Tensor]) -> None:
    model = create_model("swin_tiny")
    load_checkpoint(model, official)
    x = torch.randn(2, 3, 224, 224)
    assert relative(run(model, x)[1:], run(model, x[1:])) < 1e-5


def test_biases_follow_the_weights() -> None:
    """They are looked up at every call: nothing is kept of what was loaded before."""
    attention = create_model("swin_tiny").layers[0].blocks[1].attn
    before = attention.bias()
    with torch.no_grad():
        attention.relative_position_bias_table += 1
    torch.testing.assert_close(attention.bias(), before + 1)
