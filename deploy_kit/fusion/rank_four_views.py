"""Rearrange with at most four axes at a time, for runtimes that take no more."""

from __future__ import annotations

import functools
import itertools

from torch import fx

from deploy_kit.fusion.axes import (
    carry_out,
    erase_unused,
    follow,
    is_functional,
    is_rearrangement,
    known_sizes,
    plan,
    reshape,
)
from deploy_kit.graph import Graph, aten, only_user, operand, rank

AXES, STEPS, BLOCKS = 4, 3, 7
"""The most axes of a permutation, and the most permutations for one, which are enough for so many blocks."""


def rank_four_views(graph: Graph) -> list[tuple[fx.Node, str]]:
    """permute(view(x, more than 4 axes), p) = permutations one after another of views of at most 4 axes.

    Axes that stay side by side are one. What is left, up to seven, is sorted by the fewest permutations of four
    groups of neighbours, at most three: the windows of Swin take one. Applied where the tensor has at most
    four axes before and after, and nobody else uses it in between.
    """
    changes: list[tuple[fx.Node, str]] = []
    if not is_functional(graph):
        return changes
    for end in [node for node in graph.nodes if is_rearrangement(node)]:
        chain = _chain(end)
        replacement = None if chain is None else _in_few_axes(graph, chain)
        if chain is None or replacement is None:
            continue
        x = operand(end)
        graph.replace(end, replacement)
        erase_unused(graph, x)
        changes.append((end, f"{max(map(rank, chain))} axes at a time are at most {AXES}"))
    return changes


def _chain(end: fx.Node) -> list[fx.Node] | None:
    """The calls between a tensor of at most four axes and the next, ``end``; None where none between has more."""
    chain = [end]
    while rank(operand(chain[0])) > AXES:
        before = operand(chain[0])
        if not is_rearrangement(before) or only_user(before) is None:
            return None
        chain.insert(0, before)
    return chain if len(chain) > 1 and rank(end) <= AXES else None


def _in_few_axes(graph: Graph, chain: list[fx.Node]) -> fx.Node | None:
    """The same as a chain, with at most four axes; None where that takes too many permutations."""
    x, end = operand(chain[0]), chain[-1]
    source, target, whole = known_sizes(x), known_sizes(end), plan(chain)
    if whole is not None and whole.rank <= AXES:
        return carry_out(graph, whole, x, end)
    layout = None if source is None else follow(source, chain)
    if layout is None or target is None:
        return None
    runs = layout.blocks()
    blocks = sorted(runs)
    steps = sort_steps(tuple(blocks.index(run) for run in runs))
    if steps is None:
        return None
    for groups, order in steps:
        sizes = [layout.product([part for block in group for part in blocks[block]]) for group in groups]
        x = x if sizes == known_sizes(x) else reshape(graph, x, sizes, end)
        x = graph.call(aten.permute.default, x, list(order), before=end)
    return x if target == known_sizes(x) else reshape(graph, x, target, end)


Step = tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]
"""Neighbouring blocks in groups, and the order that the groups are put into."""


@functools.cache
def sort_steps(target: tuple[int, ...]) -> tuple[Step, ...] | None:
    """The fewest steps of at most four groups that take blocks 0, 1, 2, ... to the order ``target``.

    None where there are more than seven blocks: the search would be slow, and may need more than three.
    """
    if len(target) > BLOCKS:
        return None
    found = (_search(tuple(range(len(target))), target, count) for count in range(1, STEPS + 1))
    return next((steps for steps in found if steps is not None), None)


def _search(now: tuple[int, ...], target: tuple[int, ...], count: int) -> tuple[Step, ...] | None:
    if count == 1:
        step = _one_step(now, target)
        return None if len(step[0]) > AXES else (step,)
    for cuts in itertools.combinations(range(1, len(now)), AXES - 1):
        groups = tuple(now[a:b] for a, b in itertools.pairwise((0, *cuts, len(now))))
        for order in itertools.permutations(range(AXES)):
            rest = _search(tuple(block for group in order for block in groups[group]), target, count - 1)
            if rest is not None:
                return ((groups, order), *rest)
    return None


def _one_step(now: tuple[int, ...], target: tuple[int, ...]) -> Step:
    """The step from one order to another that has the fewest groups."""
    runs: list[tuple[int, ...]] = []
    for block in target:
        if runs and now.index(block) == now.index(runs[-1][-1]) + 1:
            runs[-1] = (*runs[-1], block)
        else:
            runs.append((block,))
    groups = tuple(sorted(runs, key=lambda run: now.index(run[0])))
    return groups, tuple(groups.index(run) for run in runs)
