from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy_kit.graph import Graph, aten, set_argument
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "affine_into_neighbours"
BN = aten.batch_norm.default


@pytest.mark.parametrize(
    ("norm", "consumer", "shape"),
    [
        (nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1), (2, 4, 5, 7)),
        (nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1, bias=False), (2, 4, 5, 7)),
        (nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 6, 3, stride=2, dilation=2), (2, 4, 6, 7)),
        (nn.BatchNorm2d(4), nn.Conv2d(4, 6, (2, 3), groups=2), (2, 4, 5, 7)),
        (nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3, groups=4), (2, 4, 5, 7)),
        (nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3, padding="valid"), (2, 4, 5, 7)),
        (nn.BatchNorm1d(4), nn.Conv1d(4, 6, 3, groups=2), (2, 4, 5)),
        (nn.BatchNorm3d(4), nn.Conv3d(4, 6, 2, groups=2), (2, 4, 3, 4, 5)),
        (nn.BatchNorm1d(4, eps=0.1), nn.Linear(4, 6), (5, 4)),
        (nn.BatchNorm1d(4), nn.Linear(4, 6, bias=False), (5, 4)),
    ],
    ids=str,
)
def test_folds(norm: nn.Module, consumer: nn.Module, shape: tuple[int, ...]) -> None:
    assert_rewrites(PASS, nn.Sequential(norm, consumer, nn.ReLU()), noise(*shape), at=["0"], gone=(BN,))


@pytest.mark.parametrize(
    "between",
    [
        lambda y: y.permute(0, 2, 3, 1),
        lambda y: y.flatten(2).transpose(1, 2),
        lambda y: y[:, :, ::2, 1].permute(0, 2, 1),
        lambda y: y[:, :, 1, 1],
        lambda y: y.select(0, 1).permute(1, 2, 0),
        lambda y: y[1, :, 1].t(),
        lambda y: y.unsqueeze(0).permute(0, 1, 3, 4, 2),
        lambda y: y.permute(2, 3, 1, 0).reshape(5, 3, 4, 1, 2).permute(0, 1, 3, 4, 2),
    ],
    ids=["permute", "flatten", "slice", "select", "select batch", "t", "unsqueeze", "new axis"],
)
def test_folds_through_views(between: Callable[[Tensor], Tensor]) -> None:
    model = Net(lambda net, x: net.fc(between(net.norm(x))), norm=nn.BatchNorm2d(4), fc=nn.Linear(4, 6))
    assert_rewrites(PASS, model, noise(2, 4, 5, 3), at=["norm"], gone=(BN,))


def test_folds_into_a_linear_layer_after_a_flattened_single_pixel() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 6))
    assert_rewrites(PASS, model, noise(2, 4, 1, 1), at=["0"], gone=(BN,))


def test_folds_into_every_consumer_and_says_which() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.norm(x)
        return net.a(y) + net.b(y) + net.c(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    model = Net(forward, norm=nn.BatchNorm2d(4), a=nn.Conv2d(4, 6, 1), b=nn.Conv2d(4, 6, 1), c=nn.Linear(4, 6))
    assert_rewrites(PASS, model, noise(2, 4, 5, 3), at=["norm"], gone=(BN,))


def test_folds_into_only_the_call_of_a_shared_layer_that_follows_the_norm() -> None:
    model = Net(lambda net, x: net.conv(net.norm(x)) + net.conv(x), norm=nn.BatchNorm2d(4), conv=nn.Conv2d(4, 6, 1))
    assert_rewrites(PASS, model, noise(2, 4, 5, 3), at=["norm"], gone=(BN,))


@pytest.mark.parametrize(
    "consumer",
    [
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, 1, padding=1),
        nn.Conv2d(4, 6, (3, 1), padding=(1, 0)),
        nn.Conv2d(4, 6, 3, padding="same"),
    ],
    ids=str,
)
def test_leaves_a_sum_of_a_norm_before_a_border_of_zeros(consumer: nn.Module) -> None:
    graph = assert_rewrites(PASS, nn.Sequential(nn.BatchNorm2d(4), consumer), noise(2, 4, 4, 4), at=["0"], gone=(BN,))
    assert len(list(graph.calls(aten.add.Tensor))) == 1


