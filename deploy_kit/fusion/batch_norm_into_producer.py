"""Fold BatchNorm into the convolution, transposed convolution or linear layer before it."""

from __future__ import annotations

from torch import fx

from deploy_kit.fusion.batch_norm import as_affine
from deploy_kit.fusion.channels import channel_uses
from deploy_kit.fusion.linear_ops import (
    LINEAR_OPS,
    channel_axis,
    scale_outputs,
    set_weight_and_bias,
    weight_and_bias,
)
from deploy_kit.graph import Graph, aten, is_call


def batch_norm_into_producer(graph: Graph) -> list[tuple[fx.Node, str]]:
    """g * (W x + b) + s = (g W) x + (g b + s), for a gain g and a shift s of each output channel.

    Holds for any kernel, stride, padding and grouping, and through views that keep channels apart.
    Needs the norm to be the only use of the layer's output, and to be in evaluation mode.
    """
    changes = []
    for producer in graph.calls(*LINEAR_OPS):
        uses = channel_uses(producer, channel_axis(producer))
        if len(uses) != 1 or not is_call(uses[0].consumer, aten.batch_norm.default):
            continue
        norm, operand = uses[0].consumer, uses[0].operand
        affine = as_affine(graph, norm)
        constants = weight_and_bias(graph, producer)
        if affine is None or constants is None or uses[0].axis != 1:
            continue
        weight, bias = constants
        folded = scale_outputs(producer, weight, affine.gain)
        set_weight_and_bias(graph, producer, folded, affine.gain * bias + affine.shift)
        graph.replace(norm, operand)
        changes.append((norm, f"folded into {producer.target.__name__.split('.')[0]} before it"))  # type: ignore[union-attr]
    return changes
