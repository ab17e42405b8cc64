"""What a chain of views and permutations does to a tensor's axes, as one reshape, one permutation and one reshape."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from deploy_kit.fusion.compose_permutations import PERMUTATIONS, permutation
from deploy_kit.graph import Graph, aten, is_call, operand, shape

VIEWS = (
    aten.reshape.default,
    aten.view.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
)
"""Operators whose outputs are all elements of their input in the same order, in another shape."""

COPIES = (aten.contiguous.default, aten.clone.default)
REARRANGEMENTS = (*VIEWS, *PERMUTATIONS, aten.t.default, *COPIES)

Part = tuple[int, ...]
"""A part of an axis: the axis, then 0 for the slower and 1 for the faster half of each split. They sort as they lie."""


class Layout:
    """Where the parts of a source's axes are after some views and permutations.

    ``axes`` has the parts that each axis is made of, in their order. A size is an integer, or an
    expression of the free batch.
    """

    def __init__(self, sizes: list[Any]):
        self.sizes: dict[Part, Any] = {(axis,): size for axis, size in enumerate(sizes) if size != 1}
        self.axes: list[list[Part]] = [[(axis,)] if size != 1 else [] for axis, size in enumerate(sizes)]

    @property
    def parts(self) -> list[Part]:
        """All parts in their present order."""
        return [part for axis in self.axes for part in axis]

    def permute(self, order: list[int]) -> None:
        """Put the axes into another order."""
        self.axes = [self.axes[axis] for axis in order]

    def view(self, sizes: list[Any]) -> bool:
        """Divide the same elements into other axes; False where a new axis ends inside of what cannot be split."""
        left, axes = self.parts, []
        for size in sizes:
            axis: list[Part] = []
            while size != 1 and left:
                part = left.pop(0)
                rest = _quotient(size, self.sizes[part])
                if rest is None:
                    faster = _quotient(self.sizes[part], size)
                    if faster is None:
                        return False
                    del self.sizes[part]
                    left.insert(0, (*part, 1))
                    part, rest = (*part, 0), 1
                    self.sizes[part], self.sizes[left[0]] = size, faster
                axis.append(part)
                size = rest
            axes.append(axis)
        self.axes = axes
        return not left

    def product(self, parts: list[Part]) -> Any:
        """The size of an axis that is made of these parts."""
        return math.prod(self.sizes[part] for part in parts)

    def blocks(self) -> list[list[Part]]:
        """The parts in their present order, in the longest runs that lie so in the source as well."""
        place = {part: index for index, part in enumerate(sorted(self.sizes))}
        runs: list[list[Part]] = []
        for part in self.parts:
            if runs and place[part] == place[runs[-1][-1]] + 1:
                runs[-1].append(part)
            else:
                runs.append([part])
        return runs


@dataclass(frozen=True)
class Plan:
    """A rearrangement as ``reshape(permute(reshape(x, before), order), after)``; None is a step that is not needed."""

    before: list[Any] | None
    order: list[int] | None
    after: list[Any] | None

    @property
    def cost(self) -> tuple[int, int]:
        """How many permutations and how many views."""
        return int(self.order is not None), int(self.before is not None) + int(self.after is not None)

    @property
    def rank(self) -> int:
        """The number of axes that the permutation has."""
        return len(self.order or [])


def plan(chain: list[fx.Node]) -> Plan | None:
    """The fewest steps that do what a chain of `REARRANGEMENTS` does; None where unsure."""
    source, target = known_sizes(operand(chain[0])), known_sizes(chain[-1])
    if source is None or target is None:
        return None
    if all(is_call(node, *VIEWS, *COPIES) for node in chain):
        return Plan(None, None, None if source == target else target)
    layout = follow(source, chain)
    return None if layout is None else _fewest_steps(source, layout, target)


def _fewest_steps(source: list[Any], layout: Layout, target: list[Any]) -> Plan:
    blocks = layout.blocks()
    if len(blocks) <= 1:
        return Plan(None, None, None if source == target else target)
    of_source = _axes_of(len(source), layout)
    grouped = [
        axes
        for axes in (_in_order_of(of_source, layout.parts), [axis for axis in layout.axes if axis], blocks)
        if axes is not None and _are_together(axes, sorted(layout.sizes)) and _are_together(axes, layout.parts)
    ]
    plans = [_plan_of(axes, source, of_source, layout, target) for axes in grouped]
    return min(plans, key=lambda found: (found.cost, found.rank))


def _axes_of(rank: int, layout: Layout) -> list[list[Part]]:
    """The parts of each axis of the source."""
    return [sorted(part for part in layout.sizes if part[0] == axis) for axis in range(rank)]


def _in_order_of(axes: list[list[Part]], parts: list[Part]) -> list[list[Part]]:
    return sorted((axis for axis in axes if axis), key=lambda axis: parts.index(axis[0]))


def _are_together(axes: list[list[Part]], parts: list[Part]) -> bool:
    """Whether ``parts`` are these axes one after another, whole, in any order."""
    return list(itertools.chain(*sorted(axes, key=lambda axis: parts.index(axis[0])))) == parts


def _plan_of(
    axes: list[list[Part]], source: list[Any], of_source: list[list[Part]], layout: Layout, target: list[Any]
) -> Plan:
    """The plan that permutes these axes, which are in the order of the target."""
    keeps_source = [axis for axis in of_source if axis] == sorted(axes)
    if keeps_source and [axis for axis in layout.axes if axis] == axes and len(source) == len(target):
        return Plan(None, _whole_axes(of_source, layout.axes), None)
    before = [layout.product(axis) for axis in sorted(axes)]
    order = [sorted(axes).index(axis) for axis in axes]
    after = [before[axis] for axis in order]
    if keeps_source and before != source:
        kept = [axis for axis, parts in enumerate(of_source) if parts]
        ones = [axis for axis, parts in enumerate(of_source) if not parts]
        return Plan(None, [*ones, *(kept[axis] for axis in order)], target)
    return Plan(None if before == source else before, order, None if after == target else target)


def _whole_axes(before: list[list[Part]], after: list[list[Part]]) -> list[int]:
    """The permutation of axes that takes one list to the other; axes of size 1, which have no parts, keep theirs."""
    ones = iter([axis for axis, parts in enumerate(before) if not parts])
    return [before.index(parts) if parts else next(ones) for parts in after]


def follow(source: list[Any], chain: list[fx.Node]) -> Layout | None:
    """Where a chain of `REARRANGEMENTS` puts the parts of a tensor of these sizes; None where unsure."""
    layout = Layout(source)
    for node in chain:
        sizes = known_sizes(node)
        if sizes is None or (is_call(node, *VIEWS) and not layout.view(sizes)):
            return None
        if is_call(node, *PERMUTATIONS, aten.t.default):
            layout.permute(order_of(node))
    return layout


def order_of(node: fx.Node) -> list[int]:
    """Which axis of its input each axis of a permutation's output is."""
    if is_call(node, aten.t.default):
        return list(range(len(shape(node))))[::-1]
    return permutation(node)


