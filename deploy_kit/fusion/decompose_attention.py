"""Write fused attention as matrix products and a softmax, for runtimes that know only those."""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx

from deploy_kit.graph import Graph, argument, aten, operand, shape


def decompose_attention(graph: Graph) -> list[tuple[fx.Node, str]]:
    """attention(q, k, v) = softmax(c q k^T + mask) v, with c = 1 / sqrt(head dimension) unless given.

    A boolean mask adds 0 where it is true and minus infinity elsewhere; a query that may see no key
    at all gives 0. Grouped queries, attention dropout and causal masks of a dynamic size are left
    as they are.
    """
    changes = []
    for node in graph.calls(aten.scaled_dot_product_attention.default):
        q, k, v = (operand(node, index) for index in range(3))
        if argument(node, "dropout_p") or argument(node, "enable_gqa"):
            continue
        scale = argument(node, "scale")
        scale = 1 / math.sqrt(shape(q)[-1]) if scale is None else scale
        if argument(node, "is_causal") and not all(isinstance(shape(x)[-2], int) for x in (q, k)):
            continue
        mask = _additive_mask(graph, node)
        keys = graph.call(aten.transpose.int, k, -2, -1, before=node)
        scores = graph.call(aten.matmul.default, q, keys, before=node)
        scores = graph.call(aten.mul.Tensor, scores, scale, before=node)
        if mask is not None:
            scores = graph.call(aten.add.Tensor, scores, mask, before=node)
        weights = graph.call(aten.softmax.int, scores, -1, before=node)
        if mask is not None and _may_hide_every_key(graph, mask):
            hidden = graph.call(aten.eq.Scalar, scores, -math.inf, before=node)
            hidden = graph.call(aten.all.dim, hidden, -1, True, before=node)
            zero = _constant(graph, node, torch.zeros(()), "mask_zero")
            weights = graph.call(aten.where.self, hidden, zero, weights, before=node)
        graph.replace(node, graph.call(aten.matmul.default, weights, v, before=node))
        changes.append((node, "written as matmul, softmax, matmul"))
    return changes


def _additive_mask(graph: Graph, node: fx.Node) -> fx.Node | None:
    """What an attention call adds to its scores; None where it adds nothing."""
    mask = argument(node, "attn_mask")
    if argument(node, "is_causal"):
        rows, columns = (shape(operand(node, index))[-2] for index in (0, 1))
        return _constant(graph, node, _minus_infinity_outside(torch.ones(rows, columns).tril() == 1), "causal_mask")
    if mask is None or mask.meta["val"].dtype != torch.bool:
        return mask
    value = graph.constant(mask)
    if value is not None:
        return _constant(graph, node, _minus_infinity_outside(value), str(mask.target))
    zero = _constant(graph, node, torch.zeros(()), "mask_zero")
    minus_infinity = _constant(graph, node, torch.full((), -math.inf), "mask_minus_infinity")
    return graph.call(aten.where.self, mask, zero, minus_infinity, before=node)


def _minus_infinity_outside(visible: Tensor) -> Tensor:
    return torch.zeros(visible.shape).masked_fill(~visible, -math.inf)


def _constant(graph: Graph, node: fx.Node, value: Tensor, name: str) -> fx.Node:
    return graph.add_constant(value.to(node.meta["val"].dtype), name, node)


def _may_hide_every_key(graph: Graph, mask: fx.Node) -> bool:
    value = graph.constant(mask)
    return value is None or bool((value == -math.inf).all(-1).any())
