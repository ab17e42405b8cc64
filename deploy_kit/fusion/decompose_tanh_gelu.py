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
        square = graph.call(aten.mul.Tensor, x, x, before=node)
        inner = graph.call(aten.mul.Tensor, square, scale * CUBIC, before=node)
        inner = graph.call(aten.add.Tensor, inner, scale, before=node)
        inner = graph.call(aten.mul.Tensor, x, inner, before=node)
        half = graph.call(aten.mul.Tensor, x, 0.5, before=node)
        other = graph.call(aten.mul.Tensor, half, graph.call(aten.tanh.default, inner, before=node), before=node)
        graph.replace(node, graph.call(aten.add.Tensor, half, other, before=node))
        changes.append((node, "written as products and a tanh"))
    return changes
