"""Write average pooling as a depthwise convolution, for runtimes whose convolutions are faster than their pools."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from deploy_kit.fusion.windows import per_axis
from deploy_kit.graph import Graph, argument, aten, operand, shape


def average_pool_to_depthwise_conv(graph: Graph) -> list[tuple[fx.Node, str]]:
    """mean of k x k windows = conv(x, kernel 1 / k^2, a group a channel) * k^2 / n, for n pixels of a window in x.

    n is k^2 where windows lie in the image, or the padding counts: the factor is then left out. Elsewhere it is a
    constant map, one value a place, which needs a fixed image size. Not for sizes that are rounded up.
    """
    changes = []
    for pool in graph.calls(aten.avg_pool2d.default):
        x = operand(pool)
        if len(shape(x)) != 4 or argument(pool, "ceil_mode") or not all(isinstance(n, int) for n in shape(x)[1:]):
            continue
        kernel = per_axis(argument(pool, "kernel_size"), 2)
        stride = per_axis(argument(pool, "stride") or kernel, 2)
        padding = per_axis(argument(pool, "padding"), 2)
        if kernel == [1, 1]:
            continue
        channels, dtype = shape(x)[1], x.meta["val"].dtype
        divisor = argument(pool, "divisor_override")
        share = 1 / (divisor or kernel[0] * kernel[1])
        weight = torch.full((channels, 1, *kernel), share, dtype=torch.float64).to(dtype)
        constant = graph.add_constant(weight, f"{pool.name}_kernel", pool)
        window = (stride, padding, [1, 1], channels)
        mean = graph.call(aten.conv2d.default, x, constant, None, *window, before=pool)
        if any(padding) and not argument(pool, "count_include_pad") and divisor is None:
            counted = _factor(shape(x)[2:], kernel, stride, padding).to(dtype)
            factor = graph.add_constant(counted, f"{pool.name}_factor", pool)
            mean = graph.call(aten.mul.Tensor, mean, factor, before=pool)
        graph.replace(pool, mean)
        changes.append((pool, f"mean of {kernel[0]}x{kernel[1]} windows is a depthwise convolution"))
    return changes


def _factor(image: tuple[int, ...], kernel: list[int], stride: list[int], padding: list[int]) -> Tensor:
    """For each window, its size over the number of its pixels that lie in the image: ``[1, 1, rows, columns]``."""
    ones = torch.ones(1, 1, *image, dtype=torch.float64)
    return 1 / F.avg_pool2d(ones, kernel, stride, padding, count_include_pad=True)
