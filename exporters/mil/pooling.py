"""MIL's pooling."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from deploy_kit.exporters.mil.products import paddings, torch_order
from deploy_kit.exporters.mil.registry import UnsupportedOperatorError, flag, integers, operator

_AVERAGE: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_LARGEST: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@operator("avg_pool")
def avg_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    strides: Tensor,
    pad_type: str,
    exclude_padding_from_average: Tensor,
    ceil_mode: Tensor,
    pad: Tensor | None = None,
) -> Tensor:
    kernel, steps, average = integers(kernel_sizes), integers(strides), _AVERAGE[x.dim() - 2]
    around = paddings(pad_type, pad, kernel, steps)
    if flag(ceil_mode):
        included = not flag(exclude_padding_from_average)
        return average(x, kernel, steps, _symmetric(around), ceil_mode=True, count_include_pad=included)
    pooled = average(F.pad(x, torch_order(around)), kernel, steps)
    if not flag(exclude_padding_from_average):
        return pooled
    inside = F.pad(torch.ones_like(x[:1, :1]), torch_order(around))
    return pooled / average(inside, kernel, steps)


@operator("max_pool")
def max_pool(
    x: Tensor, kernel_sizes: Tensor, strides: Tensor, pad_type: str, ceil_mode: Tensor, pad: Tensor | None = None
) -> Tensor:
    kernel, steps, largest = integers(kernel_sizes), integers(strides), _LARGEST[x.dim() - 2]
    around = paddings(pad_type, pad, kernel, steps)
    if flag(ceil_mode):
        return largest(x, kernel, steps, _symmetric(around), ceil_mode=True)
    return largest(F.pad(x, torch_order(around), value=-math.inf), kernel, steps)


def _symmetric(around: list[int]) -> list[int]:
    if around[::2] != around[1::2]:
        raise UnsupportedOperatorError("ceil_mode with uneven padding")
    return around[::2]
