"""Fold BatchNorm into the pointwise convolution or linear layer after it."""

from __future__ import annotations

from torch import fx

from deploy_kit.fusion.batch_norm import as_affine
from deploy_kit.fusion.channels import channel_uses
from deploy_kit.fusion.sink_affine import accepts_affine, sink_affine
from deploy_kit.graph import Graph, aten, module_path, operand


def batch_norm_into_consumer(graph: Graph) -> list[tuple[fx.Node, str]]:
    """W (g * x + s) + b = (W diag g) x + (W s + b), for a gain g and a shift s of each input channel.

    Every use of the norm must be a linear layer, or a convolution without padding: beside a border
    of zeros, the shift would be added where the norm's output is 0.
    """
    return fold_norms_forward(graph, through_mean=False)


def fold_norms_forward(graph: Graph, *, through_mean: bool) -> list[tuple[fx.Node, str]]:
    """Fold each BatchNorm whose uses all accept it, following views and, if asked, averages."""
    changes = []
    for norm in graph.calls(aten.batch_norm.default):
        affine = as_affine(graph, norm)
        uses = channel_uses(norm, 1, through_mean=through_mean)
        if affine is None or not all(accepts_affine(graph, use) for use in uses):
            continue
        for use in uses:
            sink_affine(graph, use, affine)
        graph.replace(norm, operand(norm))
        changes.append((norm, "folded into " + ", ".join(module_path(use.consumer) or "the model" for use in uses)))
    return changes
