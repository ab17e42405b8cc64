"""Write RMSNorm as elementary operators, for runtimes that do not know it."""

from __future__ import annotations

import torch
from torch import fx

from deploy_kit.graph import Graph, argument, aten


def decompose_rms_norm(graph: Graph) -> list[tuple[fx.Node, str]]:
    """rms_norm(x) = g * x / sqrt(mean(x^2) + eps), the mean over the normalised axes."""
    changes = []
    for node in graph.calls(aten.rms_norm.default):
        x, weight = node.args[0], argument(node, "weight")
        eps = argument(node, "eps")
        eps = torch.finfo(node.meta["val"].dtype).eps if eps is None else eps
        axes = [-i - 1 for i in range(len(argument(node, "normalized_shape")))]
        squares = graph.call(aten.mul.Tensor, x, x, before=node)
        mean = graph.call(aten.mean.dim, squares, axes, True, before=node)
        scale = graph.call(aten.rsqrt.default, graph.call(aten.add.Tensor, mean, eps, before=node), before=node)
        out = graph.call(aten.mul.Tensor, x, scale, before=node)
        if weight is not None:
            out = graph.call(aten.mul.Tensor, out, weight, before=node)
        graph.replace(node, out)
        changes.append((node, "written as mul, mean, rsqrt, mul"))
    return changes
