"""Compute GELU with one sigmoid: an approximation, and never a pass of a policy."""

from __future__ import annotations

from torch import fx

from deploy_kit.graph import Graph, aten, operand


def gelu_to_sigmoid(graph: Graph) -> list[tuple[fx.Node, str]]:
    """gelu(x) ~ x * sigmoid(1.702 x), which differs by at most 2.1e-2.

    From https://arxiv.org/abs/1606.08415, section 2.
    """
    changes = []
    for node in graph.calls(aten.gelu.default):
        x = operand(node)
        gate = graph.call(aten.mul.Tensor, x, 1.702, before=node)
        gate = graph.call(aten.sigmoid.default, gate, before=node)
        graph.replace(node, new := graph.call(aten.mul.Tensor, x, gate, before=node))
        changes.append((new, "GELU as a sigmoid's product"))
    return changes
