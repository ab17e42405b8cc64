"""Drop tokens before they are normalised, not after."""

from __future__ import annotations

from typing import Any

from torch import fx

from deploy_kit.graph import Graph, argument, aten, is_call, only_user, rank


def slice_before_layer_norm(graph: Graph) -> list[tuple[fx.Node, str]]:
    """slice(norm(x)) = norm(slice(x)), for a slice along an axis that the norm does not run over.

    A permutation between the two is stepped over. The slice must be the norm's only use: else the
    norm would run twice.
    """
    changes = []
    moved = True
    while moved:
        moved = False
        for cut in graph.calls(aten.slice.Tensor):
            source = cut.args[0]
            assert isinstance(source, fx.Node)
            if only_user(source) is not cut:
                continue
            if is_call(source, aten.permute.default):
                axis = [d % rank(source) for d in source.args[1]][_axis(cut)]  # type: ignore[union-attr]
                _swap(graph, cut, source, axis)
                moved = True
            elif is_call(source, aten.layer_norm.default) and _axis(cut) < _first_normalised_axis(source):
                _swap(graph, cut, source, _axis(cut))
                changes.append((source, f"slice with step {_bounds(cut)[2]} moved before the norm"))
                moved = True
    return changes


def _axis(cut: fx.Node) -> int:
    return argument(cut, "dim") % rank(cut)


def _bounds(cut: fx.Node) -> tuple[Any, Any, Any]:
    return argument(cut, "start"), argument(cut, "end"), argument(cut, "step")


def _first_normalised_axis(norm: fx.Node) -> int:
    return rank(norm) - len(argument(norm, "normalized_shape"))


def _swap(graph: Graph, cut: fx.Node, source: fx.Node, axis: int) -> None:
    """Replace ``cut(source(x))`` with ``source(cut(x))``, cutting along ``axis`` of x."""
    x, *others = source.args
    inner = graph.call(aten.slice.Tensor, x, axis, *_bounds(cut), before=source, like=cut)
    outer = graph.call(source.target, inner, *others, before=source, like=source, **source.kwargs)  # type: ignore[arg-type]
    graph.replace(cut, outer)
    graph.module.graph.erase_node(cut)
    graph.module.graph.erase_node(source)
