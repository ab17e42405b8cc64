"""Convolutions and linear layers as the linear maps that they are: read, scale and write their weights."""

from __future__ import annotations

import re

import torch
from torch import Tensor, fx

from deploy_kit.graph import Graph, argument, aten, is_call, set_argument

CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
TRANSPOSED_CONVOLUTIONS = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
LINEAR = aten.linear.default
CLAMPS = (aten.relu.default, aten.hardtanh.default, aten.relu6.default)
"""What runtimes compute as a part of the convolution before it."""
LINEAR_OPS = (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS, LINEAR)


def weight_and_bias(graph: Graph, node: fx.Node) -> tuple[Tensor, Tensor] | None:
    """Weight and bias of a call in float64, zeros where it has no bias; None where either is computed."""
    weight = graph.constant(argument(node, "weight"))
    if weight is None:
        return None
    if argument(node, "bias") is None:
        return weight.double(), torch.zeros(output_channels(node, weight), dtype=torch.float64)
    bias = graph.constant(argument(node, "bias"))
    return None if bias is None else (weight.double(), bias.double())


def set_weight_and_bias(graph: Graph, node: fx.Node, weight: Tensor, bias: Tensor) -> None:
    """Give a call new constants, rounded once from float64 to the dtype of its old weight."""
    dtype = argument(node, "weight").meta["val"].dtype
    base = base_name(node)
    set_argument(node, "weight", graph.add_constant(weight.to(dtype), f"{base}_weight", node))
    set_argument(node, "bias", graph.add_constant(bias.to(dtype), f"{base}_bias", node))


def base_name(node: fx.Node) -> str:
    """What the constants of a call are called after: its weight's name, which is the model's own, less ``weight``."""
    return re.sub(r"[._]weight(_\d+)?$", "", str(argument(node, "weight").target))


def output_channels(node: fx.Node, weight: Tensor) -> int:
    """The number of output channels of a call with this weight."""
    if is_call(node, *TRANSPOSED_CONVOLUTIONS):
        return weight.shape[1] * argument(node, "groups")
    return weight.shape[0]


def channel_axis(node: fx.Node) -> int:
    """The axis of a call's output (and input) that holds its channels, counted from the front."""
    value = node.meta["val"]
    return value.dim() - 1 if is_call(node, LINEAR) else value.dim() - _spatial_dims(node) - 1


def scale_outputs(node: fx.Node, weight: Tensor, gain: Tensor) -> Tensor:
    """The weight of ``gain * op(x)``, for one gain an output channel."""
    if not is_call(node, *TRANSPOSED_CONVOLUTIONS):
        return weight * gain.reshape(-1, *[1] * (weight.dim() - 1))
    groups = argument(node, "groups")
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    return (grouped * gain.reshape(groups, 1, -1, *[1] * (weight.dim() - 2))).reshape(weight.shape)


def scale_inputs(node: fx.Node, weight: Tensor, gain: Tensor) -> Tensor:
    """The weight of ``op(gain * x)``, for one gain an input channel of a convolution or linear layer."""
    groups = 1 if is_call(node, LINEAR) else argument(node, "groups")
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    return (grouped * gain.reshape(groups, 1, -1, *[1] * (weight.dim() - 2))).reshape(weight.shape)


def shift_inputs(node: fx.Node, weight: Tensor, shift: Tensor) -> Tensor:
    """The constant that ``op(x + shift)`` adds to ``op(x)``, one an output channel; there is no padding."""
    return scale_inputs(node, weight, shift).flatten(1).sum(1)


def has_no_padding(node: fx.Node) -> bool:
    """Whether a convolution sees only its input, and no zeros around it."""
    return is_call(node, LINEAR) or all(side == 0 for side in argument(node, "padding"))


def is_pointwise(node: fx.Node, weight: Tensor) -> bool:
    """Whether a convolution has a 1x1 kernel and no padding."""
    return has_no_padding(node) and all(side == 1 for side in weight.shape[2:])


def _spatial_dims(node: fx.Node) -> int:
    return next(dims for dims, ops in enumerate(zip(CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS), 1) if node.target in ops)
