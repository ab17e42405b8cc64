"""Write a depthwise transposed convolution in wider groups, for runtimes whose products want several channels."""

from __future__ import annotations

import torch
from torch import fx

from deploy_kit.fusion.linear_ops import weight_and_bias
from deploy_kit.graph import Graph, argument, aten, set_argument

WIDTH = 16
"""The most channels a group gets; the arithmetic grows as many times."""


def widen_transposed_conv_groups(graph: Graph) -> list[tuple[fx.Node, str]]:
    """y_c = k_c * x_c = sum over d of K_dc * x_d, with K_cc = k_c, K_dc = 0 for d != c, and d in c's group.

    Holds for any kernel, stride and padding. A group has the largest number of channels up to 16
    that divides them all.
    """
    changes = []
    for conv in graph.calls(aten.conv_transpose2d.input):
        constants = weight_and_bias(graph, conv)
        if constants is None or constants[0].shape[1] != 1 or argument(conv, "groups") != constants[0].shape[0]:
            continue
        weight = constants[0].to(conv.meta["val"].dtype)
        channels = weight.shape[0]
        width = max(size for size in range(1, WIDTH + 1) if channels % size == 0)
        if width == 1:
            continue
        wide = torch.zeros(channels, width, *weight.shape[2:], dtype=weight.dtype)
        index = torch.arange(channels)
        wide[index, index % width] = weight[:, 0]
        set_argument(conv, "weight", graph.add_constant(wide, f"{conv.name}_kernel", conv))
        set_argument(conv, "groups", channels // width)
        changes.append((conv, f"{channels} groups of one channel are {channels // width} of {width}"))
    return changes
