"""Give softmax tokens instead of an image."""

from __future__ import annotations

from torch import fx

from deploy_kit.fusion.linear_ops import CONVOLUTIONS, LINEAR, TRANSPOSED_CONVOLUTIONS
from deploy_kit.graph import Graph, argument, aten, is_call, operand, shape

IMAGES = (
    *CONVOLUTIONS,
    *TRANSPOSED_CONVOLUTIONS,
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
    aten.max_pool2d.default,
    aten.upsample_bilinear2d.vec,
    aten.upsample_nearest2d.vec,
)
"""Operators whose results runtimes for phones keep channels-last."""

TOKENS = (
    LINEAR,
    aten.matmul.default,
    aten.bmm.default,
    aten.reshape.default,
    aten.view.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
)
"""Operators whose results have the order of their axes, whatever their inputs had."""


def softmax_in_three_axes(graph: Graph) -> list[tuple[fx.Node, str]]:
    """softmax(x) = reshape(softmax(reshape(x, [B, C * H, W])), [B, C, H, W]) along the last axis.

    XNNPACK's softmax of a tensor that it keeps channels-last runs along the channels, in ExecuTorch 1.4.1: that
    is wrong for any other axis. Of three axes it keeps none so. Needs fixed sizes.
    """
    changes = []
    for node in graph.calls(aten.softmax.int):
        sizes = shape(node)
        fixed = all(isinstance(size, int) for size in sizes)
        if len(sizes) != 4 or not fixed or argument(node, "dim") not in (3, -1) or not comes_from_image(operand(node)):
            continue
        batch, channels, height, width = sizes
        rows = graph.call(aten.reshape.default, operand(node), [batch, channels * height, width], before=node)
        softmax = graph.call(aten.softmax.int, rows, 2, before=node, dtype=argument(node, "dtype"))
        graph.replace(node, graph.call(aten.reshape.default, softmax, list(sizes), before=node))
        changes.append((node, "three axes instead of an image"))
    return changes


def comes_from_image(node: fx.Node) -> bool:
    """Whether a tensor may be kept channels-last: an image operator made it, or what it is computed from."""
    seen, waiting = set(), [node]
    while waiting:
        node = waiting.pop()
        if node in seen or is_call(node, *TOKENS) or node.op != "call_function":
            continue
        if is_call(node, *IMAGES):
            return True
        seen.add(node)
        waiting += node.all_input_nodes
    return False
