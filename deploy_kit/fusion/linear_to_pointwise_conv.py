"""Write a linear layer on an image's tokens as a pointwise convolution."""

from __future__ import annotations

from torch import fx

from deploy_kit.fusion.compose_permutations import TO_IMAGE, TO_TOKENS
from deploy_kit.fusion.linear_ops import base_name, weight_and_bias
from deploy_kit.graph import Graph, argument, aten, rank


def linear_to_pointwise_conv(graph: Graph) -> list[tuple[fx.Node, str]]:
    """W x[b, i, j] + b = conv1x1(x)[b, :, i, j]: a convolution of [B, C, H, W] in place of a layer on [B, H, W, C].

    The opposite of pointwise_conv_to_linear. The permutations that it adds cancel against those of
    its neighbours.
    """
    changes = []
    for linear in graph.calls(aten.linear.default):
        constants = weight_and_bias(graph, linear)
        if constants is None or rank(linear) != 4:
            continue
        base = base_name(linear)
        weight, bias = (value.to(linear.meta["val"].dtype) for value in constants)
        image = graph.call(aten.permute.default, linear.args[0], TO_IMAGE, before=linear)
        kernel = graph.add_constant(weight[:, :, None, None], f"{base}_weight", linear)
        shift = None if argument(linear, "bias") is None else graph.add_constant(bias, f"{base}_bias", linear)
        out = graph.call(aten.conv2d.default, image, kernel, shift, before=linear)
        graph.replace(linear, graph.call(aten.permute.default, out, TO_TOKENS, before=linear))
        changes.append((linear, "linear layer on tokens is a 1x1 convolution"))
    return changes
