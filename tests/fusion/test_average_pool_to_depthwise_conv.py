from __future__ import annotations

import pytest
import torch
from torch import nn

from deploy_kit.graph import aten
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "average_pool_to_depthwise_conv"
POOL = aten.avg_pool2d.default


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(2),
        nn.AvgPool2d((2, 3), stride=(1, 2)),
        nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
        nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
        nn.AvgPool2d(3, stride=1, padding=1),
        nn.AvgPool2d((1, 3), stride=1, padding=(0, 1), count_include_pad=False),
        nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False, divisor_override=5),
    ],
    ids=str,
)
def test_writes_a_pool_as_a_convolution(pool: nn.Module) -> None:
    graph = assert_rewrites(PASS, nn.Sequential(pool), noise(2, 4, 7, 8), at=["0"], gone=(POOL,))
    (conv,) = graph.calls(aten.conv2d.default)
    assert conv.args[6] == 4


def test_only_windows_over_the_border_that_do_not_count_it_need_a_factor() -> None:
    for pool, factors in (
        (nn.AvgPool2d(3, 1, 1, count_include_pad=False), 1),
        (nn.AvgPool2d(3, 1, 1), 0),
        (nn.AvgPool2d(3, 1, count_include_pad=False), 0),
    ):
        graph = assert_rewrites(PASS, nn.Sequential(pool), noise(2, 4, 7, 8), at=["0"], gone=(POOL,))
        assert len(list(graph.calls(aten.mul.Tensor))) == factors


def test_a_free_batch_stays_free() -> None:
    model = nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False))
    graph = assert_rewrites(PASS, model, noise(2, 4, 7, 8), at=["0"], dynamic_batch=True)
    x = noise(3, 4, 7, 8)
    torch.testing.assert_close(graph.module(x), model(x))


@pytest.mark.parametrize(
    ("pool", "shape"),
    [
        (nn.AvgPool2d(3, 2, ceil_mode=True), (2, 4, 8, 8)),
        (nn.AvgPool2d(1, 2), (2, 4, 8, 8)),
        (nn.AvgPool2d(2), (4, 8, 8)),
        (nn.MaxPool2d(2), (2, 4, 8, 8)),
        (nn.AdaptiveAvgPool2d(2), (2, 4, 8, 8)),
    ],
    ids=str,
)
def test_keeps_other_pools(pool: nn.Module, shape: tuple[int, ...]) -> None:
    assert_keeps(PASS, Net(lambda net, x: net.pool(x), pool=pool), noise(*shape))
