"""Write GroupNorm as averages over the image and products over channels, for runtimes that have no norm."""

from __future__ import annotations

import torch
from torch import fx

from deploy_kit.graph import Graph, argument, aten, rank, shape


def group_norm_to_products(graph: Graph) -> list[tuple[fx.Node, str]]:
    """norm(x) = d / sqrt(G mean(d^2) + eps) * g + b, with d = x - G mean(x), the mean of each channel's pixels.

    G averages the channels of a group; as a pointwise convolution it runs on one pixel. Applied to
    images [B, C, H, W].
    """
    changes = []
    for norm in graph.calls(aten.group_norm.default):
        if rank(norm) != 4:
            continue
        x, groups = norm.args[0], argument(norm, "num_groups")
        channels, dtype = shape(norm)[1], norm.meta["val"].dtype
        matrix = _averages(channels, groups).to(dtype)
        average = graph.add_constant(matrix, f"{norm.name}_average", norm)
        eps = torch.full((matrix.shape[0],), argument(norm, "eps"), dtype=dtype)
        bias = graph.add_constant(eps, f"{norm.name}_eps", norm)
        centred = graph.call(aten.sub.Tensor, x, _average(graph, norm, x, average, None), before=norm)
        squares = graph.call(aten.mul.Tensor, centred, centred, before=norm)
        variance = _average(graph, norm, squares, average, bias)
        out = graph.call(aten.mul.Tensor, centred, graph.call(aten.rsqrt.default, variance, before=norm), before=norm)
        for name, op in (("weight", aten.mul.Tensor), ("bias", aten.add.Tensor)):
            value = argument(norm, name)
            if value is not None:
                out = graph.call(
                    op, out, graph.call(aten.reshape.default, value, [1, -1, 1, 1], before=norm), before=norm
                )
        graph.replace(norm, out)
        changes.append((norm, f"averages of {groups} groups written as a pooling and a product"))
    return changes


def _averages(channels: int, groups: int) -> torch.Tensor:
    """The kernel that gives each channel the average of its group; one row suffices for one group."""
    if groups == 1:
        return torch.full((1, channels, 1, 1), 1 / channels, dtype=torch.float64)
    size = channels // groups
    block = torch.full((size, size), 1 / size, dtype=torch.float64)
    return torch.block_diag(*[block] * groups)[:, :, None, None]


def _average(graph: Graph, norm: fx.Node, x: object, average: fx.Node, bias: fx.Node | None) -> fx.Node:
    pixels = graph.call(aten.mean.dim, x, [2, 3], True, before=norm)
    return graph.call(aten.conv2d.default, pixels, average, bias, before=norm)
