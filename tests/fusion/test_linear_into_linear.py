from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy_kit.graph import Graph, aten
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "linear_into_linear"
MAPS = (aten.linear.default, aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)


def count(graph: Graph) -> int:
    return len(list(graph.calls(*MAPS)))


@pytest.mark.parametrize(
    ("first", "second", "shape"),
    [
        (nn.Linear(4, 8), nn.Linear(8, 3), (2, 4)),
        (nn.Linear(4, 2), nn.Linear(2, 3), (2, 4)),
        (nn.Linear(4, 8, bias=False), nn.Linear(8, 3), (2, 5, 4)),
        (nn.Linear(4, 8), nn.Linear(8, 3, bias=False), (2, 5, 6, 4)),
        (nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), (4,)),
        (nn.Conv2d(4, 8, 1), nn.Conv2d(8, 3, 1), (2, 4, 5, 6)),
        (nn.Conv2d(4, 8, 1), nn.Conv2d(8, 3, 1, stride=2), (2, 4, 5, 6)),
        (nn.Conv2d(4, 8, 1), nn.Conv2d(8, 3, (3, 2), stride=2, dilation=2), (2, 4, 7, 6)),
        (nn.Conv2d(4, 8, 1, bias=False), nn.Conv2d(8, 3, 3, padding=1), (2, 4, 5, 6)),
        (nn.Conv2d(4, 8, 1, bias=False), nn.Conv2d(8, 3, 4, padding=(2, 1), stride=3), (2, 4, 5, 6)),
        (nn.Conv2d(4, 8, 3, padding=1, stride=2), nn.Conv2d(8, 3, 1), (2, 4, 5, 6)),
        (nn.Conv2d(4, 8, 3, dilation=2, bias=False), nn.Conv2d(8, 3, 1, bias=False), (2, 4, 5, 6)),
        (nn.Conv2d(4, 8, 1, padding=1), nn.Conv2d(8, 3, 1), (2, 4, 5, 6)),
        (nn.Conv2d(4, 8, 1, stride=2), nn.Conv2d(8, 3, 1), (2, 4, 5, 6)),
        (nn.Conv2d(4, 8, 1), nn.Conv2d(8, 3, 1), (4, 5, 6)),
        (nn.Conv1d(4, 8, 1), nn.Conv1d(8, 3, 3), (2, 4, 5)),
        (nn.Conv3d(4, 8, (1, 2, 3)), nn.Conv3d(8, 3, 1), (2, 4, 3, 4, 5)),
    ],
    ids=str,
)
def test_multiplies(first: nn.Module, second: nn.Module, shape: tuple[int, ...]) -> None:
    graph = assert_rewrites(PASS, nn.Sequential(first, second), noise(*shape), at=["0"])
    assert count(graph) == 1


def test_multiplies_a_whole_row_of_layers() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 5), nn.Linear(5, 4))
    assert count(assert_rewrites(PASS, model, noise(2, 4), at=["0", "1", "2"])) == 1


@pytest.mark.parametrize(
    "between",
    [
        lambda y: y.permute(0, 2, 3, 1),
        lambda y: y.flatten(2).transpose(1, 2),
        lambda y: y.reshape(2, 8, 5, 2, 3).permute(0, 2, 3, 4, 1),
        lambda y: y.permute(0, 2, 3, 1).reshape(-1, 8),
        lambda y: y.permute(2, 3, 0, 1).reshape(5, 3, 4, -1),
        lambda y: y[:, :, ::2, 1].permute(0, 2, 1),
        lambda y: y[:, :, 1, 1],
        lambda y: y.unsqueeze(0).permute(0, 1, 3, 4, 2).contiguous(),
    ],
    ids=["permute", "flatten", "reshape", "tokens", "minus one", "slice", "select", "unsqueeze"],
)
@pytest.mark.parametrize("conv", [nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 3, padding=1)], ids=str)
def test_multiplies_through_views(conv: nn.Module, between: Callable[[Tensor], Tensor]) -> None:
    model = Net(lambda net, x: net.fc(between(net.conv(x))), conv=conv, fc=nn.Linear(8, 3))
    assert count(assert_rewrites(PASS, model, noise(2, 4, 5, 6), at=["conv"])) == 1


def test_multiplies_a_linear_layer_into_the_convolution_after_it() -> None:
    model = Net(
        lambda net, x: net.conv(net.fc(x).permute(0, 3, 1, 2)), fc=nn.Linear(4, 8), conv=nn.Conv2d(8, 3, 3, stride=2)
    )
    assert count(assert_rewrites(PASS, model, noise(2, 5, 6, 4), at=["fc"])) == 1


def test_multiplies_with_a_dynamic_batch() -> None:
    model = Net(
        lambda net, x: net.fc(net.conv(x).reshape(x.shape[0], 8, 30).transpose(1, 2)),
        conv=nn.Conv2d(4, 8, 1),
        fc=nn.Linear(8, 3),
    )
    graph = assert_rewrites(PASS, model, noise(2, 4, 5, 6), at=["conv"], dynamic_batch=True)
    assert count(graph) == 1
    assert graph.module(noise(3, 4, 5, 6)).shape == (3, 30, 3)


