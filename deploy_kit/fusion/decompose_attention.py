"""Write fused attention as matrix products and a softmax, for runtimes that know only those."""

from __future__ import annotations

import math

import torch
from torch import fx

from deploy_kit.graph import Graph, argument, aten, shape


def decompose_attention(graph: Graph) -> list[tuple[fx.Node, str]]:
    """attention(q, k, v) = softmax(c q k^T + mask) v, with c = 1 / sqrt(head dimension) unless given.

    A boolean mask adds 0 where it is true and minus infinity elsewhere. Grouped queries and
    attention dropout are left as they are.
    """
    changes = []
    for node in graph.calls(aten.scaled_dot_product_attention.default):
        q, k, v = node.args[:3]
        if argument(node, "dropout_p") or argument(node, "enable_gqa"):
            continue
        scale = argument(node, "scale")
        scale = 1 / math.sqrt(shape(q)[-1]) if scale is None else scale  # type: ignore[arg-type]
        mask = _mask(graph, node)
        if mask is _DYNAMIC:
            continue
        keys = graph.call(aten.transpose.int, k, -2, -1, before=node)
        scores = graph.call(aten.matmul.default, q, keys, before=node)
        scores = graph.call(aten.mul.Tensor, scores, scale, before=node)
        if mask is not None:
            scores = graph.call(aten.add.Tensor, scores, mask, before=node)
        weights = graph.call(aten.softmax.int, scores, -1, before=node)
        graph.replace(node, graph.call(aten.matmul.default, weights, v, before=node))
        changes.append((node, "written as matmul, softmax, matmul"))
    return changes


_DYNAMIC = object()


def _mask(graph: Graph, node: fx.Node) -> fx.Node | object | None:
    """The additive mask of an attention call; None where it has none."""
    mask = argument(node, "attn_mask")
    dtype = node.meta["val"].dtype
    if argument(node, "is_causal"):
        rows, columns = shape(node.args[0])[-2], shape(node.args[1])[-2]  # type: ignore[arg-type]
        if not (isinstance(rows, int) and isinstance(columns, int)):
            return _DYNAMIC
        hidden = torch.ones(rows, columns, dtype=torch.bool).tril().logical_not()
        return graph.add_constant(
            torch.zeros(rows, columns, dtype=dtype).masked_fill(hidden, -math.inf), "causal_mask", node
        )
    if mask is None or mask.meta["val"].dtype != torch.bool:
        return mask
    zero = graph.add_constant(torch.zeros((), dtype=dtype), "mask_zero", node)
    minus_infinity = graph.add_constant(torch.full((), -math.inf, dtype=dtype), "mask_minus_infinity", node)
    return graph.call(aten.where.self, mask, zero, minus_infinity, before=node)
