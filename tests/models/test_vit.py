from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deploy_kit.errors import MissingDependencyError, UserError
from deploy_kit.models import create_model, load_checkpoint
from deploy_kit.timm_models import create_timm_model
from tests.golden.golden import Golden
from tests.models.faithful import activations, check_deploys, golden_error, golden_layout, layout, run


def test_computes_what_the_published_implementation_computes() -> None:
    assert golden_error("deit_tiny") <= 1e-9


def test_has_the_keys_shapes_and_types_of_official_checkpoints() -> None:
    assert layout(create_model("deit_tiny")) == golden_layout("deit_tiny")


def test_its_graph_has_four_axes_at_most_and_no_shapes() -> None:
    check_deploys(create_model("deit_tiny"), (224, 224))


def test_positions_of_another_image_size_are_interpolated_and_the_class_token_s_is_not() -> None:
    official = Golden.load("deit_tiny").state_dict()
    model = create_model("deit_tiny", input_size=(160, 256))
    assert run(model, torch.zeros(2, 3, 160, 256)).shape == (2, 1000)
    resized = model.from_official(official)["pos_embed"]
    assert resized.shape == model.pos_embed.shape == (1, 1 + 10 * 16, 192)
    assert resized[:, 0].equal(official["pos_embed"][:, 0])
    plane = official["pos_embed"][:, 1:].reshape(1, 14, 14, 192).permute(0, 3, 1, 2)
    expected = nn.functional.interpolate(plane, (10, 16), mode="bicubic", align_corners=False)
    torch.testing.assert_close(resized[:, 1:], expected.permute(0, 2, 3, 1).reshape(1, -1, 192))


def test_positions_of_the_same_size_are_left_alone() -> None:
    official = Golden.load("deit_tiny").state_dict()
    assert create_model("deit_tiny").from_official(official)["pos_embed"] is official["pos_embed"]


def test_positions_are_interpolated_on_loading() -> None:
    official = Golden.load("deit_tiny").state_dict()
    model = create_model("deit_tiny", input_size=(160, 256))
    load_checkpoint(model, official)
    assert model.pos_embed.equal(model.from_official(official)["pos_embed"].float())


def jax_layout(state: dict[str, Tensor], heads: int) -> dict[str, Tensor]:
    """The same weights as ViT's authors publish them: https://github.com/google-research/vision_transformer."""
    jax = {
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "embedding/kernel": state["patch_embed.proj.weight"].permute(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
    }
    for block in range(12):
        ours, theirs = f"blocks.{block}", f"Transformer/encoderblock_{block}"
        for norm, layer in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            jax[f"{theirs}/{layer}/scale"] = state[f"{ours}.{norm}.weight"]
            jax[f"{theirs}/{layer}/bias"] = state[f"{ours}.{norm}.bias"]
        for dense, layer in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
            jax[f"{theirs}/MlpBlock_3/{layer}/kernel"] = state[f"{ours}.mlp.{dense}.weight"].T
            jax[f"{theirs}/MlpBlock_3/{layer}/bias"] = state[f"{ours}.mlp.{dense}.bias"]
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        weights, biases = (state[f"{ours}.attn.qkv.{kind}"].chunk(3) for kind in ("weight", "bias"))
        for part, weight, bias in zip(("query", "key", "value"), weights, biases):
            jax[f"{attention}/{part}/kernel"] = weight.T.unflatten(1, (heads, -1))
            jax[f"{attention}/{part}/bias"] = bias.unflatten(0, (heads, -1))
        jax[f"{attention}/out/kernel"] = state[f"{ours}.attn.proj.weight"].T.unflatten(0, (heads, -1))
        jax[f"{attention}/out/bias"] = state[f"{ours}.attn.proj.bias"]
    return {key: value.contiguous() for key, value in jax.items()}


def test_takes_the_checkpoints_of_vit_s_authors(tmp_path: Path) -> None:
    official = Golden.load("deit_tiny").state_dict()
    np.savez(tmp_path / "Ti_16.npz", **{key: value.numpy() for key, value in jax_layout(official, 3).items()})
    model = create_model("deit_tiny")
    load_checkpoint(model, tmp_path / "Ti_16.npz")
    assert all(value.equal(official[key].float()) for key, value in model.state_dict().items())


def test_timm_reads_the_same_from_the_checkpoints_of_vit_s_authors(tmp_path: Path) -> None:
    try:
        theirs, _ = create_timm_model("vit_tiny_patch16_224", num_classes=None, seed=0)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    official = Golden.load("deit_tiny").state_dict()
    np.savez(tmp_path / "Ti_16.npz", **{key: value.numpy() for key, value in jax_layout(official, 3).items()})
    load_pretrained: Any = theirs.load_pretrained
    load_pretrained(str(tmp_path / "Ti_16.npz"))
    assert all(value.equal(official[key].float()) for key, value in theirs.state_dict().items())


def test_a_checkpoint_of_vit_s_authors_without_a_query_names_it(tmp_path: Path) -> None:
    jax = jax_layout(Golden.load("deit_tiny").state_dict(), 3)
    del jax["Transformer/encoderblock_7/MultiHeadDotProductAttention_1/key/kernel"]
    with pytest.raises(UserError, match=r"1 missing, first 'blocks\.7\.attn\.qkv\.weight'"):
        load_checkpoint(create_model("deit_tiny"), jax)


def test_refuses_a_distilled_checkpoint_which_has_one_more_token() -> None:
    official = Golden.load("deit_tiny").state_dict()
    with pytest.raises(UserError, match="unexpected, first 'dist_token'"):
        load_checkpoint(create_model("deit_tiny"), {**official, "dist_token": official["cls_token"]})


@pytest.mark.parametrize("size", [(224, 230), (8, 224)])
def test_refuses_other_sizes_and_says_which_it_takes(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="deit_tiny cannot take") as error:
        create_model("deit_tiny", input_size=size)
    assert "multiples of 16" in error.value.fix


def test_takes_the_smallest_image_and_other_classes() -> None:
    model = create_model("deit_tiny", input_size=16, num_classes=7)
    assert run(model, torch.zeros(2, 3, 16, 16)).shape == (2, 7)


@pytest.mark.parametrize(("activation", "layer"), [(None, nn.GELU), ("relu", nn.ReLU), ("hardswish", nn.Hardswish)])
def test_has_the_chosen_activation_in_every_mlp(activation: str | None, layer: type[nn.Module]) -> None:
    assert activations(create_model("deit_tiny", activation=activation)) == {layer: 12}
