"""Write a product of stacks of matrices with one batch axis."""

from __future__ import annotations

from torch import fx

from deploy_kit.graph import Graph, aten, rank, shape


def matmul_to_bmm(graph: Graph) -> list[tuple[fx.Node, str]]:
    """matmul(a, b)[i, ..., j] = bmm(a', b')[k], where a' and b' count the stacks i, ..., j by one number k.

    Needs the same fixed stacks on both sides: no broadcasting. Runtimes that write out the expansion
    of a matmul copy both operands; this has none.
    """
    changes = []
    for product in graph.calls(aten.matmul.default):
        a, b = product.args
        assert isinstance(a, fx.Node)
        assert isinstance(b, fx.Node)
        if rank(a) < 3 or shape(a)[:-2] != shape(b)[:-2]:
            continue
        if not all(isinstance(size, int) for size in (*shape(a), *shape(b))):
            continue
        flat = [_stack(graph, x, product) for x in (a, b)]
        out = graph.call(aten.bmm.default, *flat, before=product)
        if rank(a) > 3:
            out = graph.call(aten.reshape.default, out, list(shape(product)), before=product)
        graph.replace(product, out)
        changes.append((product, "matmul with one batch axis"))
    return changes


def _stack(graph: Graph, x: fx.Node, product: fx.Node) -> fx.Node:
    if rank(x) == 3:
        return x
    return graph.call(aten.reshape.default, x, [-1, *shape(x)[-2:]], before=product)
