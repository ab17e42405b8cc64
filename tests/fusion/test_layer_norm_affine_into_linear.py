from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy_kit.graph import Graph, argument, aten
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "layer_norm_affine_into_linear"


def assert_plain(graph: Graph, eps: float = 1e-5) -> None:
    (norm,) = graph.calls(aten.layer_norm.default)
    assert argument(norm, "weight") is None
    assert argument(norm, "bias") is None
    assert argument(norm, "eps") == eps


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm(4), nn.LayerNorm(4, eps=0.1), nn.LayerNorm(4, bias=False)], ids=["affine", "eps", "gain only"]
)
@pytest.mark.parametrize("bias", [True, False])
def test_folds(norm: nn.LayerNorm, bias: bool) -> None:
    graph = assert_rewrites(PASS, nn.Sequential(norm, nn.Linear(4, 6, bias=bias)), noise(2, 5, 4), at=["0"])
    assert_plain(graph, norm.eps)


def test_folds_a_bias_without_a_gain() -> None:
    model = Net(lambda net, x: net.fc(F.layer_norm(x, (4,), None, net.shift)), fc=nn.Linear(4, 6), shift=torch.ones(4))
    assert_plain(assert_rewrites(PASS, model, noise(2, 5, 4), at=[""]))


@pytest.mark.parametrize(
    ("between", "consumer"),
    [
        (lambda y: y.permute(0, 3, 1, 2), nn.Conv2d(4, 6, 1, groups=2)),
        (lambda y: y.permute(0, 3, 1, 2), nn.Conv2d(4, 6, 3)),
        (lambda y: y.flatten(1, 2).transpose(1, 2), nn.Conv1d(4, 6, 1)),
        (lambda y: y.reshape(2, -1, 4)[:, ::2], nn.Linear(4, 6)),
        (lambda y: y[:, 0, 0], nn.Linear(4, 6)),
    ],
)
def test_folds_through_views(between: Callable[[Tensor], Tensor], consumer: nn.Module) -> None:
    model = Net(lambda net, x: net.consumer(between(net.norm(x))), norm=nn.LayerNorm(4), consumer=consumer)
    assert_plain(assert_rewrites(PASS, model, noise(2, 5, 3, 4), at=["norm"]))


def test_folds_into_every_consumer() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.norm(x)
        return net.q(y) + net.k(y) * net.v(y)

    model = Net(forward, norm=nn.LayerNorm(4), q=nn.Linear(4, 6), k=nn.Linear(4, 6), v=nn.Linear(4, 6, bias=False))
    assert_plain(assert_rewrites(PASS, model, noise(2, 5, 4), at=["norm"], dynamic_batch=True))


def test_folds_into_only_the_call_of_a_shared_layer_that_follows_the_norm() -> None:
    model = Net(lambda net, x: net.fc(net.norm(x)) + net.fc(x), norm=nn.LayerNorm(4), fc=nn.Linear(4, 6))
    assert_plain(assert_rewrites(PASS, model, noise(2, 5, 4), at=["norm"]))


@pytest.mark.parametrize(
    ("norm", "after"),
    [
        (nn.LayerNorm((4, 4)), nn.Linear(4, 6)),
        (nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 6)),
        (nn.LayerNorm(4), nn.Conv2d(4, 6, 1)),
        (nn.LayerNorm(4), nn.Sequential(nn.GELU(), nn.Linear(4, 6))),
        (nn.LayerNorm(4), nn.Sequential(nn.Flatten(), nn.Linear(64, 6))),
        (nn.LayerNorm(4), nn.ConvTranspose2d(4, 6, 1)),
        (nn.LayerNorm(4), nn.Identity()),
        (nn.GroupNorm(2, 4), nn.Linear(4, 6)),
    ],
    ids=str,
)
def test_keeps(norm: nn.Module, after: nn.Module) -> None:
    assert_keeps(PASS, nn.Sequential(norm, after), noise(2, 4, 4, 4))


def _residual(net: Any, x: Tensor) -> Tensor:
    y = net.norm(x)
    return y + net.fc(y)


def _padded_too(net: Any, x: Tensor) -> Tensor:
    y = net.norm(x)
    return net.fc(y) + net.padded(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _transposed(net: Any, x: Tensor) -> Tensor:
    return net.fc(net.norm(x).transpose(2, 3))


def _computed_gain(net: Any, x: Tensor) -> Tensor:
    return net.fc(F.layer_norm(x, (4,), net.norm.weight * x.mean(), net.norm.bias))


def _computed_shift(net: Any, x: Tensor) -> Tensor:
    return net.fc(F.layer_norm(x, (4,), None, net.norm.bias * x.mean()))


def _averaged(net: Any, x: Tensor) -> Tensor:
    return net.fc(net.norm(x).mean(1))


@pytest.mark.parametrize("forward", [_residual, _padded_too, _transposed, _computed_gain, _computed_shift, _averaged])
def test_keeps_a_norm_with_another_use(forward: Callable[..., Tensor]) -> None:
    members = {"norm": nn.LayerNorm(4), "fc": nn.Linear(4, 4), "padded": nn.Conv2d(4, 4, 3, padding=1)}
    assert_keeps(PASS, Net(forward, **members), noise(2, 4, 4, 4))
