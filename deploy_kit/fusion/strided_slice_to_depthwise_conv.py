"""Write strided slices of an image as a depthwise convolution, for runtimes that slice with step 1 only."""

from __future__ import annotations

import torch
from torch import fx

from deploy_kit.fusion.compose_permutations import TO_IMAGE, TO_TOKENS
from deploy_kit.graph import Graph, argument, aten, is_call, only_user, operand, rank, shape


def strided_slice_to_depthwise_conv(graph: Graph) -> list[tuple[fx.Node, str]]:
    """x[:, :, ::r, ::s] = conv1x1(x, k = 1, stride (r, s), a group a channel): each output is one input times 1.

    Likewise for tokens [B, H, W, C] sliced along H and W. Needs slices from the first element to the
    last, each the only use of what it slices.
    """
    changes = []
    for last in graph.calls(aten.slice.Tensor):
        if not _is_strided(last) or (_is_strided(only_user(last)) and only_user(last) is not None):
            continue
        steps: dict[int, int] = {}
        x: fx.Node = last
        while _is_strided(x) and (x is last or only_user(x) is not None):
            axis = argument(x, "dim") % rank(x)
            steps[axis] = steps.get(axis, 1) * argument(x, "step")
            x = operand(x)
        channels = next((axis for axis in (1, 3) if axis not in steps), None)
        if 0 in steps or channels is None or not isinstance(shape(x)[channels], int):
            continue
        image = x if channels == 1 else graph.call(aten.permute.default, x, TO_IMAGE, before=last)
        stride = [steps.get(axis, 1) for axis in ((2, 3) if channels == 1 else (1, 2))]
        ones = torch.ones(shape(x)[channels], 1, 1, 1, dtype=x.meta["val"].dtype)
        kernel = graph.add_constant(ones, f"{last.name}_kernel", last)
        groups = shape(x)[channels]
        out = graph.call(aten.conv2d.default, image, kernel, None, stride, [0, 0], [1, 1], groups, before=last)
        out = out if channels == 1 else graph.call(aten.permute.default, out, TO_TOKENS, before=last)
        graph.replace(last, out)
        changes.append((last, f"slice with steps {stride} is a depthwise convolution"))
    return changes


def _is_strided(node: fx.Node | None) -> bool:
    """Whether a node is a slice with a step over 1 from the first element to the last, of rank 4 and real."""
    if not is_call(node, aten.slice.Tensor):
        return False
    assert node is not None
    start, end = argument(node, "start"), argument(node, "end")
    whole = shape(operand(node))[argument(node, "dim") % rank(node)]
    covers = end is None or (isinstance(whole, int) and end >= whole) or end == 2**63 - 1
    floating = node.meta["val"].is_floating_point()
    return rank(node) == 4 and floating and argument(node, "step") > 1 and start in (None, 0) and covers
