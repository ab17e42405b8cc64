from __future__ import annotations

import torch
from torch import nn

from deploy_kit.graph import aten
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "channels_last_input"


def test_orders_the_image_once_for_every_convolution() -> None:
    model = Net(lambda net, x: net.a(x) + net.b(x) + x.mean(), a=nn.Conv2d(4, 6, 3), b=nn.Conv2d(4, 6, 3))
    graph = assert_rewrites(PASS, model, noise(2, 4, 5, 3), at=["a"], dynamic_batch=True)
    (ordered,) = graph.calls(aten.contiguous.default)
    assert {user.target for user in ordered.users} == {aten.conv2d.default}
    assert ordered.meta["val"].is_contiguous(memory_format=torch.channels_last)


def test_keeps_what_no_two_dimensional_convolution_reads() -> None:
    assert_keeps(PASS, nn.Sequential(nn.ReLU(), nn.Conv2d(4, 6, 3)), noise(2, 4, 5, 3))
    assert_keeps(PASS, nn.Sequential(nn.Conv1d(4, 6, 3)), noise(2, 4, 5))
    assert_keeps(PASS, nn.Sequential(nn.Conv2d(4, 6, 3)), noise(4, 5, 3))
