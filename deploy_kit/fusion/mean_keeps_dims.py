"""Keep the axes that an average runs over, and drop them afterwards."""

from __future__ import annotations

from torch import fx

from deploy_kit.graph import Graph, argument, aten, shape


def mean_keeps_dims(graph: Graph) -> list[tuple[fx.Node, str]]:
    """mean(x) = reshape(mean(x, keepdim)): the same values, for runtimes that average only so.

    Needs fixed sizes, or a batch as the only free one.
    """
    changes = []
    for mean in graph.calls(aten.mean.dim):
        sizes = [size if isinstance(size, int) else -1 for size in shape(mean)]
        if argument(mean, "keepdim") or not argument(mean, "dim") or sizes.count(-1) > 1 or 0 in sizes:
            continue
        dtype = argument(mean, "dtype")
        kept = graph.call(aten.mean.dim, mean.args[0], argument(mean, "dim"), True, before=mean, dtype=dtype)
        graph.replace(mean, graph.call(aten.reshape.default, kept, sizes, before=mean))
        changes.append((mean, "axes dropped after the average"))
    return changes
