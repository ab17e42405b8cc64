"""Write the tanh form of GELU in the operators that it is made of."""

from __future__ import annotations

import math

from torch import fx

from deploy_kit.graph import Graph, argument, aten, operand

CUBIC = 0.044715


def decompose_tanh_gelu(graph: Graph) -> list[tuple[fx.Node, str]]:
    """gelu(x, "tanh") = x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))), which is what it is defined as.

    ExecuTorch 1.4.1 gives XNNPACK every GELU as the one with erf, which differs by up to 5e-4.
    """
    changes = []
    for node in graph.calls(aten.gelu.default):
        if argument(node, "approximate") != "tanh":
            continue
        x, scale = operand(node), math.sqrt(2 / math.pi)

        def call(op: object, *args: object, before: fx.Node = node) -> fx.Node:
            return graph.call(op, *args, before=before)  # type: ignore[arg-type]

        square = call(aten.mul.Tensor, x, x)
        inner = call(aten.add.Tensor, call(aten.mul.Tensor, square, scale * CUBIC), scale)
        tanh = call(aten.tanh.default, call(aten.mul.Tensor, x, inner))
        half = call(aten.mul.Tensor, x, 0.5)
        graph.replace(node, call(aten.add.Tensor, half, call(aten.mul.Tensor, half, tanh)))
        changes.append((node, "written as products and a tanh"))
    return changes
