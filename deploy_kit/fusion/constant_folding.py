"""Compute once, at export, what does not depend on the input."""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from deploy_kit.graph import Graph

LIMIT = 1 << 20
"""A folded constant may not have more elements than this, or than what it is computed from."""


def constant_folding(graph: Graph) -> list[tuple[fx.Node, str]]:
    """f(constants) = constant, for every operator f without randomness."""
    changes = []
    for node in list(graph.nodes):
        if not _is_foldable(graph, node):
            continue
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), graph.constant)
        with torch.no_grad():
            value = node.target(*args, **kwargs)
        size = sum(source.meta["val"].numel() for source in node.all_input_nodes)
        if value.numel() > max(LIMIT, size):
            continue
        graph.replace(node, graph.add_constant(value.contiguous(), f"constant_{node.name}", node))
        changes.append((node, f"{node.target} of constants computed once"))
    return changes


def _is_foldable(graph: Graph, node: fx.Node) -> bool:
    if node.op != "call_function" or not isinstance(node.target, OpOverload):
        return False
    if torch.Tag.nondeterministic_seeded in node.target.tags:
        return False
    if not isinstance(node.meta["val"], Tensor):
        return False
    return all(graph.constant(source) is not None for source in node.all_input_nodes)
