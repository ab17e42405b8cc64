from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy_kit.graph import aten, is_call
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "raise_permutations"


@pytest.mark.parametrize(
    "activation",
    [
        F.gelu,
        lambda x: F.gelu(x, approximate="tanh"),
        F.silu,
        F.hardswish,
        lambda x: x * 2,
        lambda x: x - 1,
        lambda x: x * x,
        lambda x: 2.0**x,
        lambda x: torch.clamp(x, max=1),
    ],
)
def test_an_activation_follows_the_permutation_that_followed_it(activation: Callable[[Tensor], Tensor]) -> None:
    model = Net(
        lambda net, x: net.fc(activation(net.conv(x)).permute(0, 2, 3, 1)),
        conv=nn.Conv2d(4, 4, 3, padding=1, groups=4),
        fc=nn.Linear(4, 3),
    )
    graph = assert_rewrites(PASS, model, noise(2, 4, 5, 6), at=[""])
    (permute,) = graph.calls(aten.permute.default)
    assert is_call(permute.args[0], aten.conv2d.default)


@pytest.mark.parametrize("clamp", [F.relu, F.relu6, F.hardtanh])
def test_a_clamp_stays_with_its_convolution(clamp: Callable[[Tensor], Tensor]) -> None:
    model = Net(
        lambda net, x: net.fc(clamp(net.conv(x)).permute(0, 2, 3, 1)), conv=nn.Conv2d(4, 4, 3), fc=nn.Linear(4, 3)
    )
    assert_keeps(PASS, model, noise(2, 4, 5, 6))


def test_several_in_a_row_are_passed() -> None:
    model = Net(lambda net, x: (x.sin().relu() * 2).transpose(1, 2).cumsum(1))
    graph = assert_rewrites(PASS, model, noise(2, 4, 5), at=["", "", ""])
    (permute,) = graph.calls(aten.permute.default)
    assert permute.args[0].op == "placeholder"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: (lambda y: y.transpose(1, 2).cumsum(1).sum() + y)(x.relu()),
        lambda net, x: (x + x.flip(1)).transpose(1, 2).cumsum(1),
        lambda net, x: x.softmax(1).transpose(1, 2).cumsum(1),
        lambda net, x: x.transpose(1, 2).relu().transpose(1, 2).cumsum(1),
        lambda net, x: x.cumsum(1).transpose(1, 2),
        lambda net, x: (net.c * x).transpose(1, 2).cumsum(1),
        lambda net, x: F.gelu(F.linear(x, net.w)).transpose(1, 2).cumsum(1),
        lambda net, x: F.gelu(x @ net.w.T).transpose(1, 2).cumsum(1),
    ],
)
def test_keeps_what_is_used_twice_or_is_not_elementwise_or_is_plain_in_memory(forward: Callable[..., Any]) -> None:
    assert_keeps(PASS, Net(forward, c=noise(4, 1), w=noise(5, 5)), noise(2, 4, 5))
