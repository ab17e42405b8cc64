"""Write rolls as what they are: two slices, the other way round."""

from __future__ import annotations

from typing import Any

from torch import fx

from deploy_kit.graph import Graph, argument, aten, operand, rank, shape


def roll_to_slices(graph: Graph) -> list[tuple[fx.Node, str]]:
    """roll(x, s, d) = cat([x[n - s :], x[: n - s]], d), for n elements along d; several axes one after another.

    A shift by a multiple of n is none. For runtimes that have no roll. Needs fixed shifts and sizes, and
    the axes to be named.
    """
    changes = []
    for roll in graph.calls(aten.roll.default):
        shifts, dims = argument(roll, "shifts"), argument(roll, "dims")
        x = operand(roll)
        dims = [dim % rank(x) for dim in dims]
        if not dims or not all(isinstance(value, int) for value in (*shifts, *(shape(x)[dim] for dim in dims))):
            continue
        for shift, dim in zip(shifts, dims):
            x = _rolled(graph, x, shift, dim, roll)
        graph.replace(roll, x)
        changes.append((roll, f"roll along {dims} is slices"))
    return changes


def _rolled(graph: Graph, x: fx.Node, shift: int, dim: int, roll: fx.Node) -> fx.Node:
    size: Any = shape(x)[dim]
    start = -shift % size if size else 0
    if start == 0:
        return x
    last = graph.call(aten.slice.Tensor, x, dim, start, size, before=roll)
    first = graph.call(aten.slice.Tensor, x, dim, 0, start, before=roll)
    return graph.call(aten.cat.default, [last, first], dim, before=roll)
