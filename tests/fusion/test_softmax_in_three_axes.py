from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from deploy_kit.graph import aten
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "softmax_in_three_axes"
CONV = nn.Conv2d(3, 4, 3, padding=1)


@pytest.mark.parametrize(
    "between",
    [
        lambda y: y,
        torch.relu,
        lambda y: y + y.sigmoid(),
        lambda y: torch.cat((y, 2 * y), 1),
        lambda y: y[:, :, 1:],
        lambda y: y.permute(0, 2, 3, 1),
        lambda y: nn.functional.avg_pool2d(y, 2),
        lambda y: nn.functional.interpolate(y, scale_factor=2, mode="bilinear"),
    ],
)
@pytest.mark.parametrize("axis", [3, -1])
def test_softmax_of_an_image_is_of_three_axes(between: Callable[[Tensor], Tensor], axis: int) -> None:
    model = Net(lambda net, x: between(net.conv(x)).softmax(axis), conv=CONV)
    graph = assert_rewrites(PASS, model, noise(2, 3, 8, 6), at=[""])
    (softmax,) = graph.calls(aten.softmax.int)
    assert softmax.meta["val"].dim() == 3


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: net.conv(x).softmax(1),
        lambda net, x: net.conv(x).softmax(2),
        lambda net, x: net.conv(x).flatten(2).softmax(-1),
        lambda net, x: (net.conv(x) @ net.conv(x).transpose(2, 3)).softmax(-1),
        lambda net, x: x.softmax(-1),
        lambda net, x: net.conv(x).flatten(2).unflatten(2, (8, 6)).relu().softmax(-1),
    ],
)
def test_keeps_softmax_along_another_axis_and_of_tokens(function: Callable[..., Tensor]) -> None:
    assert_keeps(PASS, Net(function, conv=CONV), noise(2, 3, 8, 6))


def test_keeps_a_free_batch() -> None:
    assert_keeps(PASS, Net(lambda net, x: net.conv(x).softmax(-1), conv=CONV), noise(2, 3, 8, 6), dynamic_batch=True)
