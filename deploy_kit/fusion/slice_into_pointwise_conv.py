"""Fold strided slices of both image axes into the stride of the pointwise convolution after them."""

from __future__ import annotations

from torch import fx

from deploy_kit.fusion.linear_ops import is_pointwise
from deploy_kit.graph import Graph, argument, aten, is_call, only_user, operand, rank, set_argument, shape


def slice_into_pointwise_conv(graph: Graph) -> list[tuple[fx.Node, str]]:
    """conv1x1(x[::r, ::s], stride t) = conv1x1(x, stride (r t, s t)): a 1x1 kernel looks at one place only.

    Needs slices from the first element to the last, used by nothing else, and no padding.
    """
    changes = []
    for conv in graph.calls(aten.conv2d.default):
        weight = graph.constant(conv.args[1])
        if weight is None or not is_pointwise(conv, weight):
            continue
        stride = list(argument(conv, "stride"))
        stride = stride * 2 if len(stride) == 1 else stride
        x, folded = operand(conv), False
        while is_call(x, aten.slice.Tensor) and _starts_and_ends_with_the_image(x) and only_user(x) is not None:
            stride[argument(x, "dim") % rank(x) - rank(x) + 2] *= argument(x, "step")
            x, folded = operand(x), True
        if folded:
            conv.args = (x, *conv.args[1:])
            set_argument(conv, "stride", stride)
            changes.append((conv, f"slices folded into stride {stride}"))
    return changes


def _starts_and_ends_with_the_image(cut: fx.Node) -> bool:
    axis = argument(cut, "dim") % rank(cut)
    whole = shape(operand(cut))[axis]
    start, end = argument(cut, "start"), argument(cut, "end")
    return axis >= rank(cut) - 2 and start in (None, 0) and (end is None or end >= whole)
