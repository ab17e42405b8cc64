from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy_kit.graph import aten
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "identity_into_depthwise"
ADD = aten.add.Tensor


def residual(conv: nn.Module) -> nn.Module:
    return Net(lambda net, x: x + net.conv(x), conv=conv)


@pytest.mark.parametrize(
    ("conv", "shape"),
    [
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), (2, 4, 5, 6)),
        (nn.Conv2d(4, 4, 5, padding=2, groups=4, bias=False), (2, 4, 5, 6)),
        (nn.Conv2d(4, 4, (3, 7), padding=(1, 3), groups=4), (2, 4, 5, 6)),
        (nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4), (2, 4, 5, 6)),
        (nn.Conv2d(4, 4, (3, 5), padding="same", dilation=2, groups=4), (2, 4, 5, 6)),
        (nn.Conv2d(4, 4, 1, groups=4), (2, 4, 5, 6)),
        (nn.Conv2d(1, 1, 3, padding=1), (2, 1, 5, 6)),
        (nn.Conv1d(4, 4, 3, padding=1, groups=4), (2, 4, 6)),
        (nn.Conv3d(4, 4, 3, padding=1, groups=4), (2, 4, 3, 4, 5)),
    ],
    ids=str,
)
def test_folds(conv: nn.Module, shape: tuple[int, ...]) -> None:
    assert_rewrites(PASS, residual(conv), noise(*shape), at=["conv"], gone=(ADD,))


@pytest.mark.parametrize(
    "add",
    [
        lambda x, y: y + x,
        lambda x, y: torch.add(x, y, alpha=1),
        lambda x, y: y.add_(x),
    ],
    ids=["reversed", "alpha 1", "in place"],
)
def test_folds_every_way_to_add(add: Callable[[Tensor, Tensor], Tensor]) -> None:
    model = Net(lambda net, x: add(x, net.conv(x)), conv=nn.Conv2d(4, 4, 3, padding=1, groups=4))
    assert_rewrites(PASS, model, noise(2, 4, 5, 6), at=["conv"], gone=(ADD,))


def test_folds_with_a_dynamic_batch() -> None:
    model = residual(nn.Conv2d(4, 4, 3, padding=1, groups=4))
    graph = assert_rewrites(PASS, model, noise(2, 4, 5, 6), at=["conv"], gone=(ADD,), dynamic_batch=True)
    assert graph.module(noise(3, 4, 5, 6)).shape == (3, 4, 5, 6)


def test_folds_only_the_call_of_a_shared_kernel_that_has_a_residual() -> None:
    model = Net(lambda net, x: net.conv((x + net.conv(x)).relu()), conv=nn.Conv2d(4, 4, 3, padding=1, groups=4))
    assert_rewrites(PASS, model, noise(2, 4, 5, 6), at=["conv"], gone=(ADD,))


@pytest.mark.parametrize(
    ("conv", "shape"),
    [
        (nn.Conv2d(4, 4, 3, padding=1, stride=2, groups=4), (2, 4, 2, 2)),
        (nn.Conv2d(4, 4, 3, padding=1, stride=(1, 2), groups=4), (2, 4, 3, 2)),
        (nn.Conv2d(4, 4, 2, padding=1, groups=4), (2, 4, 1, 1)),
        (nn.Conv2d(4, 4, (3, 2), padding=1, groups=4), (2, 4, 5, 1)),
        (nn.Conv2d(4, 4, 4, padding="same", groups=4), (2, 4, 5, 6)),
        (nn.Conv2d(4, 4, 3, groups=4), (2, 4, 3, 3)),
        (nn.Conv2d(4, 4, 3, padding=(1, 0), groups=4), (2, 4, 3, 3)),
        (nn.Conv2d(4, 4, 3, padding=1, dilation=2, groups=4), (2, 4, 3, 3)),
        (nn.Conv2d(1, 4, 3, padding=1), (2, 1, 5, 6)),
        (nn.Conv2d(4, 1, 3, padding=1), (2, 4, 5, 6)),
        (nn.Conv2d(4, 4, 3, padding=1), (2, 4, 5, 6)),
        (nn.Conv2d(4, 4, 3, padding=1, groups=2), (2, 4, 5, 6)),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="circular"), (2, 4, 5, 6)),
        (nn.ConvTranspose2d(4, 4, 3, padding=1, groups=4), (2, 4, 5, 6)),
    ],
    ids=str,
)
def test_keeps_a_residual_around(conv: nn.Module, shape: tuple[int, ...]) -> None:
    assert_keeps(PASS, residual(conv), noise(*shape))


def _used_twice(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    return (x + y) * y


@pytest.mark.parametrize(
    "forward",
    [
        _used_twice,
        lambda net, x: x + 2 * net.conv(x),
        lambda net, x: torch.add(x, net.conv(x), alpha=2),
        lambda net, x: torch.add(net.conv(x), x, alpha=2),
        lambda net, x: x - net.conv(x),
        lambda net, x: x * net.conv(x),
        lambda net, x: x + net.conv(x.flip(3)),
        lambda net, x: x.relu() + net.conv(x),
        lambda net, x: x + net.conv(x).relu(),
        lambda net, x: net.conv(x) + 1,
        lambda net, x: (lambda y: y + y)(net.conv(x)),
        lambda net, x: x + net.conv(net.conv(x)),
    ],
)
def test_keeps_what_is_no_residual(forward: Callable[..., Tensor]) -> None:
    assert_keeps(PASS, Net(forward, conv=nn.Conv2d(4, 4, 3, padding=1, groups=4)), noise(2, 4, 5, 6))


def test_keeps_a_computed_kernel() -> None:
    model = Net(
        lambda net, x: x + F.conv2d(x, net.kernel * x.mean(), padding=1, groups=4), kernel=torch.ones(4, 1, 3, 3)
    )
    assert_keeps(PASS, model, noise(2, 4, 5, 6))
