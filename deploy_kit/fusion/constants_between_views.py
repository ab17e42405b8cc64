"""Let a constant meet a tensor in the tensor's own shape, not in another that is left again at once."""

from __future__ import annotations

import math

from torch import Tensor, fx

from deploy_kit.fusion.axes import VIEWS
from deploy_kit.fusion.constant_folding import LIMIT
from deploy_kit.graph import Graph, aten, is_call, only_user, operand, shape

ELEMENTWISE = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)


def constants_between_views(graph: Graph) -> list[tuple[fx.Node, str]]:
    """view(view(x, s) + c, shape of x) = x + view(expand(c, s), shape of x), for a constant c; likewise -, * and /.

    Such are the masks of Swin's shifted windows, in five axes. The constant keeps an axis of 1 wherever it is the same
    all along. Needs fixed sizes, and the first view and the sum to have no other use.
    """
    changes = []
    for node in graph.calls(*ELEMENTWISE):
        back = only_user(node)
        if back is None or not is_call(back, *VIEWS):
            continue
        for index in (0, 1):
            there, other = node.args[index], node.args[1 - index]
            if not isinstance(there, fx.Node) or not isinstance(other, fx.Node):
                continue
            value = graph.constant(other)
            if value is None or not is_call(there, *VIEWS) or only_user(there) is not node:
                continue
            constant = _in_shape_of(there, back, value)
            if constant is None:
                continue
            x, moved = operand(there), graph.add_constant(constant, str(other.target), node)
            both = (x, moved) if index == 0 else (moved, x)
            graph.replace(back, graph.call(node.target, *both, before=node, like=node, **node.kwargs))  # type: ignore[arg-type]
            changes.append((node, f"constant in {constant.dim()} axes instead of {value.dim()}"))
            break
    return changes


def _in_shape_of(there: fx.Node, back: fx.Node, value: Tensor) -> Tensor | None:
    """The constant for the tensor before the first view; None where the second does not lead back, or it is large."""
    outside, inside = shape(operand(there)), shape(there)
    if outside != shape(back) or shape(operand(back)) != inside:
        return None
    if not all(isinstance(size, int) for size in (*outside, *inside)) or math.prod(inside) > LIMIT:
        return None
    if value.dim() == 0:
        return value  # with axes it would decide on the dtype of the result
    whole = value.expand(inside).reshape(outside)
    for axis, size in enumerate(outside):
        first = whole.narrow(axis, 0, 1) if size else whole
        if bool((whole == first).all()):
            whole = first
    return whole.contiguous()
