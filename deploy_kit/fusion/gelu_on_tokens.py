"""Compute the GELU of images as that of tokens, for runtimes that are slow at it channels-last."""

from __future__ import annotations

from torch import fx

from deploy_kit.fusion.compose_permutations import TO_IMAGE, TO_TOKENS
from deploy_kit.fusion.linear_ops import CONVOLUTIONS
from deploy_kit.graph import Graph, aten, is_call, operand, rank


def gelu_on_tokens(graph: Graph) -> list[tuple[fx.Node, str]]:
    """gelu(x) = permute(gelu(permute(x, p)), p^-1), for x a convolution's output [B, C, H, W] and p to [B, H, W, C].

    Where images are channels-last in memory both permutations are free, and the elements lie one
    after the other between them.
    """
    changes = []
    for gelu in graph.calls(aten.gelu.default):
        x = operand(gelu)
        if not is_call(x, *CONVOLUTIONS) or rank(x) != 4:
            continue
        tokens = graph.call(aten.permute.default, x, TO_TOKENS, before=gelu)
        activated = graph.call(aten.gelu.default, tokens, before=gelu, like=gelu, **gelu.kwargs)
        graph.replace(gelu, graph.call(aten.permute.default, activated, TO_IMAGE, before=gelu))
        changes.append((activated, "on tokens"))
    return changes
