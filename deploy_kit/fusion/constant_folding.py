"""Compute once, at export, what does not depend on the input."""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from deploy_kit.graph import Graph, aten

LIMIT = 1 << 20
"""A folded constant may not have more elements than this, or than what it is computed from, or than `_met` says."""

BROADCASTS = (aten.expand.default, aten.broadcast_to.default)
"""What costs nothing to compute and everything to store."""


def constant_folding(graph: Graph) -> list[tuple[fx.Node, str]]:
    """f(constants) = constant, for every operator f without randomness."""
    changes = []
    variable = _variable(graph)
    for node in list(graph.nodes):
        if not _is_foldable(graph, node):
            continue
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), graph.constant)
        with torch.no_grad():
            value = node.target(*args, **kwargs)
        size = sum(source.meta["val"].numel() for source in node.all_input_nodes)
        if value.numel() > max(LIMIT, size) and (node.target in BROADCASTS or value.numel() > _met(node, variable)):
            continue
        graph.replace(node, graph.add_constant(value.contiguous(), f"constant_{node.name}", node))
        changes.append((node, f"{node.target} of constants computed once"))
    return changes


def _variable(graph: Graph) -> set[fx.Node]:
    """The nodes that depend on the input."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def _met(node: fx.Node, variable: set[fx.Node]) -> int:
    """Elements of the largest result in which a constant, or what becomes of it, meets the input, for a batch of one.

    Attention scores have as many as the bias or the mask that is added to them: a file with such constants is as large
    as what the runtime computes anyway.
    """
    sizes = [_elements(user) if user in variable else _met(user, variable) for user in node.users]
    return max(sizes, default=0)


def _elements(node: fx.Node) -> int:
    value = node.meta.get("val")
    return math.prod(size for size in value.shape if isinstance(size, int)) if isinstance(value, Tensor) else 0


def _is_foldable(graph: Graph, node: fx.Node) -> bool:
    if node.op != "call_function" or not isinstance(node.target, OpOverload):
        return False
    if torch.Tag.nondeterministic_seeded in node.target.tags:
        return False
    if not isinstance(node.meta["val"], Tensor):
        return False
    return all(graph.constant(source) is not None for source in node.all_input_nodes)