def is_rearrangement(node: Any) -> bool:
    """Whether a node is a view, a permutation, or a copy that asks for no order in memory other than the usual."""
    if not is_call(node, *REARRANGEMENTS):
        return False
    usual = (None, torch.contiguous_format, torch.preserve_format)
    return not is_call(node, *COPIES) or node.kwargs.get("memory_format") in usual


def is_functional(graph: Graph) -> bool:
    """Whether no call writes over its input, so that equal tensors stay equal wherever they lie in memory."""
    schemas = [getattr(node.target, "_schema", None) for node in graph.nodes]
    return not any(schema is not None and schema.is_mutable for schema in schemas)


def known_sizes(node: fx.Node) -> list[Any] | None:
    """A tensor's sizes: integers, and at most one expression of the free batch; None where there is more, or a 0."""
    value = node.meta["val"]
    if not isinstance(value, torch.Tensor):
        return None
    sizes = [_size(size) for size in value.shape]
    free = [size for size in sizes if not isinstance(size, int)]
    return None if len(free) > 1 or 0 in sizes else sizes


def _size(size: Any) -> Any:
    return size if isinstance(size, int) else size.node.expr


def _quotient(size: Any, by: Any) -> Any:
    """``size / by`` where that is whole for every batch; None where it is not."""
    if isinstance(size, int) and isinstance(by, int):
        return size // by if size % by == 0 else None
    numerator, denominator = (size / by).cancel().as_numer_denom()
    if denominator != 1:
        return None
    return int(numerator) if numerator.is_Integer else numerator


def reshape(graph: Graph, x: fx.Node, sizes: list[Any], before: fx.Node) -> fx.Node:
    """A call of ``x`` in another shape, with -1 for the size that depends on the batch."""
    plain = [size if isinstance(size, int) else -1 for size in sizes]
    return graph.call(aten.reshape.default, x, plain, before=before)


def carry_out(graph: Graph, plan: Plan, x: fx.Node, before: fx.Node) -> fx.Node:
    """The calls of a plan, for ``x``."""
    if plan.before is not None:
        x = reshape(graph, x, plan.before, before)
    if plan.order is not None:
        x = graph.call(aten.permute.default, x, plan.order, before=before)
    return x if plan.after is None else reshape(graph, x, plan.after, before)


def erase_unused(graph: Graph, node: fx.Node) -> None:
    """Drop a rearrangement that nobody uses any more, and those before it that only it used."""
    while is_rearrangement(node) and not node.users:
        x = operand(node)
        graph.module.graph.erase_node(node)
        node = x
