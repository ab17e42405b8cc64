from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deploy_kit.advise import all_variants
from deploy_kit.advise.stem import find_stem
from deploy_kit.advise.variant import Effect, Variant
from deploy_kit.capture import capture
from deploy_kit.graph import Graph, aten
from deploy_kit.models.layers import randomize_
from tests.fusion.support import Net, Shapes, noise

VARIANTS = {variant.name: variant for variant in all_variants()}
RELU, SOFTMAX, VALUES = (
    "every activation as ReLU",
    "ReLU divided by the number of keys, for softmax",
    "values alone: what attention costs at most",
)
PATCHES, CONVOLUTIONS = "one convolution of 4x4 patches", "two 3x3 convolutions with stride 2"


def edited(name: str, model: nn.Module, *inputs: Tensor) -> tuple[Graph, int]:
    """The graph of a model after a variant's edit, which must run and keep its fake shapes true."""
    randomize_(model, seed=0)
    graph = capture(model.double().eval(), inputs)
    places = VARIANTS[name].edit(graph)
    graph.clean()
    Shapes(graph.module).run(*inputs)
    return graph, places


def calls(graph: Graph) -> Counter[str]:
    return Counter(str(node.target) for node in graph.nodes if node.op == "call_function")


def attention(form: str) -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        q, k, v = net.qkv(x).chunk(3, -1)
        if form == "fused":
            return F.scaled_dot_product_attention(q, k, v)
        weights = (q @ k.transpose(1, 2) * 0.5).softmax(-1)
        return weights @ v if form == "written out" else (v.transpose(1, 2) @ weights.transpose(1, 2)).transpose(1, 2)

    return Net(forward, qkv=nn.Linear(8, 24))


@pytest.mark.parametrize(
    "activation", [nn.GELU(), nn.SiLU(), nn.Hardswish(), nn.SiLU(inplace=True), nn.GELU(approximate="tanh")], ids=str
)
def test_every_activation_becomes_relu(activation: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(4, 4), activation, nn.Linear(4, 4), activation)
    x = noise(2, 4)
    graph, places = edited(RELU, model, x)
    assert places == 2
    assert torch.equal(graph.module(x), nn.Sequential(model[0], nn.ReLU(), model[2], nn.ReLU())(x))


def test_gelu_alone_gets_its_form_with_tanh() -> None:
    x = noise(2, 4)
    graph, places = edited("GELU in its form with tanh", nn.Sequential(nn.GELU(), nn.SiLU()), x)
    assert places == 1
    assert torch.equal(graph.module(x), F.silu(F.gelu(x, approximate="tanh")))


def test_an_approximation_is_told_from_what_needs_training() -> None:
    effects = {variant.effect: variant.name for variant in VARIANTS.values()}
    assert effects[Effect.APPROXIMATE] == "GELU in its form with tanh"
    assert sum(variant.effect == Effect.APPROXIMATE for variant in VARIANTS.values()) == 1
    assert "trained again" in Effect.RETRAIN.advice


def test_layer_norm_becomes_a_gain_and_a_shift_of_each_channel() -> None:
    x = noise(2, 5, 8)
    graph, places = edited("every LayerNorm as BatchNorm", nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)), x)
    assert places == 1
    assert not list(graph.calls(aten.layer_norm.default))
    first, second = (graph.module(noise(2, 5, 8, seed=seed)) for seed in (1, 2))
    both = graph.module(noise(2, 5, 8, seed=1) + noise(2, 5, 8, seed=2))
    zero = graph.module(torch.zeros_like(x))
    torch.testing.assert_close(both - zero, first + second - 2 * zero)


def test_group_norm_has_its_channels_in_the_second_axis() -> None:
    graph, places = edited("every GroupNorm as BatchNorm", nn.GroupNorm(2, 6), noise(2, 6, 4, 4))
    assert places == 1
    assert {tuple(value.shape) for value in graph.module.buffers()} == {(1, 6, 1, 1)}


def test_a_layer_norm_over_whole_images_is_kept() -> None:
    assert edited("every LayerNorm as BatchNorm", nn.LayerNorm((6, 4, 4)), noise(2, 6, 4, 4))[1] == 0


@pytest.mark.parametrize("form", ["fused", "written out", "transposed"])
def test_softmax_becomes_relu(form: str) -> None:
    x = noise(2, 5, 8)
    graph, places = edited(SOFTMAX, attention(form), x)
    assert places == 1
    assert not list(graph.calls(aten.softmax.int, aten.scaled_dot_product_attention.default))


@pytest.mark.parametrize("form", ["fused", "written out", "transposed"])
def test_values_alone_leave_no_product_of_queries_and_keys(form: str) -> None:
    x = noise(2, 5, 8)
    model = attention(form)
    graph, places = edited(VALUES, model, x)
    assert places == 1
    assert not list(graph.calls(aten.matmul.default, aten.softmax.int))
    torch.testing.assert_close(graph.module(x), model.qkv(x).chunk(3, -1)[2])


def test_a_softmax_that_is_no_attention_is_kept() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Softmax(-1))
    assert edited(SOFTMAX, model, noise(2, 8))[1] == 0
    assert edited(VALUES, model, noise(2, 8))[1] == 0


def test_values_that_do_not_fit_are_kept() -> None:
    model = Net(lambda net, x: (x @ x.transpose(1, 2))[:, :2].softmax(-1) @ x)
    assert edited(VALUES, model, noise(2, 5, 8))[1] == 0


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(3, 8, 7, 4, 3), nn.BatchNorm2d(8), nn.GELU()),
        (nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 8, 3, 2, 1)),
        (nn.Conv2d(3, 8, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
    ],
    ids=["overlapping", "three convolutions", "pool"],
)
def test_a_stem_becomes_one_convolution_or_two(layers: tuple[nn.Module, ...]) -> None:
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
    for name, strides in ((PATCHES, [4]), (CONVOLUTIONS, [2, 2])):
        graph, places = edited(name, model, noise(1, 3, 16, 24))
        assert places == 1
        assert [node.args[3][0] for node in graph.calls(aten.conv2d.default)] == strides
        assert not list(graph.calls(aten.max_pool2d.default, aten.batch_norm.default))


def test_a_stem_that_is_one_of_them_already_is_no_variant() -> None:
    assert edited(PATCHES, nn.Conv2d(3, 8, 4, 4), noise(1, 3, 16, 16))[1] == 0
    assert edited(CONVOLUTIONS, nn.Conv2d(3, 8, 4, 4), noise(1, 3, 16, 16))[1] == 1


def test_a_stem_ends_where_its_features_are_used_twice() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        x = net.first(x)
        return net.second(x).mean() + x.mean()

    model = Net(forward, first=nn.Conv2d(3, 8, 3, 2, 1), second=nn.Conv2d(8, 8, 3, 2, 1))
    graph = capture(model.double().eval(), (noise(1, 3, 16, 16),))
    assert find_stem(graph) is None


def test_a_model_of_tokens_has_no_stem() -> None:
    assert edited(PATCHES, nn.Linear(8, 8), noise(2, 5, 8))[1] == 0


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=lambda variant: variant.name)
def test_a_model_with_nothing_to_change_is_left_alone(variant: Variant) -> None:
    graph = capture(nn.Linear(4, 4).double().eval(), (noise(2, 4),))
    before = calls(graph)
    assert variant.edit(graph) == 0
    assert calls(graph) == before
