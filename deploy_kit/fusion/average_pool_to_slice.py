"""Write a pooling window of one element as the strided slice that it is."""

from __future__ import annotations

from torch import fx

from deploy_kit.graph import Graph, argument, aten, operand, rank

LAST = 2**63 - 1


def average_pool_to_slice(graph: Graph) -> list[tuple[fx.Node, str]]:
    """pool(x)[i, j] = x[r i, r j] for a window of 1 x 1 and a stride of r: the average of one value.

    Needs the divisor to be 1 as well. A window of one element has no padding to count, and rounding
    the output's size up adds nothing to it.
    """
    changes = []
    for pool in graph.calls(aten.avg_pool2d.default):
        kernel = argument(pool, "kernel_size")
        stride = argument(pool, "stride") or kernel
        if set(kernel) != {1} or argument(pool, "divisor_override") not in (None, 1):
            continue
        sliced = operand(pool)
        steps = stride if len(stride) == 2 else [stride[0], stride[0]]
        for axis, step in zip((rank(pool) - 2, rank(pool) - 1), steps):
            if step > 1:
                sliced = graph.call(aten.slice.Tensor, sliced, axis, 0, LAST, step, before=pool)
        graph.replace(pool, sliced)
        changes.append((pool, f"average of one element, stride {steps}, is a slice"))
    return changes
