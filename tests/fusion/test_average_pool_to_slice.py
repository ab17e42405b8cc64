from __future__ import annotations

import pytest
import torch.nn.functional as F
from torch import nn

from deploy_kit.graph import aten
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "average_pool_to_slice"
POOL = aten.avg_pool2d.default


@pytest.mark.parametrize(
    ("options", "slices"),
    [
        ({"stride": 2}, 2),
        ({"stride": (2, 3)}, 2),
        ({"stride": (1, 4)}, 1),
        ({"stride": 3, "ceil_mode": True}, 2),
        ({"stride": 2, "count_include_pad": False}, 2),
        ({"stride": 2, "divisor_override": 1}, 2),
        ({}, 0),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(2, 4, 6, 7), (4, 9, 5)], ids=str)
def test_rewrites_a_window_of_one(options: dict, slices: int, shape: tuple[int, ...]) -> None:
    model = Net(lambda net, x: F.avg_pool2d(x, 1, **options) + 1)
    graph = assert_rewrites(PASS, model, noise(*shape), at=[""], gone=(POOL,))
    assert len(list(graph.calls(aten.slice.Tensor))) == slices


@pytest.mark.parametrize("side", range(1, 10))
@pytest.mark.parametrize("stride", range(1, 5))
def test_rounding_the_size_up_adds_no_element(side: int, stride: int) -> None:
    x = noise(1, 1, side, side)
    assert F.avg_pool2d(x, 1, stride, ceil_mode=True).equal(x[..., ::stride, ::stride])


def test_names_the_module() -> None:
    assert_rewrites(PASS, nn.Sequential(nn.AvgPool2d(1, 2)), noise(2, 4, 6, 7), at=["0"], gone=(POOL,))


def test_rewrites_before_a_view() -> None:
    model = Net(lambda net, x: F.avg_pool2d(x, 1, 2).view(2, 4, -1))
    assert_rewrites(PASS, model, noise(2, 4, 6, 8), at=[""], gone=(POOL,))


def test_rewrites_with_a_dynamic_batch() -> None:
    model = nn.Sequential(nn.AvgPool2d(1, 2))
    assert_rewrites(PASS, model, noise(2, 4, 6, 7), at=["0"], gone=(POOL,), dynamic_batch=True)


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(2),
        nn.AvgPool2d((1, 2), stride=2),
        nn.AvgPool2d(3, stride=2, padding=1),
        nn.AvgPool2d(2, stride=2, ceil_mode=True),
        nn.AvgPool2d(1, stride=2, divisor_override=2),
        nn.AvgPool1d(1, stride=2),
        nn.MaxPool2d(1, stride=2),
    ],
    ids=str,
)
def test_keeps(pool: nn.Module) -> None:
    x = noise(2, 4, 6) if isinstance(pool, nn.AvgPool1d) else noise(2, 4, 6, 7)
    assert_keeps(PASS, nn.Sequential(pool), x)
