from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from deploy_kit.graph import aten
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "compose_permutations"
PERMUTATIONS = (aten.permute.default, aten.transpose.int)


@pytest.mark.parametrize(
    ("function", "left", "rewrites"),
    [
        (lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2), 0, 1),
        (lambda x: x.permute(0, 2, 3, 1).permute(0, 2, 1, 3), 1, 1),
        (lambda x: x.permute(1, 2, 3, 0).permute(1, 2, 3, 0), 1, 1),
        (lambda x: x.permute(0, -2, -1, 1).transpose(1, -1), 1, 1),
        (lambda x: x.transpose(1, 3).transpose(-1, 1), 0, 1),
        (lambda x: x.transpose(1, 2).transpose(2, 3), 1, 1),
        (lambda x: x.permute(0, 1, 2, 3), 0, 1),
        (lambda x: x.transpose(2, 2), 0, 1),
        (lambda x: x.permute(1, 2, 3, 0).permute(1, 2, 3, 0).permute(1, 2, 3, 0).permute(1, 2, 3, 0), 0, 3),
        (lambda x: x.permute(1, 2, 0, 3).transpose(0, 1).permute(3, 1, 0, 2), 1, 2),
    ],
)
def test_merges(function: Callable[[Tensor], Tensor], left: int, rewrites: int) -> None:
    model = Net(lambda net, x: function(x.relu()) + 1)
    graph = assert_rewrites(PASS, model, noise(2, 3, 4, 5), at=[""] * rewrites)
    assert len(list(graph.calls(*PERMUTATIONS))) == left


def test_merges_with_a_permutation_that_is_used_elsewhere_too() -> None:
    def forward(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.permute(0, 2, 3, 1)
        return y.permute(0, 3, 1, 2) + 1, y.relu()

    assert_rewrites(PASS, Net(forward), noise(2, 3, 4, 5), at=[""])


def test_merges_before_a_view() -> None:
    model = Net(lambda net, x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2).view(2, -1))
    assert_rewrites(PASS, model, noise(2, 3, 4, 5), at=[""], gone=PERMUTATIONS)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.permute(0, 2, 3, 1),
        lambda x: x.transpose(1, 2),
        lambda x: x.permute(0, 2, 3, 1).relu().permute(0, 3, 1, 2),
        lambda x: x.permute(0, 2, 3, 1).flatten(1, 2).transpose(1, 2),
    ],
)
def test_keeps(function: Callable[[Tensor], Tensor]) -> None:
    assert_keeps(PASS, Net(lambda net, x: function(x) + 1), noise(2, 3, 4, 5))
