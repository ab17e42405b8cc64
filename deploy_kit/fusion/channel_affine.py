"""Arithmetic with constants, BatchNorm and depthwise 1x1 kernels as what they are: a gain and a shift a channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from deploy_kit.fusion.batch_norm import ChannelAffine, as_affine
from deploy_kit.fusion.linear_ops import CONVOLUTIONS, channel_axis, is_pointwise, weight_and_bias
from deploy_kit.graph import Graph, argument, aten, is_call, operand, shape

PRODUCTS = ("mul", "multiply")
QUOTIENTS = ("div", "divide", "true_divide")
NEGATIONS = ("neg", "negative")
SUMS = ("add", "sub", "subtract", "rsub")


def affine_input(graph: Graph, node: fx.Node) -> fx.Node | None:
    """The one value that is no constant, where ``node`` is of a kind that `channel_affine` reads."""
    if not is_call(node, *CONVOLUTIONS, aten.batch_norm.default) and _kind(node) is None:
        return None
    variable = [x for x in node.all_input_nodes if graph.constant(x) is None]
    return variable[0] if len(variable) == 1 else None


def channel_affine(graph: Graph, node: fx.Node, x: fx.Node, axis: int) -> ChannelAffine | None:
    """The gain and shift of ``node`` as a function of ``x``, whose channels lie on ``axis``.

    ``node`` is a product, quotient, sum or difference of ``x`` and a constant, BatchNorm in evaluation
    mode, or a depthwise 1x1 convolution. None where it is anything else, where its shape or dtype is
    not that of ``x``, and where a constant differs along another axis or makes a gain or shift that is
    not finite.
    """
    if x not in node.all_input_nodes or not _are_alike(node, x) or not isinstance(shape(x)[axis], int):
        return None
    if is_call(node, *CONVOLUTIONS):
        found = _depthwise(graph, node, axis)
    elif is_call(node, aten.batch_norm.default):
        found = as_affine(graph, node) if operand(node) is x and axis == 1 else None
    else:
        found = _arithmetic(graph, node, x, axis)
    if found is None or not all(value.isfinite().all() for value in (found.gain, found.shift)):
        return None
    return found


def _are_alike(node: fx.Node, x: fx.Node) -> bool:
    made, read = node.meta.get("val"), x.meta.get("val")
    if not isinstance(made, Tensor) or not isinstance(read, Tensor) or not read.is_floating_point():
        return False
    return made.dtype == read.dtype and shape(node) == shape(x)


def _depthwise(graph: Graph, conv: fx.Node, axis: int) -> ChannelAffine | None:
    constants = weight_and_bias(graph, conv)
    if constants is None or channel_axis(conv) != axis or not is_pointwise(conv, constants[0]):
        return None
    weight, bias = constants
    if weight.shape[1] != 1 or argument(conv, "groups") != len(weight):
        return None
    return ChannelAffine(weight.flatten(), bias)


def _arithmetic(graph: Graph, node: fx.Node, x: fx.Node, axis: int) -> ChannelAffine | None:
    kind = _kind(node)
    one = torch.ones(shape(x)[axis], dtype=torch.float64)
    if kind in NEGATIONS:
        return ChannelAffine(-one, 0 * one)
    if kind is None:
        return None
    first = argument(node, "self") is x
    constant = _per_channel(graph, argument(node, "other" if first else "self"), x, axis)
    if constant is None:
        return None
    if kind in PRODUCTS:
        return ChannelAffine(constant, 0 * one)
    if kind in QUOTIENTS:
        return ChannelAffine(1 / constant, 0 * one) if first else None
    of_self, of_other = _factors(kind, argument(node, "alpha"))
    of_x, of_constant = (of_self, of_other) if first else (of_other, of_self)
    return ChannelAffine(of_x * one, of_constant * constant)


def _factors(kind: str, alpha: float) -> tuple[float, float]:
    """What a sum multiplies its two operands by: ``rsub`` alone takes its first from its second."""
    return {"add": (1, alpha), "rsub": (-alpha, 1)}.get(kind, (1, -alpha))


def _kind(node: fx.Node) -> str | None:
    """The name of an arithmetic operator, without its overload."""
    if node.op != "call_function" or not isinstance(node.target, OpOverload):
        return None
    name = node.target._schema.name.removeprefix("aten::")
    if node.kwargs.get("rounding_mode") is not None:
        return None
    return name if name in (*PRODUCTS, *QUOTIENTS, *NEGATIONS, *SUMS) else None


def _per_channel(graph: Graph, value: Any, x: fx.Node, axis: int) -> Tensor | None:
    """A number or a constant tensor as one value a channel; None where it is computed or differs elsewhere."""
    channels = shape(x)[axis]
    if isinstance(value, int | float):
        return torch.full((channels,), float(value), dtype=torch.float64)
    constant = graph.constant(value)
    if constant is None or constant.is_complex():
        return None
    if constant.numel() == 1:
        return constant.double().reshape(1).expand(channels)
    own = axis - len(shape(x)) + constant.dim()
    if own < 0 or constant.numel() != channels or constant.shape[own] != channels:
        return None
    return constant.double().flatten()
