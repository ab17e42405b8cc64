"""Variants of a model's normalisation: norms that need statistics at run time, as BatchNorm that needs none."""

from __future__ import annotations

from functools import partial

import torch
from torch import fx
from torch._ops import OpOverload

from deploy_kit.advise.variant import Effect, Variant
from deploy_kit.graph import Graph, argument, aten, is_call, operand, rank, shape

NORMS = {
    "LayerNorm": aten.layer_norm.default,
    "GroupNorm": aten.group_norm.default,
    "RMSNorm": aten.rms_norm.default,
}


def normalisation_variants() -> list[Variant]:
    """Each kind of norm as BatchNorm, which is one gain and one shift a channel once a model is trained."""
    return [
        Variant("normalisation", f"every {name} as BatchNorm", Effect.RETRAIN, partial(_as_batch_norm, op))
        for name, op in NORMS.items()
    ]


def _as_batch_norm(op: OpOverload, graph: Graph) -> int:
    changed = 0
    for node in graph.calls(op):
        axis = _channel_axis(node)
        if axis is None:
            continue
        x = operand(node)
        sizes = [1] * rank(node)
        sizes[axis] = shape(node)[axis]
        generator = torch.Generator().manual_seed(changed)
        dtype = node.meta["val"].dtype
        gain = graph.add_constant((1 + 0.1 * torch.randn(sizes, generator=generator)).to(dtype), "gain", node)
        shift = graph.add_constant((0.1 * torch.randn(sizes, generator=generator)).to(dtype), "shift", node)
        scaled = graph.call(aten.mul.Tensor, x, gain, before=node, like=node)
        graph.replace(node, graph.call(aten.add.Tensor, scaled, shift, before=node, like=node))
        changed += 1
    return changed


def _channel_axis(node: fx.Node) -> int | None:
    """The axis of the channels that a norm has a gain for; None where it is over more than channels."""
    if is_call(node, aten.group_norm.default):
        return 1
    if len(argument(node, "normalized_shape")) != 1:
        return None
    return rank(node) - 1
