from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy_kit.graph import Graph, aten
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "merge_parallel_projections"
LAYERS = (aten.linear.default, aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)


def count(graph: Graph) -> int:
    return len(list(graph.calls(*LAYERS)))


def outputs(net: Any, x: Tensor) -> tuple[Tensor, ...]:
    return tuple(getattr(net, name)(x) for name in "abc" if hasattr(net, name))


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ((nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)), (2, 5, 4)),
        ((nn.Linear(4, 3), nn.Linear(4, 6, bias=False)), (2, 4)),
        ((nn.Linear(4, 3, bias=False), nn.Linear(4, 6), nn.Linear(4, 1, bias=False)), (4,)),
        ((nn.Linear(4, 3, bias=False), nn.Linear(4, 6, bias=False)), (2, 5, 6, 4)),
        ((nn.Conv2d(4, 3, 1), nn.Conv2d(4, 6, 1, bias=False)), (2, 4, 5, 6)),
        ((nn.Conv2d(4, 3, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)), (2, 4, 5, 6)),
        ((nn.Conv2d(4, 3, (1, 3), (2, 1), (0, 2), (1, 2)), nn.Conv2d(4, 6, (1, 3), (2, 1), (0, 2), (1, 2))), (4, 5, 6)),
        ((nn.Conv1d(4, 3, 1), nn.Conv1d(4, 6, 1)), (2, 4, 5)),
        ((nn.Conv3d(4, 3, 1), nn.Conv3d(4, 6, 1)), (2, 4, 2, 3, 4)),
    ],
    ids=str,
)
def test_merges(layers: tuple[nn.Module, ...], shape: tuple[int, ...]) -> None:
    model = Net(outputs, **dict(zip("abc", layers)))
    graph = assert_rewrites(PASS, model, noise(*shape), at=["a"])
    assert count(graph) == 1
    (layer,) = graph.calls(*LAYERS)
    has_bias = any(module.bias is not None for module in layers)
    assert (layer.args[2] is not None) == has_bias


def test_merges_the_projections_of_attention_with_a_dynamic_batch() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        q, k, v = net.q(x), net.k(x).transpose(1, 2), net.v(x)
        return net.proj((q @ k).softmax(-1) @ v)

    model = Net(forward, **{name: nn.Linear(4, 4) for name in ("q", "k", "v", "proj")})
    graph = assert_rewrites(PASS, model, noise(2, 5, 4), at=["q"], dynamic_batch=True)
    assert count(graph) == 2
    assert graph.module(noise(3, 5, 4)).shape == (3, 5, 4)


def test_merges_each_set_of_equal_layers_of_one_input() -> None:
    def forward(net: Any, x: Tensor) -> tuple[Tensor, ...]:
        y = net.a(x).relu()
        return net.b(y), net.c(y), net.d(x), net.wide(x), net.wide(x)

    members = {name: nn.Conv2d(4, 4, 1) for name in "abcd"}
    model = Net(forward, wide=nn.Conv2d(4, 4, 3), **members)
    graph = assert_rewrites(PASS, model, noise(2, 4, 5, 6), at=["a", "b", "wide"])
    assert count(graph) == 3


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3)),
        (nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1, stride=2)),
        (nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, padding=1)),
        (nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, dilation=2)),
        (nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 4, 1, groups=2)),
        (nn.Conv2d(4, 4, 1, groups=4), nn.Conv2d(4, 4, 1)),
        (nn.ConvTranspose2d(4, 4, 1), nn.ConvTranspose2d(4, 4, 1)),
        (nn.Conv2d(4, 4, 1), nn.Linear(6, 4)),
        (nn.Conv2d(4, 4, 1), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1))),
        (nn.Conv2d(4, 4, 1), nn.Identity()),
    ],
    ids=str,
)
def test_keeps(a: nn.Module, b: nn.Module) -> None:
    assert_keeps(PASS, Net(outputs, a=a, b=b), noise(2, 4, 6, 6))


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net.a(x) + F.linear(x, net.weight * x.mean()),
        lambda net, x: net.a(x) + F.linear(x, net.weight, x[0]),
        lambda net, x: net.b(net.a(x)),
        lambda net, x: F.linear(x, net.weight) + F.linear(net.weight, x),
    ],
    ids=["computed weight", "computed bias", "in a row", "as the weight"],
)
def test_keeps_what_reads_other_inputs_or_weights(forward: Callable[..., Tensor]) -> None:
    model = Net(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 4), weight=torch.ones(4, 4))
    assert_keeps(PASS, model, noise(4, 4))
