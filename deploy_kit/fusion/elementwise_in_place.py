"""Write elementwise results over their inputs, where nobody looks at those again."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from deploy_kit.fusion.linear_ops import LINEAR_OPS
from deploy_kit.graph import Graph, argument, aten, is_call, is_view, only_user, operand, shape

UNARY = {
    aten.gelu.default: aten.gelu_.default,
    aten.relu.default: aten.relu_.default,
    aten.silu.default: aten.silu_.default,
    aten.hardswish.default: aten.hardswish_.default,
    aten.sigmoid.default: aten.sigmoid_.default,
    aten.tanh.default: aten.tanh_.default,
}
FRESH = (*LINEAR_OPS, aten.matmul.default, aten.bmm.default, aten.addcmul.default)
"""Operators whose output is memory of its own."""


def elementwise_in_place(graph: Graph) -> list[tuple[fx.Node, str]]:
    """f(x) = f_(x), and a + b = b.add_(a), where x or b is a layer's output that is used nowhere else.

    The same values in the same place: no new memory, and no copy into the allocator that the
    prepacked operators want. It is the last pass: the graph is not functional afterwards.
    """
    changes = []
    for node in graph.calls(*UNARY):
        x = operand(node)
        if _fits(x, node):
            replacement = graph.call(UNARY[node.target], *node.args, before=node, like=node, **node.kwargs)  # type: ignore
            graph.replace(node, replacement)
            changes.append((replacement, "written over its input"))
    for node in graph.calls(aten.add.Tensor):
        a, b = node.args
        if argument(node, "alpha") != 1 or not isinstance(a, fx.Node) or not isinstance(b, fx.Node):
            continue
        target, other = (b, a) if _fits(b, node) else (a, b)
        if _fits(target, node):
            replacement = graph.call(aten.add_.Tensor, target, other, before=node)
            graph.replace(node, replacement)
            changes.append((replacement, "written over its input"))
    return changes


def _fits(x: Any, result: fx.Node) -> bool:
    """Whether ``result`` can be written over ``x``: nobody else reads it, and it has its shape and dtype."""
    return _is_private(x) and shape(x) == shape(result) and x.meta["val"].dtype == result.meta["val"].dtype


def _is_private(x: fx.Node) -> bool:
    """Whether ``x`` is, behind views that are used once each, a layer's output that is used once."""
    while is_view(x) and not is_call(x, aten.expand.default) and only_user(x) is not None:
        x = operand(x)
    return is_call(x, *FRESH) and only_user(x) is not None and isinstance(x.meta["val"], torch.Tensor)
