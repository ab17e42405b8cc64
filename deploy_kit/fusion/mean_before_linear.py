"""Average tokens before a linear layer instead of after it."""

from __future__ import annotations

from torch import fx

from deploy_kit.graph import Graph, argument, aten, is_call, only_user, operand, rank, shape


def mean_before_linear(graph: Graph) -> list[tuple[fx.Node, str]]:
    """mean(W x + b) = W mean(x) + b, and mean(x + y) = mean(x) + mean(y), over other axes than W's.

    The linear layer, and a residual sum after it, must be used by nothing else: then the layer runs
    on one token instead of all.
    """
    changes = []
    for mean in graph.calls(aten.mean.dim):
        source = operand(mean)
        if not mean.args[1] or argument(mean, "dtype") is not None or only_user(source) is not mean:
            continue
        if _is_linear(source, mean):
            moved = _behind(graph, source, mean)
        elif is_call(source, aten.add.Tensor) and argument(source, "alpha") == 1 and _same_shapes(source):
            parts = (operand(source, 0), operand(source, 1))
            terms = [x for x in parts if _is_linear(x, mean) and only_user(x) is source]
            if not terms:
                continue
            sums = [_behind(graph, x, mean) if x in terms else _average(graph, x, mean) for x in parts]
            moved = graph.call(aten.add.Tensor, *sums, before=mean, like=source)
            source = terms[0]
        else:
            continue
        graph.replace(mean, moved)
        changes.append((source, "runs on the average of its tokens"))
    return changes


def _is_linear(node: object, mean: fx.Node) -> bool:
    if not is_call(node, aten.linear.default):
        return False
    dims = rank(operand(mean))
    return dims - 1 not in {axis % dims for axis in argument(mean, "dim")}


def _same_shapes(add: fx.Node) -> bool:
    return all(isinstance(x, fx.Node) and shape(x) == shape(add) for x in add.args)


def _average(graph: Graph, x: fx.Node, mean: fx.Node) -> fx.Node:
    return graph.call(aten.mean.dim, x, argument(mean, "dim"), argument(mean, "keepdim"), before=mean)


def _behind(graph: Graph, linear: fx.Node, mean: fx.Node) -> fx.Node:
    """``linear(mean(x))`` for ``mean(linear(x))``."""
    averaged = _average(graph, operand(linear), mean)
    return graph.call(aten.linear.default, averaged, *linear.args[1:], before=mean, like=linear)
