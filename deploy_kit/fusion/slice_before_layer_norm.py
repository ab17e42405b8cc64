"""Drop tokens before they are normalised, not after."""

from __future__ import annotations

from torch import fx

from deploy_kit.fusion.compose_permutations import PERMUTATIONS, permutation
from deploy_kit.graph import Graph, argument, aten, is_call, only_user, operand, rank


def slice_before_layer_norm(graph: Graph) -> list[tuple[fx.Node, str]]:
    """slice(norm(x)) = norm(slice(x)), for a slice along an axis that the norm does not run over.

    Permutations between the two are stepped over. The slice must be the norm's only use: else the
    norm would run twice.
    """
    changes = []
    for cut in graph.calls(aten.slice.Tensor):
        axis, norm = argument(cut, "dim") % rank(cut), operand(cut)
        permutations: list[fx.Node] = []
        while is_call(norm, *PERMUTATIONS) and only_user(norm) is not None:
            permutations.append(norm)
            axis, norm = permutation(norm)[axis], operand(norm)
        if not is_call(norm, aten.layer_norm.default) or only_user(norm) is None:
            continue
        if axis >= rank(norm) - len(argument(norm, "normalized_shape")):
            continue
        bounds = (argument(cut, "start"), argument(cut, "end"), argument(cut, "step"))
        x = graph.call(aten.slice.Tensor, operand(norm), axis, *bounds, before=cut)
        for node in (norm, *reversed(permutations)):
            x = graph.call(node.target, x, *node.args[1:], before=cut, like=node, **node.kwargs)  # type: ignore[arg-type]
        graph.replace(cut, x)
        changes.append((norm, f"slice with step {bounds[2]} moved before the norm"))
    return changes
