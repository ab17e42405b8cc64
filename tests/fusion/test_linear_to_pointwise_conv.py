from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, nn

from deploy_kit.fusion import PASSES
from deploy_kit.graph import aten
from tests.fusion.support import Net, apply, assert_keeps, assert_rewrites, noise

PASS = "linear_to_pointwise_conv"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dynamic_batch", [True, False])
def test_is_the_layer(bias: bool, dynamic_batch: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 6, bias=bias))
    gone = (aten.linear.default,)
    assert_rewrites(PASS, model, noise(2, 3, 5, 4), at=["0"], gone=gone, dynamic_batch=dynamic_batch)


def test_its_permutations_cancel_between_convolutions() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.fc2(net.act(net.fc1(net.conv(x).permute(0, 2, 3, 1))))
        return net.conv(y.permute(0, 3, 1, 2))

    members = {"conv": nn.Conv2d(4, 4, 3, groups=4), "fc1": nn.Linear(4, 8), "act": nn.GELU(), "fc2": nn.Linear(8, 4)}
    graph, _ = apply(PASS, Net(forward, **members), noise(1, 4, 7, 7))
    for name in ("compose_permutations", "sink_permutations"):
        PASSES[name].run(graph)
    assert not list(graph.calls(aten.permute.default))


@pytest.mark.parametrize("shape", [(2, 4), (2, 3, 4), (2, 3, 2, 2, 4)], ids=str)
def test_keeps_what_is_no_image(shape: tuple[int, ...]) -> None:
    assert_keeps(PASS, nn.Linear(4, 6), noise(*shape))


def test_keeps_a_computed_weight() -> None:
    model = Net(lambda net, x: nn.functional.linear(x, net.weight @ x[0, 0]), weight=noise(6, 5))
    assert_keeps(PASS, model, noise(2, 3, 5, 4))
