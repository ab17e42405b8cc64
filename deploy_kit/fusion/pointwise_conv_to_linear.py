"""Write a pointwise convolution as a linear layer on tokens."""

from __future__ import annotations

from torch import fx

from deploy_kit.fusion.compose_permutations import TO_IMAGE, TO_TOKENS
from deploy_kit.fusion.linear_ops import CLAMPS, base_name, is_pointwise, weight_and_bias
from deploy_kit.graph import Graph, argument, aten, is_call, only_user, rank


def pointwise_conv_to_linear(graph: Graph) -> list[tuple[fx.Node, str]]:
    """conv1x1(x)[b, :, i, j] = W x[b, :, i, j] + b: a linear layer on [B, H, W, C].

    Needs stride 1, no padding and one group. One that only ReLU or its kin reads stays: runtimes compute them
    with a convolution, and not with a linear layer. The permutations that it adds cancel against those of
    its neighbours, or are free where the data is channels-last.
    """
    changes = []
    for conv in graph.calls(aten.conv2d.default):
        constants = weight_and_bias(graph, conv)
        if constants is None or rank(conv) != 4 or not is_pointwise(conv, constants[0]):
            continue
        if argument(conv, "groups") != 1 or set(argument(conv, "stride")) != {1}:
            continue
        if is_call(only_user(conv), *CLAMPS):
            continue
        base = base_name(conv)
        weight, bias = (value.to(conv.meta["val"].dtype) for value in constants)
        tokens = graph.call(aten.permute.default, conv.args[0], TO_TOKENS, before=conv)
        matrix = graph.add_constant(weight.flatten(1), f"{base}_weight", conv)
        shift = None if argument(conv, "bias") is None else graph.add_constant(bias, f"{base}_bias", conv)
        out = graph.call(aten.linear.default, tokens, matrix, shift, before=conv)
        graph.replace(conv, graph.call(aten.permute.default, out, TO_IMAGE, before=conv))
        changes.append((conv, "1x1 convolution is a linear layer on tokens"))
    return changes
