"""Pooling against torch: padding counted or not, uneven, rounded up."""

from __future__ import annotations

import pytest
from torch.nn import functional as F

from tests.exporters.mil.support import check, mb, noise


@pytest.mark.parametrize("excluded", [False, True])
@pytest.mark.parametrize("ceil", [False, True])
def test_average(excluded: bool, ceil: bool) -> None:
    x = noise(2, 3, 8, 7)
    expected = F.avg_pool2d(x.double(), 3, 2, 1, ceil_mode=ceil, count_include_pad=not excluded)
    check(
        lambda x: mb.avg_pool(
            x=x,
            kernel_sizes=[3, 3],
            strides=[2, 2],
            pad_type="custom",
            pad=[1] * 4,
            exclude_padding_from_average=excluded,
            ceil_mode=ceil,
        ),
        expected,
        x,
    )


@pytest.mark.parametrize("ceil", [False, True])
def test_largest(ceil: bool) -> None:
    x = noise(2, 3, 8, 7) - 5
    expected = F.max_pool2d(x.double(), 3, 2, 1, ceil_mode=ceil)
    check(
        lambda x: mb.max_pool(x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1] * 4, ceil_mode=ceil),
        expected,
        x,
    )


def test_uneven_padding() -> None:
    x = noise(1, 2, 6, 5)
    expected = F.avg_pool2d(F.pad(x, (0, 1, 2, 1)).double(), (2, 3), (1, 2))
    check(
        lambda x: mb.avg_pool(x=x, kernel_sizes=[2, 3], strides=[1, 2], pad_type="custom", pad=[2, 1, 0, 1]),
        expected,
        x,
    )


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(rank: int) -> None:
    x = noise(1, 2, *[6, 5, 4][:rank])
    average, largest = {1: (F.avg_pool1d, F.max_pool1d), 3: (F.avg_pool3d, F.max_pool3d)}[rank]
    check(lambda x: mb.avg_pool(x=x, kernel_sizes=[2] * rank, pad_type="valid"), average(x.double(), 2, 1), x)
    check(lambda x: mb.max_pool(x=x, kernel_sizes=[2] * rank, pad_type="valid"), largest(x.double(), 2, 1), x)
