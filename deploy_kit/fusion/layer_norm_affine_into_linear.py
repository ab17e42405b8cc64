"""Fold LayerNorm's gain and bias into the linear layer or pointwise convolution after it."""

from __future__ import annotations

import torch
from torch import fx

from deploy_kit.fusion.batch_norm import ChannelAffine
from deploy_kit.fusion.channels import channel_uses
from deploy_kit.fusion.sink_affine import accepts_affine, sink_affine
from deploy_kit.graph import Graph, argument, aten, module_path, rank, set_argument


def layer_norm_affine_into_linear(graph: Graph) -> list[tuple[fx.Node, str]]:
    """W (g * n + s) + b = (W diag g) n + (W s + b), for n the normalised input without gain and bias.

    The norm must run over the channel axis alone, and every use must be a linear map without padding.
    """
    changes = []
    for norm in graph.calls(aten.layer_norm.default):
        gain, bias = argument(norm, "weight"), argument(norm, "bias")
        if (gain is None and bias is None) or len(argument(norm, "normalized_shape")) != 1:
            continue
        values = [graph.constant(gain), graph.constant(bias)]
        if (gain is not None and values[0] is None) or (bias is not None and values[1] is None):
            continue
        uses = channel_uses(norm, rank(norm) - 1)
        if not all(accepts_affine(graph, use) for use in uses):
            continue
        size = argument(norm, "normalized_shape")[0]
        ones, zeros = torch.ones(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
        affine = ChannelAffine(
            ones if values[0] is None else values[0].double(), zeros if values[1] is None else values[1].double()
        )
        for use in uses:
            sink_affine(graph, use, affine)
        set_argument(norm, "weight", None)
        set_argument(norm, "bias", None)
        changes.append((norm, "folded into " + ", ".join(module_path(use.consumer) or "the model" for use in uses)))
    return changes