@pytest.mark.parametrize(
    "consumer",
    [
        nn.Conv2d(4, 6, 2, padding="same"),
        nn.ConvTranspose2d(4, 6, 2),
        nn.Sequential(nn.ReLU(), nn.Conv2d(4, 6, 1)),
        nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(4, 6, 1)),
        nn.Sequential(nn.AvgPool2d(2, padding=1), nn.Conv2d(4, 6, 1)),
        nn.Linear(4, 6),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 6)),
        nn.Identity(),
    ],
    ids=str,
)
def test_keeps_a_norm_before(consumer: nn.Module) -> None:
    assert_keeps(PASS, nn.Sequential(nn.BatchNorm2d(4), consumer), noise(2, 4, 4, 4))


@pytest.mark.parametrize(
    "between",
    [
        lambda y: y.transpose(1, 2),
        lambda y: y.permute(0, 3, 1, 2),
        lambda y: y.flip(1),
        lambda y: y.reshape(2, 2, 2, 4, 4).transpose(1, 2).reshape(2, 4, 4, 4),
        lambda y: y.flatten(1).reshape(2, -1, 4, 4).transpose(1, 3),
    ],
    ids=["transpose", "permute", "flip", "channel shuffle", "moved"],
)
def test_keeps_a_norm_of_other_channels(between: Callable[[Tensor], Tensor]) -> None:
    model = Net(lambda net, x: net.conv(between(net.norm(x))), norm=nn.BatchNorm2d(4), conv=nn.Conv2d(4, 6, 1))
    assert_keeps(PASS, model, noise(2, 4, 4, 4))


@pytest.mark.parametrize(
    "between",
    [
        lambda y: y.reshape(2, 6, 4),
        lambda y: y.flatten(1).reshape(2, 3, 2, 4),
        lambda y: y.reshape(-1, 4),
    ],
    ids=["same sizes", "split", "joined"],
)
def test_keeps_a_reshape_that_mixes_channels(between: Callable[[Tensor], Tensor]) -> None:
    model = Net(lambda net, x: net.fc(between(net.norm(x))), norm=nn.BatchNorm1d(4), fc=nn.Linear(4, 5))
    assert_keeps(PASS, model, noise(2, 4, 6))


@pytest.mark.parametrize("cut", [lambda y: y[:, :4], lambda y: y[:, ::2], lambda y: y[:, 2:6]])
def test_keeps_a_norm_of_which_only_some_channels_are_read(cut: Callable[[Tensor], Tensor]) -> None:
    model = Net(lambda net, x: net.conv(cut(net.norm(x))), norm=nn.BatchNorm2d(8), conv=nn.Conv2d(4, 6, 1))
    assert_keeps(PASS, model, noise(2, 8, 4, 4))


def _residual(net: Any, x: Tensor) -> Tensor:
    y = net.norm(x)
    return y + net.a(y)


def _second_output(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    y = net.norm(x)
    return net.a(y), y.flatten(1)


@pytest.mark.parametrize("forward", [_residual, _second_output])
def test_keeps_a_norm_with_a_use_that_cannot_take_it(forward: Callable[..., Any]) -> None:
    assert_keeps(PASS, Net(forward, norm=nn.BatchNorm2d(4), a=nn.Conv2d(4, 4, 1)), noise(2, 4, 5, 5))


def test_leaves_a_sum_of_a_norm_that_is_read_with_and_without_a_border() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.norm(x)
        return net.a(y) + net.padded(y)

    members = {"norm": nn.BatchNorm2d(4), "a": nn.Conv2d(4, 4, 1), "padded": nn.Conv2d(4, 4, 3, padding=1)}
    assert_rewrites(PASS, Net(forward, **members), noise(2, 4, 5, 5), at=["norm"], gone=(BN,))


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: F.conv2d(x, net.norm(x)[:, :, :1, :1]),
        lambda net, x: F.linear(x, net.norm(x)[0, 0]),
        lambda net, x: F.linear(x, net.weight, net.norm(x)[0, :, 0, 0]),
        lambda net, x: F.linear(net.norm(x).permute(0, 2, 3, 1), net.weight * x.mean()),
        lambda net, x: F.linear(net.norm(x).permute(0, 2, 3, 1), net.weight, net.bias * x.mean()),
    ],
    ids=["kernel", "weight", "bias", "computed weight", "computed bias"],
)
def test_keeps_layers_whose_weights_are_computed(forward: Callable[..., Tensor]) -> None:
    model = Net(forward, norm=nn.BatchNorm2d(4), weight=torch.ones(4, 4), bias=torch.ones(4))
    assert_keeps(PASS, model, noise(4, 4, 4, 4))


def test_keeps_a_norm_in_training_mode() -> None:
    def train(graph: Graph) -> None:
        for norm in graph.calls(BN):
            set_argument(norm, "training", True)

    assert_keeps(PASS, nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1)), noise(2, 4, 3, 3), edit=train)
