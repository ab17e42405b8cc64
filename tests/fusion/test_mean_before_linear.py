from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deploy_kit.graph import aten, is_call
from tests.fusion.support import Net, apply, assert_keeps, noise

PASS = "mean_before_linear"


def model(function: Callable[..., Any]) -> Net:
    return Net(function, fc=nn.Linear(4, 4), other=nn.Linear(4, 4, bias=False))


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: net.fc(x).mean(1),
        lambda net, x: net.other(x).mean((1, 2)),
        lambda net, x: net.fc(x).mean((-2, 0), keepdim=True),
        lambda net, x: (x + net.fc(x)).mean((1, 2)),
        lambda net, x: (net.fc(x) + x).mean(-2, keepdim=True),
        lambda net, x: (net.fc(x) + net.other(x)).mean((1, 2)),
    ],
    ids=["tokens", "image", "keepdim", "residual", "reversed", "two layers"],
)
def test_averages_first(function: Callable[..., Tensor]) -> None:
    graph, rewrites = apply(PASS, model(function), noise(2, 5, 3, 4))
    assert len(rewrites) == 1
    assert all(is_call(node.args[0], aten.mean.dim) for node in graph.calls(aten.linear.default))


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: net.fc(x).mean(-1),
        lambda net, x: net.fc(x).mean((1, 3)),
        lambda net, x: net.fc(x).mean(dim=None, keepdim=True),
        lambda net, x: net.fc(x).mean(1, dtype=torch.float32).double(),
        lambda net, x: net.fc(x).relu().mean(1),
        lambda net, x: net.fc(x).sum(1),
        lambda net, x: (net.fc(x) * x).mean(1),
        lambda net, x: torch.add(x, net.fc(x), alpha=2).mean(1),
        lambda net, x: (net.fc(x) + 1).mean(1),
        lambda net, x: (x + x.relu()).mean(1),
        lambda net, x: (net.fc(x[:, :1]) + x).mean(1),
        lambda net, x: (lambda y: y.mean(1) * y.amax(1))(net.fc(x)),
        lambda net, x: (lambda y: (x + y).mean(1) * y.amax(1))(net.fc(x)),
        lambda net, x: (lambda y: y.mean(1) * y.amax(1))(x + net.fc(x)),
    ],
)
def test_keeps(function: Callable[..., Tensor]) -> None:
    assert_keeps(PASS, model(function), noise(2, 5, 3, 4))
