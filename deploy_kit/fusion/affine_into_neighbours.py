"""Fold gains and shifts of channels, such as products and sums with constants, into the linear maps around them."""

from __future__ import annotations

import torch
from torch import fx

from deploy_kit.fusion.batch_norm import ChannelAffine
from deploy_kit.fusion.channel_affine import affine_input, channel_affine
from deploy_kit.fusion.channels import ChannelUse, channel_uses
from deploy_kit.fusion.linear_ops import (
    CONVOLUTIONS,
    LINEAR,
    LINEAR_OPS,
    channel_axis,
    has_no_padding,
    scale_outputs,
    set_weight_and_bias,
    weight_and_bias,
)
from deploy_kit.fusion.sink_affine import sink_affine
from deploy_kit.graph import Graph, aten, is_call, module_path, only_user, rank


def affine_into_neighbours(graph: Graph) -> list[tuple[fx.Node, str]]:
    """g * (W x + b) + s = (g W) x + (g b + s), else W (g * x + s) + b = (W diag g) x + (W s + b).

    The gain g and the shift s are constants, one for all channels or one a channel: a layer scale, a
    logit scale, an input's normalisation, BatchNorm, a depthwise 1x1 convolution. The layer before
    takes them where nothing else uses its output; the layers after, where all take them; views that
    keep channels apart and averages over other axes may lie between. A shift does not pass a border of
    zeros. A gain does: beside a border, g * x + s = g * (x + s / g), of which the sum stays. A gain of 1
    without a shift is left out anywhere.
    """
    return [*_without_effect(graph), *_into_producers(graph), *_into_consumers(graph)]


def _without_effect(graph: Graph) -> list[tuple[fx.Node, str]]:
    """Leave out gains of 1 and shifts of 0, whatever lies around them."""
    changes = []
    for node in list(graph.nodes):
        x = affine_input(graph, node)
        affines = [] if x is None else [channel_affine(graph, node, x, axis) for axis in range(rank(x))]
        if any(affine is not None and (affine.gain == 1).all() and not affine.shift.any() for affine in affines):
            assert x is not None
            changes.append((node, f"{node.name} has no effect"))
            graph.replace(node, x)
    return changes


def _into_producers(graph: Graph) -> list[tuple[fx.Node, str]]:
    changes = []
    for producer in graph.calls(*LINEAR_OPS):
        while (found := _affine_after(graph, producer)) is not None:
            use, affine = found
            constants = weight_and_bias(graph, producer)
            if constants is None:
                break
            weight, bias = constants
            folded = scale_outputs(producer, weight, affine.gain)
            set_weight_and_bias(graph, producer, folded, affine.gain * bias + affine.shift)
            changes.append((use.consumer, f"{use.consumer.name} folded into {module_path(producer) or 'the model'}"))
            graph.replace(use.consumer, use.operand)
    return changes


def _affine_after(graph: Graph, producer: fx.Node) -> tuple[ChannelUse, ChannelAffine] | None:
    """The only use of a layer's output, where it is a gain and a shift."""
    uses = channel_uses(producer, channel_axis(producer), through_mean=True)
    if len(uses) != 1:
        return None
    affine = channel_affine(graph, uses[0].consumer, uses[0].operand, uses[0].axis)
    return None if affine is None else (uses[0], affine)


def _into_consumers(graph: Graph) -> list[tuple[fx.Node, str]]:
    changes = []
    for node in reversed(list(graph.nodes)):
        readers = _sink(graph, node) if node.users else None
        if readers is not None:
            changes.append((node, f"{node.name} folded into {', '.join(readers)}"))
    return changes


def _sink(graph: Graph, node: fx.Node) -> list[str] | None:
    """Fold a gain and a shift, with those right before it, into all that reads it; None where that cannot be done."""
    above = affine_input(graph, node)
    for axis in range(rank(above) if above is not None else 0):
        found = _chain(graph, node, axis)
        uses = channel_uses(node, axis, through_mean=True)
        if found is None or not all(_reads_channels(graph, use) for use in uses):
            continue
        x, affine, links = found
        kept = None
        if affine.shift.any() and not all(has_no_padding(use.consumer) for use in uses):
            if not affine.gain.all() or (links == 1 and (affine.gain == 1).all()):
                continue
            kept = affine.shift / affine.gain
            if not kept.to(x.meta["val"].dtype).isfinite().all():
                continue
            affine = ChannelAffine(affine.gain, torch.zeros_like(affine.shift))
        for use in uses:
            sink_affine(graph, use, affine)
        graph.replace(node, x if kept is None else _add(graph, x, kept, axis, before=node))
        return [module_path(use.consumer) or "the model" for use in uses]
    return None


def _chain(graph: Graph, node: fx.Node, axis: int) -> tuple[fx.Node, ChannelAffine, int] | None:
    """Gains and shifts in a row that ends with ``node``: what the first reads, all in one, and how many they are."""
    x, total, links = node, None, 0
    while x is node or only_user(x) is not None:
        below = affine_input(graph, x)
        affine = None if below is None else channel_affine(graph, x, below, axis)
        if below is None or affine is None:
            break
        if total is not None:
            affine = ChannelAffine(total.gain * affine.gain, total.gain * affine.shift + total.shift)
        x, total, links = below, affine, links + 1
    return None if total is None else (x, total, links)


def _reads_channels(graph: Graph, use: ChannelUse) -> bool:
    """Whether the consumer is a linear layer or a convolution over these channels, with any padding."""
    consumer = use.consumer
    if not is_call(consumer, *CONVOLUTIONS, LINEAR) or channel_axis(consumer) != use.axis:
        return False
    return weight_and_bias(graph, consumer) is not None


def _add(graph: Graph, x: fx.Node, shift: torch.Tensor, axis: int, before: fx.Node) -> fx.Node:
    dtype = x.meta["val"].dtype
    column = shift.reshape(-1, *[1] * (rank(x) - axis - 1)).to(dtype)
    return graph.call(aten.add.Tensor, x, graph.add_constant(column, f"{before.name}_shift", before), before=before)
