from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor, nn

from deploy_kit.graph import aten
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "affine_into_neighbours"
BN = aten.batch_norm.default


def classifier(pool: Callable[[Tensor], Tensor]) -> nn.Module:
    return Net(lambda net, x: net.head(pool(net.norm(x))), norm=nn.BatchNorm2d(4), head=nn.Linear(4, 6))


@pytest.mark.parametrize(
    "pool",
    [
        lambda y: y.mean((2, 3)),
        lambda y: y.mean((-1, -2)),
        lambda y: y.mean((2, 3), keepdim=True).flatten(1),
        lambda y: y.mean(3).mean(2),
        lambda y: y.flatten(2).mean(-1),
        lambda y: y.flatten(2).transpose(1, 2).mean(1),
        lambda y: y.mean((0, 2, 3)),
        lambda y: y.mean(0, keepdim=True).mean((2, 3)),
        lambda y: nn.functional.adaptive_avg_pool2d(y, 1).flatten(1),
        lambda y: nn.functional.adaptive_avg_pool2d(y, (1, 2)).permute(0, 2, 3, 1),
    ],
    ids=["mean", "negative", "keepdim", "twice", "flat", "tokens", "batch", "batch kept", "adaptive", "adaptive grid"],
)
def test_folds_through_an_average(pool: Callable[[Tensor], Tensor]) -> None:
    assert_rewrites(PASS, classifier(pool), noise(3, 4, 5, 7), at=["norm"], gone=(BN,))


def test_folds_into_a_convolution_after_the_average() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 6, 1))
    assert_rewrites(PASS, model, noise(2, 4, 5, 7), at=["0"], gone=(BN,))


def test_folds_into_two_heads() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.norm(x).mean((2, 3))
        return (net.head(y) + net.distilled(y)) / 2

    model = Net(forward, norm=nn.BatchNorm2d(4), head=nn.Linear(4, 6), distilled=nn.Linear(4, 6))
    assert_rewrites(PASS, model, noise(2, 4, 5, 7), at=["norm"], gone=(BN,))


def test_folds_with_a_dynamic_batch() -> None:
    model = classifier(lambda y: y.mean((2, 3)))
    assert_rewrites(PASS, model, noise(2, 4, 5, 7), at=["norm"], gone=(BN,), dynamic_batch=True)


@pytest.mark.parametrize(
    "pool",
    [
        lambda y: y.mean(1),
        lambda y: y.mean((1, 2)),
        lambda y: y.mean(-3, keepdim=True),
        lambda y: y.transpose(1, 3).mean((2, 3)),
        lambda y: y.amax((2, 3)),
        lambda y: y.sum((2, 3)),
        lambda y: y.std((2, 3)),
        lambda y: nn.functional.adaptive_max_pool2d(y, 1).flatten(1),
        lambda y: nn.functional.avg_pool2d(y, 3, padding=1).mean((2, 3)),
        lambda y: nn.functional.adaptive_avg_pool2d(y.permute(0, 2, 3, 1), (1, 4)),
        lambda y: nn.functional.adaptive_avg_pool2d(y.transpose(1, 2), 1).flatten(1),
    ],
)
def test_keeps_a_norm_before_anything_else(pool: Callable[[Tensor], Tensor]) -> None:
    assert_keeps(PASS, classifier(pool), noise(2, 4, 4, 4))


def test_keeps_a_norm_before_an_average_of_everything() -> None:
    model = Net(
        lambda net, x: net.head(net.norm(x).mean(dim=None, keepdim=True)),
        norm=nn.BatchNorm2d(4),
        head=nn.Conv2d(1, 6, 1),
    )
    assert_keeps(PASS, model, noise(2, 4, 5, 7))


def test_keeps_a_norm_whose_average_is_used_twice() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.norm(x).mean((2, 3))
        return net.head(y) + y

    assert_keeps(PASS, Net(forward, norm=nn.BatchNorm2d(4), head=nn.Linear(4, 4)), noise(2, 4, 5, 7))
