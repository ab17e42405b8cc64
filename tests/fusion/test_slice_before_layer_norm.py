from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor, nn

from deploy_kit.graph import aten, is_call
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "slice_before_layer_norm"
NORM = aten.layer_norm.default


def model(after: Callable[[Tensor], Tensor], norm: nn.Module | None = None) -> Net:
    return Net(lambda net, x: after(net.norm(x)) + 1, norm=norm or nn.LayerNorm(4))


@pytest.mark.parametrize(
    ("after", "slices"),
    [
        (lambda y: y[:, ::2], 1),
        (lambda y: y[:, 1:4], 1),
        (lambda y: y[:, -3:], 1),
        (lambda y: y[1:], 1),
        (lambda y: y[:, ::2, ::3], 2),
        (lambda y: y.permute(0, 3, 1, 2)[:, :, ::2, ::2], 2),
        (lambda y: y.permute(0, 3, 1, 2)[:, :, 1:].permute(0, 2, 3, 1)[:, :, 1:], 2),
        (lambda y: y.transpose(1, 3).permute(3, 0, 1, 2)[:, :, :, ::2], 1),
    ],
)
def test_normalises_only_what_is_kept(after: Callable[[Tensor], Tensor], slices: int) -> None:
    graph = assert_rewrites(PASS, model(after), noise(2, 6, 5, 4), at=["norm"] * slices)
    (norm,) = graph.calls(NORM)
    assert is_call(norm.args[0], aten.slice.Tensor)
    assert len(list(graph.calls(aten.slice.Tensor))) == slices


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm(4, eps=0.1), nn.LayerNorm(4, elementwise_affine=False), nn.LayerNorm((5, 4))], ids=str
)
def test_keeps_what_the_norm_is(norm: nn.Module) -> None:
    assert_rewrites(PASS, model(lambda y: y[:, ::2], norm), noise(2, 6, 5, 4), at=["norm"])


def test_rewrites_with_a_dynamic_batch() -> None:
    tokens = model(lambda y: y[:, ::2])
    assert_rewrites(PASS, tokens, noise(2, 6, 4), at=["norm"], dynamic_batch=True)


def _residual(net: Any, x: Tensor) -> Tensor:
    y = net.norm(x)
    return y[:, ::2] + y[:, 1::2]


def _permuted_twice(net: Any, x: Tensor) -> Tensor:
    y = net.norm(x).permute(0, 3, 1, 2)
    return y[:, :, ::2].relu() + y.mean()


@pytest.mark.parametrize("forward", [_residual, _permuted_twice])
def test_keeps_a_norm_that_is_used_twice(forward: Callable[..., Tensor]) -> None:
    assert_keeps(PASS, Net(forward, norm=nn.LayerNorm(4)), noise(2, 6, 5, 4))


@pytest.mark.parametrize(
    ("norm", "after"),
    [
        (nn.LayerNorm(4), lambda y: y[..., :2]),
        (nn.LayerNorm(4), lambda y: y[..., ::1, 1:]),
        (nn.LayerNorm((5, 4)), lambda y: y[:, :, ::2]),
        (nn.LayerNorm(4), lambda y: y.permute(0, 3, 1, 2)[:, 1:]),
        (nn.LayerNorm(4), lambda y: y.transpose(1, 3)[:, ::2]),
        (nn.LayerNorm(4), lambda y: y.relu()[:, ::2]),
        (nn.LayerNorm(4), lambda y: y.reshape(2, 4, 30)[:, ::2]),
        (nn.LayerNorm(4), lambda y: y[:, 1]),
        (nn.Conv2d(6, 6, 1), lambda y: y.permute(0, 2, 3, 1)[:, ::2]),
    ],
)
def test_keeps(norm: nn.Module, after: Callable[[Tensor], Tensor]) -> None:
    assert_keeps(PASS, model(after, norm), noise(2, 6, 5, 4))
