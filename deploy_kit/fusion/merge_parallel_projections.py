"""Compute several projections of one input as one layer."""

from __future__ import annotations

import operator
from collections.abc import Hashable

import torch
from torch import fx

from deploy_kit.fusion.linear_ops import CONVOLUTIONS, LINEAR, channel_axis
from deploy_kit.fusion.windows import per_axis
from deploy_kit.graph import Graph, argument, aten, is_call, operand


def merge_parallel_projections(graph: Graph) -> list[tuple[fx.Node, str]]:
    """(W1 x + b1, W2 x + b2) = split([W1; W2] x + [b1; b2]): one layer in place of several that read the same x.

    Linear layers, or convolutions of equal kernel, stride, padding and dilation and without groups. The
    opposite of split_joint_projection: one large product and views in place of several small ones.
    """
    together: dict[Hashable, list[fx.Node]] = {}
    for layer in graph.calls(LINEAR, *CONVOLUTIONS):
        key = _key(graph, layer)
        if key is not None:
            together.setdefault(key, []).append(layer)
    changes = []
    for layers in together.values():
        if len(layers) > 1:
            changes.append((layers[0], f"computed together with {', '.join(layer.name for layer in layers[1:])}"))
            _merge(graph, layers)
    return changes


def _key(graph: Graph, layer: fx.Node) -> Hashable | None:
    """What layers must have in common to be one; None for a layer with computed weights or with groups."""
    weight, bias = (graph.constant(argument(layer, name)) for name in ("weight", "bias"))
    if weight is None or (bias is None and argument(layer, "bias") is not None):
        return None
    if is_call(layer, LINEAR):
        return layer.target, operand(layer)
    if argument(layer, "groups") != 1:
        return None
    kernel = weight.shape[2:]
    window = [tuple(per_axis(argument(layer, name), len(kernel))) for name in ("stride", "padding", "dilation")]
    return layer.target, operand(layer), tuple(kernel), *window


def _merge(graph: Graph, layers: list[fx.Node]) -> None:
    first = layers[0]
    weights = [graph.constant(argument(layer, "weight")) for layer in layers]
    biases = [graph.constant(argument(layer, "bias")) for layer in layers]
    known = [weight for weight in weights if weight is not None]
    rows = [len(weight) for weight in known]
    weight = graph.add_constant(torch.cat(known), f"{first.name}_weight", first)
    bias = None
    if any(own is not None for own in biases):
        whole = [w.new_zeros(len(w)) if own is None else own for w, own in zip(known, biases)]
        bias = graph.add_constant(torch.cat(whole), f"{first.name}_bias", first)
    window = [] if is_call(first, LINEAR) else [argument(first, name) for name in ("stride", "padding", "dilation")]
    joint = graph.call(first.target, operand(first), weight, bias, *window, before=first)  # type: ignore[arg-type]
    parts = graph.call(aten.split_with_sizes.default, joint, rows, channel_axis(first), before=first)
    cut = [graph.call(operator.getitem, parts, i, before=first, like=layer) for i, layer in enumerate(layers)]  # type: ignore[arg-type]
    for layer, part in zip(layers, cut):
        graph.replace(layer, part)
