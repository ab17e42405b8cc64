"""Move permutations towards the output, through operators that do not care, so that they meet and cancel."""

from __future__ import annotations

import torch
from torch import fx
from torch._ops import OpOverload

from deploy_kit.fusion.compose_permutations import PERMUTATIONS, compose_permutations, permutation
from deploy_kit.graph import Graph, argument, aten, is_call, is_elementwise, only_user, operand, rank, shape


def sink_permutations(graph: Graph) -> list[tuple[fx.Node, str]]:
    """f(permute(x)) = permute(f(x)), and f(permute(x), y) = permute(f(x, permute^-1(y))), f elementwise.

    An average over some axes moves likewise, over the axes that those were before. Permutations
    that meet are merged; where the data is channels-last, those that are left are free.
    """
    changes = []
    moved = True
    while moved:
        moved = False
        for node in graph.calls(*_candidates(graph)):
            order = _order_above(node)
            if order is None:
                continue
            replacement = (
                _average(graph, node, order) if is_call(node, aten.mean.dim) else _elementwise(graph, node, order)
            )
            graph.replace(node, replacement)
            changes.append((replacement, "permutation moved behind it"))
            moved = True
        if moved:
            compose_permutations(graph)
            graph.clean()
    return changes


def _candidates(graph: Graph) -> set[OpOverload]:
    """The elementwise operators of a graph, and the average."""
    return {
        node.target
        for node in graph.nodes
        if isinstance(node.target, OpOverload) and (is_elementwise(node.target) or node.target is aten.mean.dim)
    }


def _order_above(node: fx.Node) -> list[int] | None:
    """The permutation that is worth moving from above ``node`` to below it; None where none is."""
    inputs = node.all_input_nodes
    permuted = [x for x in inputs if is_call(x, *PERMUTATIONS)]
    if not permuted or not isinstance(node.meta["val"], torch.Tensor):
        return None
    order = permutation(permuted[0])
    if is_call(node, aten.mean.dim):
        return order if node.args[1] and only_user(permuted[0]) is node else None
    if any(not isinstance(x.meta["val"], torch.Tensor) or shape(x) != shape(node) for x in inputs):
        return None
    change = _change_in_number(node, order)
    downwards = all(_is_permuted(x, order) for x in inputs)
    return order if change < 0 or (change == 0 and downwards) else None


def _change_in_number(node: fx.Node, order: list[int]) -> int:
    """How many permutations more there would be if ``order`` moved behind ``node``; the search ends as it falls."""
    change = 0 if all(_is_permuted(user, inverse(order)) for user in node.users) else 1
    change -= sum(_is_permuted(user, inverse(order)) for user in node.users)
    for x in node.all_input_nodes:
        if _is_permuted(x, order):
            change -= len(x.users) == 1
        else:
            change += _permuted_before(x, inverse(order), node) is None
    return change


def _is_permuted(node: fx.Node, order: list[int]) -> bool:
    return is_call(node, *PERMUTATIONS) and permutation(node) == order


def _permuted_before(x: fx.Node, order: list[int], node: fx.Node) -> fx.Node | None:
    """A permutation of ``x`` that is there already when ``node`` runs."""
    return next((user for user in x.users if _is_permuted(user, order) and user < node), None)


def _elementwise(graph: Graph, node: fx.Node, order: list[int]) -> fx.Node:
    undone: dict[fx.Node, fx.Node] = {}
    for x in node.all_input_nodes:
        if _is_permuted(x, order):
            undone[x] = operand(x)
        else:
            there = _permuted_before(x, inverse(order), node)
            undone[x] = there or graph.call(aten.permute.default, x, inverse(order), before=node)
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda x: undone[x])
    inner = graph.call(node.target, *args, before=node, **kwargs)  # type: ignore[arg-type]
    return graph.call(aten.permute.default, inner, order, before=node)


def _average(graph: Graph, node: fx.Node, order: list[int]) -> fx.Node:
    x = operand(operand(node))
    dims = rank(operand(node))
    averaged = [order[axis % dims] for axis in argument(node, "dim")]
    keepdim = argument(node, "keepdim")
    inner = graph.call(aten.mean.dim, x, averaged, keepdim, before=node, dtype=argument(node, "dtype"))
    if not keepdim:
        kept = sorted(axis for axis in range(dims) if axis not in averaged)
        order = [kept.index(axis) for axis in order if axis in kept]
    return graph.call(aten.permute.default, inner, order, before=node)


def inverse(order: list[int]) -> list[int]:
    """The permutation that undoes ``order``."""
    return [order.index(axis) for axis in range(len(order))]
