"""Compute GELU in its form with tanh: an approximation, and never a pass of a policy."""

from __future__ import annotations

from torch import fx

from deploy_kit.graph import Graph, argument, aten


def gelu_to_tanh(graph: Graph) -> list[tuple[fx.Node, str]]:
    """gelu(x) ~ x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))), which differs by at most 5e-4.

    From https://arxiv.org/abs/1606.08415, section 2.
    """
    changes = []
    for node in graph.calls(aten.gelu.default):
        if argument(node, "approximate") == "none":
            graph.replace(node, new := graph.call(aten.gelu.default, node.args[0], before=node, approximate="tanh"))
            changes.append((new, "GELU in its form with tanh"))
    return changes
