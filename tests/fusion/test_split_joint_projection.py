from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deploy_kit.graph import aten
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "split_joint_projection"
SPLITS = (aten.unbind.int, aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default, aten.select.int)


def net(parts: Callable[[Tensor], Any], **options: Any) -> Net:
    """A linear layer to 12 channels whose parts are multiplied."""

    def forward(net: Any, x: Tensor) -> Tensor:
        q, k, v = parts(net.qkv(x))
        return q * k + v

    return Net(forward, qkv=nn.Linear(5, 12, **options))


def _select(y: Tensor) -> list[Tensor]:
    return [y.select(2, index) for index in (0, 1, -1)]


@pytest.mark.parametrize(
    "parts",
    [
        lambda y: y.chunk(3, -1),
        lambda y: y.split(4, -1),
        lambda y: (y[..., :4], y[..., 4:8], y[..., 8:]),
        lambda y: (y[..., -4:], y[..., 2:6], y[..., 6:8].repeat(1, 1, 2)),
        lambda y: y.reshape(2, 6, 3, 2, 2).permute(2, 0, 3, 1, 4).unbind(0),
        lambda y: y.reshape(2, 6, 2, 3, 2).unbind(3),
        lambda y: y.reshape(2, 2, 3, 2, 3, 2).permute(4, 0, 3, 5, 1, 2).unbind(0),
        lambda y: y.unflatten(-1, (3, 4)).transpose(1, 2).unbind(1),
        lambda y: _select(y.reshape(2, 6, 3, 4)),
        lambda y: y.flatten(0, 1).reshape(2, 6, 12).reshape(2, 6, 3, 4).unbind(2),
        lambda y: y.reshape(12, 2, 6).permute(1, 2, 0).split([2, 2, 2], 1),
        lambda y: y.reshape(2, 6, 2, 6).split([2, 2, 2], dim=3),
        lambda y: y.transpose(1, 2).chunk(3, 1),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_projects_each_part_by_itself(parts: Callable[[Tensor], Any], bias: bool) -> None:
    graph = assert_rewrites(PASS, net(parts, bias=bias), noise(2, 6, 5), at=["qkv"], gone=SPLITS)
    assert len(list(graph.calls(aten.linear.default))) == 3
    assert sum(call.args[1].meta["val"].shape[0] for call in graph.calls(aten.linear.default)) <= 12


def test_splits_a_convolution() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        q, k, v = net.qkv(x).split([2, 2, 4], 1)
        return torch.cat([q * k, v], 1)

    conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, dilation=2)
    graph = assert_rewrites(PASS, Net(forward, qkv=conv), noise(2, 3, 9, 8), at=["qkv"], gone=SPLITS)
    assert len(list(graph.calls(aten.conv2d.default))) == 3


def test_drops_the_part_that_nobody_reads() -> None:
    model = Net(lambda net, x: net.fc(x).chunk(3, -1)[0] * net.fc(x).chunk(3, -1)[2], fc=nn.Linear(4, 6))
    graph = assert_rewrites(PASS, Net(lambda net, x: _outer(net.fc(x)), fc=nn.Linear(4, 6)), noise(2, 4), at=["fc"])
    assert len(list(graph.calls(aten.linear.default))) == 2
    assert_keeps(PASS, model, noise(2, 4))


def _outer(y: Tensor) -> Tensor:
    first, _, last = y.chunk(3, -1)
    return first * last


@pytest.mark.parametrize(
    "parts",
    [
        lambda y: y.chunk(3, 1),
        lambda y: y.relu().chunk(3, -1),
        lambda y: (y[..., :6], y[..., 3:9], y[..., 6:]),
        lambda y: (y[..., ::3], y[..., 1::3], y[..., 2::3]),
        lambda y: (y, y + 1, y.relu()),
        lambda y: y.reshape(2, 3, 2, 12).unbind(1),
        lambda y: y.reshape(12, 12).chunk(3, 0),
    ],
)
def test_keeps(parts: Callable[[Tensor], Any]) -> None:
    assert_keeps(PASS, net(parts), noise(2, 6, 5))


def test_keeps_a_grouped_convolution() -> None:
    model = Net(lambda net, x: _outer(net.conv(x).transpose(1, 3)), conv=nn.Conv2d(6, 6, 1, groups=2))
    assert_keeps(PASS, model, noise(2, 6, 3, 3))


def test_keeps_with_a_dynamic_batch() -> None:
    assert_keeps(PASS, net(lambda y: y.chunk(3, -1)), noise(2, 6, 5), dynamic_batch=True)
