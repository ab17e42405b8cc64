"""The integer kernels of PyTorch's own interpreter, for the torchscript-lite target."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.ao.nn.intrinsic.quantized as fused
import torch.ao.nn.quantized as quantized
from torch import Tensor, fx, nn

from deploy_kit.graph import Graph, argument, is_call, is_view, only_user, operand
from deploy_kit.precision.int8 import DEQUANTIZE, DEQUANTIZE_WEIGHT, QUANTIZE
from deploy_kit.precision.scheme import LAYERS, Scheme

aten = torch.ops.aten

SCHEME = Scheme(unsigned=True)
"""QNNPACK's kernels: uint8 activations, int8 weights with a scale for each channel."""


def to_quantized_operators(graph: Graph) -> int:
    """Write a graph's ``quantize(call(dequantize(x), dequantize(w)))`` as the interpreter's quantized operators.

    Values between them are quantized tensors. The graph is changed, and no longer has fake values.

    Returns:
        How many calls compute in int8.
    """
    count = 0
    for store in list(graph.calls(QUANTIZE)):
        kernel = _kernel(graph, store)
        if kernel is not None:
            store.replace_all_uses_with(kernel)
            graph.module.graph.erase_node(store)
            count += 1
    for store in list(graph.calls(QUANTIZE)):
        _store(graph, store)
    for read in list(graph.calls(DEQUANTIZE)):
        with graph.module.graph.inserting_before(read):
            plain = graph.module.graph.call_function(aten.dequantize.self, (operand(read),))
        read.replace_all_uses_with(plain)
        graph.module.graph.erase_node(read)
    graph.clean()
    return count


def _kernel(graph: Graph, store: fx.Node) -> fx.Node | None:
    """The quantized operator that makes what ``store`` stores; None where there is none."""
    result = operand(store)
    clamped = is_call(result, aten.relu.default)
    call = operand(result) if clamped else result
    if only_user(result) is not store or (clamped and only_user(call) is not result):
        return None
    scale, zero_point = float(store.args[1]), int(store.args[2])  # type: ignore[arg-type]  # constants
    if is_call(call, aten.add.Tensor) and all(is_call(x, DEQUANTIZE) for x in call.args):
        op = torch.ops.quantized.add_relu if clamped else torch.ops.quantized.add
        with graph.module.graph.inserting_before(store):
            first, second = (operand(operand(call, index)) for index in (0, 1))
            return graph.module.graph.call_function(op, (first, second, scale, zero_point))
    if not is_call(call, *LAYERS) or not is_call(call.args[1], DEQUANTIZE_WEIGHT):
        return None
    if not is_call(call.args[0], DEQUANTIZE):
        return None
    layer = _layer(graph, call, scale, zero_point, clamped)
    name = f"int8_{call.name}"
    graph.module.add_submodule(name, layer)
    with graph.module.graph.inserting_before(store):
        return graph.module.graph.call_module(name, (operand(operand(call)),))


def _layer(graph: Graph, call: fx.Node, scale: float, zero_point: int, clamped: bool) -> nn.Module:
    constants = [graph.constant(operand(operand(call, 1), index)) for index in range(3)]
    stored, scales, zeros = (value for value in constants if value is not None)
    weight = torch._make_per_channel_quantized_tensor(stored, scales.double(), zeros, 0)
    bias = graph.constant(argument(call, "bias"))
    layer = _linear(stored, clamped) if is_call(call, aten.linear.default) else _convolution(call, stored, clamped)
    layer.set_weight_bias(weight, bias)
    layer.scale, layer.zero_point = scale, zero_point
    return layer


def _linear(weight: Tensor, clamped: bool) -> Any:
    kind = fused.LinearReLU if clamped else quantized.Linear
    return kind(weight.shape[1], weight.shape[0])


def _convolution(call: fx.Node, weight: Tensor, clamped: bool) -> Any:
    kind = fused.ConvReLU2d if clamped else quantized.Conv2d
    groups = argument(call, "groups")
    return kind(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        stride=tuple(argument(call, "stride")),
        padding=tuple(argument(call, "padding")),
        dilation=tuple(argument(call, "dilation")),
        groups=groups,
    )


def _store(graph: Graph, store: fx.Node) -> None:
    """Make quantized numbers of floats; where those are a rearrangement of the same numbers, rearrange these."""
    chain = list(_views_above(store))
    base = operand(chain[-1]) if chain else operand(store)
    if chain and is_call(base, DEQUANTIZE) and base.args[1:] == store.args[1:]:
        chain[-1].replace_input_with(base, operand(base))
        replacement = operand(store)
    else:
        value, scale, zero_point = store.args[:3]
        with graph.module.graph.inserting_before(store):
            replacement = graph.module.graph.call_function(
                aten.quantize_per_tensor.default, (value, scale, zero_point, torch.quint8)
            )
    store.replace_all_uses_with(replacement)
    graph.module.graph.erase_node(store)


def _views_above(store: fx.Node) -> Iterator[fx.Node]:
    """The views between ``store`` and what they rearrange, each of which has no other user, nearest first."""
    user, node = store, operand(store)
    while is_view(node) and only_user(node) is user:
        yield node
        user, node = node, operand(node)
