"""Fold BatchNorm through a global average into the classifier."""

from __future__ import annotations

from torch import fx

from deploy_kit.fusion.batch_norm_into_consumer import fold_norms_forward
from deploy_kit.graph import Graph


def batch_norm_into_classifier(graph: Graph) -> list[tuple[fx.Node, str]]:
    """W mean(g * x + s) + b = (W diag g) mean(x) + (W s + b): a gain and a shift commute with an average.

    The average must run over other axes than the channels, and every use must be a linear map.
    """
    return fold_norms_forward(graph, through_mean=True)
