"""Move permutations before the activations that they follow, for runtimes whose activations want plain memory."""

from __future__ import annotations

import torch
from torch import fx

from deploy_kit.fusion.compose_permutations import PERMUTATIONS, permutation
from deploy_kit.fusion.linear_ops import CLAMPS, CONVOLUTIONS, LINEAR
from deploy_kit.graph import Graph, aten, is_call, is_elementwise, only_user, operand, shape

PRODUCTS = (LINEAR, aten.matmul.default, aten.bmm.default)


def raise_permutations(graph: Graph) -> list[tuple[fx.Node, str]]:
    """permute(f(x), p) = f(permute(x, p)), for f elementwise of one tensor.

    The opposite of sink_permutations, for those that are left after it. Needs the permutation to be the
    only use of f(x), and x to be no permutation itself, which would meet it below, and no product of
    matrices, whose result is plain in memory as it is. ReLU and its kin stay with the convolution before
    them, which runtimes compute with it.
    """
    changes: list[tuple[fx.Node, str]] = []
    found = True
    while found:
        found = False
        for permute in list(graph.calls(*PERMUTATIONS)):
            activation = operand(permute)
            if only_user(activation) is not permute or not _is_elementwise(activation):
                continue
            x = activation.all_input_nodes[0]
            moved = graph.call(aten.permute.default, x, permutation(permute), before=activation, like=permute)
            swap = {x: moved}
            args, kwargs = fx.node.map_arg((activation.args, activation.kwargs), swap.__getitem__)
            inner = graph.call(activation.target, *args, before=permute, like=activation, **kwargs)  # type: ignore[arg-type]
            graph.replace(permute, inner)
            graph.module.graph.erase_node(activation)
            changes.append((inner, "permutation moved before it"))
            found = True
    return changes


def _is_elementwise(node: fx.Node) -> bool:
    """Whether a node applies a function to each element of one tensor, which a permutation may be moved before."""
    if node.op != "call_function" or not is_elementwise(node.target) or len(node.all_input_nodes) != 1:
        return False
    x = node.all_input_nodes[0]
    if is_call(node, *CLAMPS) and is_call(x, *CONVOLUTIONS):
        return False
    return (
        not is_call(x, *PERMUTATIONS, *PRODUCTS)
        and isinstance(node.meta["val"], torch.Tensor)
        and shape(x) == shape(node)
    )
