from __future__ import annotations

import pytest
import torch
from torch import nn

from deploy_kit.errors import MissingDependencyError
from deploy_kit.models import create_model, load_checkpoint
from deploy_kit.models.mobilevit import fold, unfold
from deploy_kit.statistics import count
from deploy_kit.timm_models import create_timm_model
from tests.models.faithful import activations, check_graph, golden_error, golden_layout, graph_of, layout, relative, run


def test_computes_what_the_published_implementation_computes() -> None:
    assert golden_error("mobilevit_xxs") <= 1e-9


def test_has_the_keys_shapes_and_types_of_official_checkpoints() -> None:
    assert layout(create_model("mobilevit_xxs")) == golden_layout("mobilevit_xxs")


def test_its_graph_has_four_axes_at_most_and_no_shape_arithmetic() -> None:
    graph = graph_of("mobilevit_xxs")
    check_graph(graph)
    assert "to" not in count(graph).operators  # softmax in float32 costs no cast in a float32 model


def test_so_it_does_with_a_free_batch_and_odd_sides() -> None:
    check_graph(graph_of("mobilevit_xxs", input_size=(72, 104), dynamic_batch=True))


def test_unfolding_gathers_the_pixels_at_one_place_of_their_patches() -> None:
    x = torch.randn(3, 5, 4, 6)
    expected = [x[:, :, i::2, j::2].flatten(2).transpose(1, 2) for j in (0, 1) for i in (0, 1)]
    assert unfold(x).equal(torch.cat(expected))
    assert fold(unfold(x), 4, 6).equal(x)


@pytest.mark.parametrize("size", [(1, 1), (72, 104), (224, 160)])
def test_takes_images_of_any_size(size: tuple[int, int]) -> None:
    model = create_model("mobilevit_xxs", input_size=size, num_classes=7)
    assert run(model, torch.zeros(2, 3, *size)).shape == (2, 7)


@pytest.mark.parametrize(("activation", "layer"), [(None, nn.SiLU), ("relu", nn.ReLU), ("gelu", nn.GELU)])
def test_has_the_chosen_activation_everywhere(activation: str | None, layer: type[nn.Module]) -> None:
    assert activations(create_model("mobilevit_xxs", activation=activation)) == {layer: 34}


TIMM_KEYS = {
    "stem.bn.running_var": "conv_1.block.norm.running_var",
    "stages.0.0.conv1_1x1.conv.weight": "layer_1.0.block.exp_1x1.block.conv.weight",
    "stages.1.2.conv2_kxk.bn.bias": "layer_2.2.block.conv_3x3.block.norm.bias",
    "stages.2.0.conv3_1x1.bn.weight": "layer_3.0.block.red_1x1.block.norm.weight",
    "stages.2.1.conv_kxk.conv.weight": "layer_3.1.local_rep.conv_3x3.block.conv.weight",
    "stages.2.1.conv_1x1.weight": "layer_3.1.local_rep.conv_1x1.block.conv.weight",
    "stages.3.1.transformer.1.norm1.weight": "layer_4.1.global_rep.1.pre_norm_mha.0.weight",
    "stages.3.1.transformer.3.attn.qkv.bias": "layer_4.1.global_rep.3.pre_norm_mha.1.qkv_proj.bias",
    "stages.3.1.transformer.0.attn.proj.weight": "layer_4.1.global_rep.0.pre_norm_mha.1.out_proj.weight",
    "stages.4.1.transformer.0.norm2.bias": "layer_5.1.global_rep.0.pre_norm_ffn.0.bias",
    "stages.4.1.transformer.0.mlp.fc1.weight": "layer_5.1.global_rep.0.pre_norm_ffn.1.weight",
    "stages.4.1.transformer.0.mlp.fc2.weight": "layer_5.1.global_rep.0.pre_norm_ffn.4.weight",
    "stages.2.1.norm.weight": "layer_3.1.global_rep.2.weight",
    "stages.3.1.norm.bias": "layer_4.1.global_rep.4.bias",
    "stages.4.1.norm.weight": "layer_5.1.global_rep.3.weight",
    "stages.4.1.conv_proj.bn.weight": "layer_5.1.conv_proj.block.norm.weight",
    "stages.4.1.conv_fusion.conv.weight": "layer_5.1.fusion.block.conv.weight",
    "final_conv.conv.weight": "conv_1x1_exp.block.conv.weight",
    "head.fc.bias": "classifier.fc.bias",
}


def test_knows_the_names_of_timm_s_checkpoints() -> None:
    model = create_model("mobilevit_xxs")
    stem, zero = {"stem.conv.weight": torch.zeros(0)}, torch.zeros(0)
    named = {key: list(model.from_official({**stem, key: zero}))[1] for key in TIMM_KEYS}
    assert named == TIMM_KEYS
    assert set(TIMM_KEYS.values()) <= set(model.state_dict())


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevit_xs", "mobilevit_s"])
def test_computes_what_timm_computes_of_odd_sides(name: str) -> None:
    try:
        theirs, _ = create_timm_model(name, num_classes=None, seed=0)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    model = create_model(name)
    load_checkpoint(model, theirs.state_dict())
    x = torch.rand(1, 3, 72, 104, dtype=torch.float64)
    assert relative(run(model.double(), x), run(theirs.eval().double(), x)) <= 1e-7
