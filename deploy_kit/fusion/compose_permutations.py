"""Merge permutations that follow one another, and drop those that change nothing."""

from __future__ import annotations

from torch import fx

from deploy_kit.graph import Graph, argument, aten, is_call, rank

PERMUTATIONS = (aten.permute.default, aten.transpose.int)
TO_TOKENS, TO_IMAGE = [0, 2, 3, 1], [0, 3, 1, 2]
"""From [B, C, H, W] to [B, H, W, C] and back."""


def compose_permutations(graph: Graph) -> list[tuple[fx.Node, str]]:
    """permute(permute(x, p), q) = permute(x, [p[i] for i in q]), and permute(x, identity) = x."""
    changes = []
    for outer in graph.calls(*PERMUTATIONS):
        order, x = permutation(outer), outer.args[0]
        assert isinstance(x, fx.Node)
        if is_call(x, *PERMUTATIONS):
            inner = permutation(x)
            order, x = [inner[i] for i in order], x.args[0]
            assert isinstance(x, fx.Node)
        elif order != list(range(len(order))):
            continue
        identity = order == list(range(len(order)))
        graph.replace(outer, x if identity else graph.call(aten.permute.default, x, order, before=outer))
        changes.append((outer, "cancelled" if identity else f"merged into {order}"))
    return changes


def permutation(node: fx.Node) -> list[int]:
    """Which axis of the input each axis of a permutation's output is."""
    dims = rank(node)
    if is_call(node, aten.permute.default):
        return [axis % dims for axis in argument(node, "dims")]
    order = list(range(dims))
    first, second = argument(node, "dim0") % dims, argument(node, "dim1") % dims
    order[first], order[second] = second, first
    return order
