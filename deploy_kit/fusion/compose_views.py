"""Merge views and permutations that follow one another, and drop those that change nothing."""

from __future__ import annotations

from torch import fx

from deploy_kit.fusion.axes import COPIES, VIEWS, Plan, carry_out, erase_unused, is_functional, is_rearrangement, plan
from deploy_kit.graph import Graph, is_call, operand, rank

NOTHING = Plan(None, None, None)


def compose_views(graph: Graph) -> list[tuple[fx.Node, str]]:
    """view(view(x, a), b) = view(x, b), view(x, shape of x) = x, and permute(x, p) = view(x, b) if p moves only ones.

    Permutations with views between them are one permutation where the axes that it moves are whole
    in some shape with no more axes than the chain has anyway. Views that are used elsewhere as well
    stay for that use; a permutation is never added.
    """
    changes: list[tuple[fx.Node, str]] = []
    if not is_functional(graph):
        return changes
    moved = True
    while moved:
        moved = False
        for end in reversed(list(graph.nodes)):
            if not is_rearrangement(end) or is_call(end, *COPIES) or not end.users:
                continue
            found = _shortest(end)
            if found is None:
                continue
            source, steps, length = found
            x = operand(end)
            graph.replace(end, carry_out(graph, steps, source, end))
            erase_unused(graph, x)
            changes.append((end, f"{length} views and permutations are {sum(steps.cost)}"))
            moved = True
    return changes[::-1]


def _shortest(end: fx.Node) -> tuple[fx.Node, Plan, int] | None:
    """The source, the steps from it and the length of the longest chain up to ``end`` that can be shorter."""
    chain = [end]
    while is_rearrangement(operand(chain[0])):
        chain.insert(0, operand(chain[0]))
    while chain:
        steps = plan(chain)
        if steps is not None and _gains(chain, steps):
            return operand(chain[0]), steps, len(chain)
        chain = chain[1:]
    return None


def _gains(chain: list[fx.Node], steps: Plan) -> bool:
    """Whether there is less to do, or the same sooner, with these steps in place of the end of a chain."""
    source, end = operand(chain[0]), chain[-1]
    if steps.rank > max(rank(node) for node in (source, *chain)):
        return False
    if steps == NOTHING and source.op != "call_function" and any(user.op == "output" for user in end.users):
        return False  # CoreML refuses an output that is an input or a constant as it is
    freed = _freed(chain)
    return steps.cost < freed or (steps.cost == freed and sum(steps.cost) < len(chain))


def _freed(chain: list[fx.Node]) -> tuple[int, int]:
    """How many permutations and views nobody needs any more when the end of a chain has another source."""
    freed = [chain[-1]]
    for node in reversed(chain[:-1]):
        if len(node.users) > 1:
            break
        freed.append(node)
    views = sum(is_call(node, *VIEWS, *COPIES) for node in freed)
    return len(freed) - views, views
