from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deploy_kit.fusion.compose_permutations import PERMUTATIONS
from tests.fusion.support import Net, apply, assert_keeps, noise

PASS = "sink_permutations"


def _shared(x: Tensor) -> tuple[Tensor, Tensor]:
    y = x.permute(0, 2, 3, 1)
    return y.relu().permute(0, 3, 1, 2), y


@pytest.mark.parametrize(
    ("function", "left"),
    [
        (lambda x: x.permute(0, 2, 3, 1).relu().permute(0, 3, 1, 2), 0),
        (lambda x: F.hardswish(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), 0),
        (lambda x: x.permute(1, 2, 3, 0).sigmoid().permute(3, 0, 1, 2), 0),
        (lambda x: x.transpose(1, 2).tanh().transpose(1, 2), 0),
        (lambda x: (x.permute(0, 2, 3, 1) + x.relu().permute(0, 2, 3, 1)).permute(0, 3, 1, 2), 0),
        (lambda x: (x.permute(1, 2, 3, 0) + x.tanh().reshape(3, 4, 5, 2)).permute(3, 0, 1, 2), 1),
        (lambda x: (x.reshape(3, 4, 5, 2).sin() - x.permute(1, 2, 3, 0)).permute(3, 0, 1, 2), 1),
        (
            lambda x: torch.where(
                x.permute(0, 3, 1, 2) > 0, x.permute(0, 3, 1, 2), x.sin().permute(0, 3, 1, 2)
            ).permute(0, 2, 3, 1),
            0,
        ),
        (lambda x: (x.permute(0, 2, 3, 1) * 3 + 1).permute(0, 3, 1, 2), 0),
        (lambda x: x.permute(0, 3, 2, 1).mean((1, 2)), 0),
        (lambda x: x.permute(3, 1, 0, 2).mean(-1), 1),
        (lambda x: x.permute(3, 1, 0, 2).mean((0, 2), keepdim=True), 1),
        (lambda x: x.permute(1, 2, 3, 0).mean(0).relu(), 1),
    ],
)
def test_moves(function: Callable[[Tensor], Any], left: int) -> None:
    graph, rewrites = apply(PASS, Net(lambda net, x: function(x)), noise(2, 3, 4, 5))
    assert rewrites
    assert len(list(graph.calls(*PERMUTATIONS))) == left


def test_is_exact_where_the_permuted_tensor_is_used_elsewhere_too() -> None:
    _, rewrites = apply(PASS, Net(lambda net, x: _shared(x)), noise(2, 3, 4, 5))
    assert rewrites


def test_is_exact_with_a_dynamic_batch() -> None:
    model = Net(lambda net, x: x.permute(0, 2, 3, 1).relu().permute(0, 3, 1, 2).mean((2, 3)))
    _, rewrites = apply(PASS, model, noise(2, 3, 4, 5), dynamic_batch=True)
    assert rewrites


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.relu(),
        lambda x: x.permute(0, 2, 3, 1).softmax(-1).permute(0, 3, 1, 2),
        lambda x: x.permute(0, 2, 3, 1).cumsum(1),
        lambda x: x.permute(0, 2, 3, 1) + torch.ones(3, dtype=x.dtype),
        lambda x: x.permute(0, 2, 3, 1) * x.mean((1, 2, 3), keepdim=True),
        lambda x: x.permute(0, 2, 3, 1) + x.reshape(2, 4, 5, 3),
        lambda x: x.permute(0, 2, 3, 1).mean(dim=None, keepdim=True),
        lambda x: x.permute(0, 2, 3, 1).sum(1),
    ],
)
def test_keeps(function: Callable[[Tensor], Tensor]) -> None:
    assert_keeps(PASS, Net(lambda net, x: function(x)), noise(2, 3, 4, 5))
