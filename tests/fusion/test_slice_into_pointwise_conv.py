from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy_kit.graph import argument, aten
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "slice_into_pointwise_conv"
SLICE = aten.slice.Tensor


def model(cut: Callable[[Tensor], Tensor], conv: nn.Module | None = None) -> Net:
    return Net(lambda net, x: net.conv(cut(x)), conv=conv or nn.Conv2d(4, 6, 1))


@pytest.mark.parametrize(
    ("cut", "conv", "stride"),
    [
        (lambda x: x[:, :, ::2, ::2], nn.Conv2d(4, 6, 1), [2, 2]),
        (lambda x: x[..., ::2, ::3], nn.Conv2d(4, 6, 1, bias=False), [2, 3]),
        (lambda x: x[..., ::3], nn.Conv2d(4, 6, 1), [1, 3]),
        (lambda x: x[:, :, ::3], nn.Conv2d(4, 6, 1), [3, 1]),
        (lambda x: x[:, :, 0:7:2], nn.Conv2d(4, 6, 1), [2, 1]),
        (lambda x: x[..., ::2][..., ::2], nn.Conv2d(4, 6, 1), [1, 4]),
        (lambda x: x[..., ::2, ::2], nn.Conv2d(4, 6, 1, stride=2), [4, 4]),
        (lambda x: x[..., ::2, ::2], nn.Conv2d(4, 6, 1, stride=(1, 3)), [2, 6]),
        (lambda x: x[..., ::2, ::2], nn.Conv2d(4, 6, 1, groups=2, dilation=2), [2, 2]),
        (lambda x: x[1][..., ::2, ::2], nn.Conv2d(4, 6, 1), [2, 2]),
    ],
)
def test_folds(cut: Callable[[Tensor], Tensor], conv: nn.Module, stride: list[int]) -> None:
    graph = assert_rewrites(PASS, model(cut, conv), noise(2, 4, 7, 9), at=["conv"], gone=(SLICE,))
    (call,) = graph.calls(aten.conv2d.default)
    assert argument(call, "stride") == stride


def test_folds_with_a_dynamic_batch() -> None:
    strided = model(lambda x: x[..., ::2, ::2])
    assert_rewrites(PASS, strided, noise(2, 4, 7, 9), at=["conv"], gone=(SLICE,), dynamic_batch=True)


def test_folds_up_to_a_slice_that_is_used_twice() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = x[:, :, ::2]
        return net.conv(y[..., ::2]) + y.mean()

    graph = assert_rewrites(PASS, Net(forward, conv=nn.Conv2d(4, 6, 1)), noise(2, 4, 7, 9), at=["conv"])
    assert len(list(graph.calls(SLICE))) == 1


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, 3),
        nn.Conv2d(4, 6, (1, 2)),
        nn.Conv2d(4, 6, 1, padding=1),
        nn.Conv2d(4, 6, 1, padding=(0, 1)),
        nn.ConvTranspose2d(4, 6, 1),
    ],
    ids=str,
)
def test_keeps_slices_before(conv: nn.Module) -> None:
    assert_keeps(PASS, model(lambda x: x[..., ::2, ::2], conv), noise(2, 4, 7, 9))


@pytest.mark.parametrize(
    "cut",
    [
        lambda x: x[..., 1::2],
        lambda x: x[..., -3::2],
        lambda x: x[..., :4:2],
        lambda x: x[..., :-1:2],
        lambda x: x[..., 1:],
        lambda x: x[..., :5],
        lambda x: x[:1],
        lambda x: x[::2],
        lambda x: torch.cat([x, x], 1)[:, ::2],
        lambda x: x[..., ::2].relu(),
    ],
)
def test_keeps(cut: Callable[[Tensor], Tensor]) -> None:
    assert_keeps(PASS, model(cut), noise(2, 4, 7, 9))


def test_keeps_a_slice_that_is_used_twice() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = x[..., ::2]
        return net.conv(y) + y.mean()

    assert_keeps(PASS, Net(forward, conv=nn.Conv2d(4, 6, 1)), noise(2, 4, 7, 9))


def test_folds_into_only_one_call_of_a_shared_convolution() -> None:
    twice = Net(lambda net, x: net.conv(x[..., ::2, ::2]).mean() + net.conv(x), conv=nn.Conv2d(4, 6, 1))
    assert_rewrites(PASS, twice, noise(2, 4, 7, 9), at=["conv"], gone=(SLICE,))


def test_keeps_a_computed_kernel() -> None:
    computed = Net(lambda net, x: F.conv2d(x[..., ::2], net.kernel * x.mean()), kernel=torch.ones(6, 4, 1, 1))
    assert_keeps(PASS, computed, noise(2, 4, 7, 9))
