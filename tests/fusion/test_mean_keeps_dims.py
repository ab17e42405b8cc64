from __future__ import annotations

import pytest
from torch import nn

from deploy_kit.graph import aten
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "mean_keeps_dims"


@pytest.mark.parametrize("dims", [(2, 3), (-1, -2), (1,), (0, 3), (0, 1, 2, 3)], ids=str)
def test_drops_axes_afterwards(dims: tuple[int, ...]) -> None:
    graph = assert_rewrites(PASS, Net(lambda net, x: x.mean(dims) + 1), noise(2, 3, 4, 5), at=[""])
    (mean,) = graph.calls(aten.mean.dim)
    assert mean.meta["val"].dim() == 4


def test_rewrites_with_a_dynamic_batch() -> None:
    assert_rewrites(PASS, Net(lambda net, x: x.mean((2, 3)) + 1), noise(2, 3, 4, 5), at=[""], dynamic_batch=True)


def test_keeps_an_average_that_keeps_its_axes() -> None:
    assert_keeps(PASS, Net(lambda net, x: x.mean((2, 3), keepdim=True)), noise(2, 3, 4, 5))


def test_keeps_an_average_of_everything() -> None:
    assert_keeps(PASS, nn.Sequential(Net(lambda net, x: x.mean() + x)), noise(2, 3, 4, 5))
