"""Fold a residual around a depthwise convolution into the kernel's centre."""

from __future__ import annotations

from torch import Tensor, fx

from deploy_kit.fusion.linear_ops import CONVOLUTIONS, set_weight_and_bias, weight_and_bias
from deploy_kit.graph import Graph, argument, aten, is_call, only_user


def identity_into_depthwise(graph: Graph) -> list[tuple[fx.Node, str]]:
    """x + (k * x + b) = (k + delta) * x + b, for delta the kernel that is 1 at its centre and 0 elsewhere.

    Needs an odd kernel, stride 1, the padding that centres it, one filter a channel, and no other
    use of the convolution's output.
    """
    changes = []
    for conv in graph.calls(*CONVOLUTIONS):
        add = only_user(conv)
        constants = weight_and_bias(graph, conv)
        if add is None or constants is None or not is_call(add, aten.add.Tensor) or argument(add, "alpha") != 1:
            continue
        x = conv.args[0]
        if {add.args[0], add.args[1]} != {conv, x} or not _is_centred_depthwise(conv, constants[0]):
            continue
        weight, bias = constants
        weight = weight.clone()
        taps = weight.flatten(2)
        taps[:, 0, taps.shape[2] // 2] += 1
        set_weight_and_bias(graph, conv, weight, bias)
        graph.replace(add, conv)
        changes.append((conv, "residual folded into the kernel's centre"))
    return changes


def _is_centred_depthwise(conv: fx.Node, weight: Tensor) -> bool:
    kernel = weight.shape[2:]
    dims = len(kernel)
    stride, padding, dilation = (_per_axis(argument(conv, name), dims) for name in ("stride", "padding", "dilation"))
    return (
        weight.shape[1] == 1
        and argument(conv, "groups") == weight.shape[0]
        and all(side % 2 == 1 for side in kernel)
        and all(step == 1 for step in stride)
        and all(p == d * (side // 2) for p, d, side in zip(padding, dilation, kernel))
    )


def _per_axis(value: list[int], dims: int) -> list[int]:
    return list(value) * dims if len(value) == 1 else list(value)
