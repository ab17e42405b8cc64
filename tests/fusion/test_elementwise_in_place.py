from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deploy_kit.graph import aten
from tests.fusion.support import Net, apply, assert_keeps, noise

PASS = "elementwise_in_place"


def model(function: Callable[..., Any]) -> Net:
    return Net(function, fc=nn.Linear(4, 4), other=nn.Linear(4, 4))


@pytest.mark.parametrize(
    ("function", "written"),
    [
        (lambda net, x: net.fc(x).relu(), 1),
        (lambda net, x: nn.functional.gelu(net.fc(x), approximate="tanh"), 1),
        (lambda net, x: nn.functional.hardswish(net.fc(x).transpose(1, 2)), 1),
        (lambda net, x: x + net.fc(x), 1),
        (lambda net, x: net.fc(x) + x, 1),
        (lambda net, x: net.fc(x) + x[:, :1], 1),
        (lambda net, x: net.fc(x).sigmoid() + net.other(x).tanh(), 2),
        (lambda net, x: x + net.fc((x + net.other(x)).relu()), 2),
    ],
)
def test_writes_over_what_nobody_reads_again(function: Callable[..., Tensor], written: int) -> None:
    x = noise(2, 5, 4)
    graph, rewrites = apply(PASS, model(function), x)
    assert len(rewrites) == written
    assert x.equal(noise(2, 5, 4))
    assert graph.module(x).equal(graph.module(x))


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: x.relu(),
        lambda net, x: x + x.sin(),
        lambda net, x: (lambda y: y.relu() + y.sin())(net.fc(x)),
        lambda net, x: (lambda y: y + y.sin())(net.fc(x)),
        lambda net, x: (lambda y: y[:, 0].relu() * y[:, 1])(net.fc(x)),
        lambda net, x: (lambda y: (y.relu(), y))(net.fc(x)),
        lambda net, x: (lambda y: y + y)(net.fc(x)),
        lambda net, x: torch.add(x, net.fc(x), alpha=2),
        lambda net, x: net.fc(x[:, :1]) + x,
        lambda net, x: net.fc(x) + 1,
        lambda net, x: (net.fc(x).mean(1, keepdim=True).expand(2, 5, 4) * 1).relu(),
        lambda net, x: net.fc(x)[:, :1].expand(2, 5, 4).relu(),
        lambda net, x: net.fc(x).sin().relu(),
        lambda net, x: (x.int() @ x.int().transpose(1, 2)).sigmoid(),
        lambda net, x: (x.long() @ x.long().transpose(1, 2)).tanh(),
    ],
)
def test_keeps(function: Callable[..., Any]) -> None:
    assert_keeps(PASS, model(function), noise(2, 5, 4))


def test_the_weights_are_never_written_to() -> None:
    net = Net(
        lambda net, x: x * net.scale.relu() + net.shift.t().sigmoid(), scale=torch.ones(4), shift=torch.ones(4, 1)
    )
    graph, _ = apply(PASS, net, noise(2, 4))
    assert not list(graph.calls(aten.relu_.default, aten.sigmoid_.default))
