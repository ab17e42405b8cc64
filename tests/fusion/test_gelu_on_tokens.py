from __future__ import annotations

from collections.abc import Callable

import pytest
import torch.nn.functional as F
from torch import Tensor, nn

from deploy_kit.graph import aten, is_call, operand
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "gelu_on_tokens"


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_the_gelu_of_an_image_sees_its_channels_last(approximate: str) -> None:
    model = Net(
        lambda net, x: net.second(F.gelu(net.first(x), approximate=approximate)),
        first=nn.Conv2d(3, 4, 3, padding=1),
        second=nn.Conv2d(4, 2, 3),
    )
    graph = assert_rewrites(PASS, model, noise(2, 3, 6, 5), at=[""])
    (gelu,) = graph.calls(aten.gelu.default)
    assert tuple(gelu.meta["val"].shape) == (2, 6, 5, 4)
    assert is_call(operand(operand(gelu)), aten.conv2d.default)


@pytest.mark.parametrize(
    ("forward", "sizes"),
    [
        (lambda net, x: F.gelu(net.fc(x)), (2, 3, 6, 4)),
        (lambda net, x: F.gelu(net.line(x)), (2, 4, 6)),
        (lambda net, x: F.gelu(net.image(x)), (4, 6, 5)),
        (lambda net, x: F.gelu(net.image(x).permute(0, 2, 3, 1)), (2, 4, 6, 5)),
        (lambda net, x: F.silu(net.image(x)), (2, 4, 6, 5)),
    ],
)
def test_keeps_what_is_no_image_and_no_gelu(forward: Callable[..., Tensor], sizes: tuple[int, ...]) -> None:
    layers = {"fc": nn.Linear(4, 4), "line": nn.Conv1d(4, 4, 1), "image": nn.Conv2d(4, 4, 1)}
    assert_keeps(PASS, Net(forward, **layers), noise(*sizes))
