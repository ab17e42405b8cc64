"""Multiply two linear maps in a row into one, where that leaves less to compute."""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx

from deploy_kit.fusion.channels import channel_uses, follow_view
from deploy_kit.fusion.linear_ops import (
    CONVOLUTIONS,
    LINEAR,
    channel_axis,
    has_no_padding,
    is_pointwise,
    set_weight_and_bias,
    shift_inputs,
    weight_and_bias,
)
from deploy_kit.graph import Graph, argument, aten, is_call, module_path, operand, shape

MAPS = (LINEAR, *CONVOLUTIONS)
RESHAPES = (aten.reshape.default, aten.view.default, aten._unsafe_view.default)


def linear_into_linear(graph: Graph) -> list[tuple[fx.Node, str]]:
    """W2 (W1 x + b1) + b2 = (W2 W1) x + (W2 b1 + b2), for two layers with nothing but views between them.

    One of the two is a linear layer or a 1x1 convolution with stride 1, and neither has groups. The views
    keep channels apart, and nothing else uses what lies between. A second layer that pads with zeros would
    see b1 in them, so b1 must be zero then. Only where it saves multiplications: a narrow layer between
    wide ones stays.
    """
    changes = []
    for first in graph.calls(*MAPS):
        uses = channel_uses(first, channel_axis(first))
        if len(uses) != 1 or uses[0].axis != _input_axis(uses[0].consumer):
            continue
        second, constants = uses[0].consumer, _constants(graph, first)
        after = _constants(graph, second)
        if constants is None or after is None:
            continue
        views = _views_between(first, uses[0].operand)
        axes = _axes_after(first, views)
        kept, weight, bias = _product(first, second, constants, after) or (None, *constants)
        if kept is None or _macs(kept, weight) >= _macs(first, constants[0]) + _macs(second, after[0]):
            continue
        set_weight_and_bias(graph, kept, weight, bias)
        if kept is second:
            (views[0] if views else second).replace_input_with(first, operand(first))
            _carry(graph, views, axes, weight.shape[1])
            graph.module.graph.erase_node(first)
        else:
            graph.refresh(first)
            _carry(graph, views, axes, weight.shape[0])
            graph.replace(second, uses[0].operand)
        changes.append((first, f"multiplied with {module_path(second) or 'the model'}"))
    return changes


def _input_axis(node: fx.Node) -> int | None:
    return channel_axis(node) if is_call(node, *MAPS) else None


def _constants(graph: Graph, node: fx.Node) -> tuple[Tensor, Tensor] | None:
    grouped = is_call(node, *CONVOLUTIONS) and argument(node, "groups") != 1
    return None if grouped else weight_and_bias(graph, node)


def _product(
    first: fx.Node, second: fx.Node, before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]
) -> tuple[fx.Node, Tensor, Tensor] | None:
    """Which of the two layers stays, and its weight and bias; None where they are no single layer."""
    if _is_matrix(first, before[0]) and (has_no_padding(second) or not before[1].any()):
        weight = torch.einsum("om...,mi->oi...", after[0], before[0].flatten(1))
        return second, weight, after[1] + shift_inputs(second, after[0], before[1])
    if _is_matrix(second, after[0]):
        matrix = after[0].flatten(1)
        return first, torch.einsum("om,mi...->oi...", matrix, before[0]), matrix @ before[1] + after[1]
    return None


def _is_matrix(node: fx.Node, weight: Tensor) -> bool:
    """Whether a layer maps the channels of each place by themselves, and skips no place."""
    return is_pointwise(node, weight) and (is_call(node, LINEAR) or set(argument(node, "stride")) == {1})


def _macs(node: fx.Node, weight: Tensor) -> int:
    """Multiplications of a layer with this weight; a dynamic size stands at its example value."""
    sizes = [size if isinstance(size, int) else size.node.hint for size in shape(node)]
    places = math.prod(size for axis, size in enumerate(sizes) if axis != channel_axis(node))
    return places * weight.numel()


def _views_between(first: fx.Node, last: fx.Node) -> list[fx.Node]:
    views: list[fx.Node] = []
    while last is not first:
        views.insert(0, last)
        last = operand(last)
    return views


def _axes_after(first: fx.Node, views: list[fx.Node]) -> list[int]:
    """The channel axis after each view."""
    axes, axis = [], channel_axis(first)
    for source, view in zip([first, *views], views):
        moved = follow_view(view, source, axis)
        assert moved is not None
        axes.append(axis := moved)
    return axes


def _carry(graph: Graph, views: list[fx.Node], axes: list[int], channels: int) -> None:
    """Let views show another number of channels than before."""
    for view, axis in zip(views, axes):
        if is_call(view, *RESHAPES):
            sizes = list(view.args[1])  # type: ignore[arg-type]
            sizes[axis] = channels
            view.args = (view.args[0], sizes)
        graph.refresh(view)