def test_multiplies_only_the_call_of_a_shared_layer_that_precedes_another() -> None:
    model = Net(lambda net, x: net.b(net.a(x)) + net.a(x).relu(), a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    assert count(assert_rewrites(PASS, model, noise(2, 4), at=["a"])) == 2


@pytest.mark.parametrize(
    ("first", "second", "shape"),
    [
        (nn.Linear(8, 2), nn.Linear(2, 8), (2, 8)),
        (nn.Linear(4, 2), nn.Linear(2, 4), (2, 4)),
        (nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 3), (2, 8, 5, 6)),
        (nn.Conv2d(8, 2, 3), nn.Conv2d(2, 8, 1), (2, 8, 5, 6)),
    ],
    ids=str,
)
def test_keeps_a_bottleneck(first: nn.Module, second: nn.Module, shape: tuple[int, ...]) -> None:
    assert_keeps(PASS, nn.Sequential(first, second), noise(*shape))


def test_keeps_a_layer_of_which_few_places_are_read() -> None:
    """The kernel would run with more channels on all places, to spare a product on one."""
    model = Net(lambda net, x: net.fc(net.conv(x)[:, :, 0, 0]), conv=nn.Conv2d(4, 3, 3), fc=nn.Linear(3, 9))
    assert_keeps(PASS, model, noise(2, 4, 7, 7))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (nn.Conv2d(4, 8, 1), nn.Conv2d(8, 3, 3, padding=1)),
        (nn.Conv2d(4, 8, 1), nn.Conv2d(8, 3, 3, padding=(0, 1))),
        (nn.Conv2d(4, 8, 1), nn.Conv2d(8, 3, 2, padding="same")),
        (nn.Conv2d(4, 8, 1, padding=1), nn.Conv2d(8, 3, 3)),
        (nn.Conv2d(4, 8, 1, stride=2), nn.Conv2d(8, 3, 3)),
        (nn.Conv2d(4, 8, 3), nn.Conv2d(8, 3, 3)),
        (nn.Conv2d(4, 8, 3), nn.Conv2d(8, 3, 1, stride=2)),
        (nn.Conv2d(4, 8, 3), nn.Conv2d(8, 3, 1, padding=1)),
        (nn.Conv2d(4, 8, 1, groups=2), nn.Conv2d(8, 3, 1)),
        (nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 1, groups=2)),
        (nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, groups=8)),
        (nn.Conv2d(4, 8, 1), nn.ConvTranspose2d(8, 3, 1)),
        (nn.ConvTranspose2d(4, 8, 1), nn.Conv2d(8, 3, 1)),
        (nn.Conv2d(4, 8, 1), nn.Sequential(nn.ReLU(), nn.Conv2d(8, 3, 1))),
        (nn.Conv2d(4, 8, 1), nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(8, 3, 1))),
        (nn.Conv2d(4, 8, 1), nn.Linear(8, 3)),
        (nn.Conv2d(4, 8, 1), nn.Sequential(nn.Flatten(), nn.Linear(8 * 64, 3))),
    ],
    ids=str,
)
def test_keeps(first: nn.Module, second: nn.Module) -> None:
    assert_keeps(PASS, nn.Sequential(first, second), noise(2, 4, 8, 8))


def _twice(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    return net.b(y) + y


def _two_readers(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    return net.b(y) + net.c(y.transpose(0, 1)).transpose(0, 1)


def _an_output(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    y = net.a(x)
    return net.b(y), y


@pytest.mark.parametrize(
    "forward",
    [
        _twice,
        _two_readers,
        _an_output,
        lambda net, x: F.linear(x, net.weight * x.mean()) @ net.weight,
        lambda net, x: net.b(F.linear(x, net.weight * x.mean())),
        lambda net, x: F.linear(net.a(x), net.weight * x.mean()),
        lambda net, x: F.linear(net.a(x), net.weight, x[0, 0]),
        lambda net, x: F.linear(x, net.a(x)[0]),
        lambda net, x: net.b(net.a(x).flip(-1)),
        lambda net, x: net.b(net.a(x).transpose(1, 2)),
        lambda net, x: net.b(net.a(x)[..., :2].repeat(1, 1, 2)),
        lambda net, x: net.b(net.a(x).reshape(2, 2, 2, 4).transpose(1, 3).reshape(2, 4, 4)),
    ],
    ids=[
        "twice",
        "two readers",
        "an output",
        "no layer",
        "computed first",
        "computed second",
        "computed bias",
        "a weight",
        "flip",
        "other axis",
        "repeat",
        "shuffle",
    ],
)
def test_keeps_what_is_no_row_of_two_layers(forward: Callable[..., Any]) -> None:
    members = {name: nn.Linear(4, 4) for name in "abc"}
    assert_keeps(PASS, Net(forward, weight=torch.ones(4, 4), **members), noise(2, 4, 4))
