"""Give each part of a joint projection, such as queries, keys and values, a projection of its own."""

from __future__ import annotations

import itertools
import math
import operator
from dataclasses import dataclass

from torch import Tensor, fx

from deploy_kit.fusion.compose_permutations import PERMUTATIONS, permutation
from deploy_kit.fusion.linear_ops import CONVOLUTIONS, LINEAR, channel_axis, weight_and_bias
from deploy_kit.graph import Graph, argument, aten, is_call, only_user, rank, set_argument, shape

RESHAPES = (aten.reshape.default, aten.view.default, aten.flatten.using_ints, aten.unflatten.int)
SPLITS = (aten.unbind.int, aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default)


def split_joint_projection(graph: Graph) -> list[tuple[fx.Node, str]]:
    """(W x + b)[part] = W[part] x + b[part], for a part that is some of the output channels.

    The parts may be taken behind a reshape that splits the channel axis and a permutation. They
    must not overlap: else rows of W would be computed twice. Needs fixed sizes.
    """
    changes = []
    for producer in graph.calls(LINEAR, *CONVOLUTIONS):
        constants = weight_and_bias(graph, producer)
        if constants is None or (not is_call(producer, LINEAR) and argument(producer, "groups") != 1):
            continue
        layout = _layout(producer)
        parts = None if layout is None else _parts(layout)
        if layout is None or not parts:
            continue
        for part in parts:
            _project(graph, producer, constants, layout, part)
        changes.append((producer, f"split into {len(parts)} projections"))
    return changes


@dataclass(frozen=True)
class _Layout:
    """How a projection's output lies before it is taken apart.

    ``sizes`` are after the reshape, axes ``first`` to ``last`` of them being the channels;
    ``order`` is the permutation after that, and ``tail`` the node that the parts are taken from.
    """

    sizes: list[int]
    first: int
    last: int
    order: list[int]
    tail: fx.Node


@dataclass(frozen=True)
class _Part:
    """Elements ``start`` to ``start + length`` of ``axis``, before the permutation; ``drops`` that axis or keeps it."""

    node: fx.Node
    axis: int
    start: int
    length: int
    drops: bool


def _layout(producer: fx.Node) -> _Layout | None:
    tail, user = producer, only_user(producer)
    while is_call(user, *RESHAPES):
        assert user is not None
        tail, user = user, only_user(user)
    sizes = list(shape(tail))
    order = list(range(len(sizes)))
    while is_call(user, *PERMUTATIONS):
        assert user is not None
        order = [order[axis] for axis in permutation(user)]
        tail, user = user, only_user(user)
    if not all(isinstance(size, int) for size in (*shape(producer), *sizes)):
        return None
    before = shape(producer)[: channel_axis(producer)]
    channels = shape(producer)[channel_axis(producer)]
    for first in range(len(sizes)):
        for last in range(first + 1, len(sizes) + 1):
            if math.prod(sizes[:first]) == math.prod(before) and math.prod(sizes[first:last]) == channels:
                return _Layout(sizes, first, last, order, tail)
    return None


def _parts(layout: _Layout) -> list[_Part] | None:
    """The parts that all users of the tail take; None where they are anything else, or overlap."""
    parts: list[_Part] = []
    for user in layout.tail.users:
        if is_call(user, *SPLITS):
            taken = _parts_of_split(layout, user)
        elif is_call(user, aten.select.int, aten.slice.Tensor):
            taken = _part_of_selection(layout, user)
        else:
            return None
        if taken is None:
            return None
        parts += taken
    axes = {part.axis for part in parts}
    if len(parts) < 2 or len(axes) != 1 or not layout.first <= axes.pop() < layout.last:
        return None
    ranges = sorted((part.start, part.start + part.length) for part in parts)
    return parts if all(a[1] <= b[0] for a, b in itertools.pairwise(ranges)) else None


def _parts_of_split(layout: _Layout, split: fx.Node) -> list[_Part] | None:
    axis = layout.order[argument(split, "dim") % len(layout.order)]
    pieces = split.meta["val"]
    drops = is_call(split, aten.unbind.int)
    dim = argument(split, "dim") % len(layout.order)
    lengths = [1 if drops else int(piece.shape[dim]) for piece in pieces]
    if not all(user.target is operator.getitem for user in split.users):
        return None
    starts = [0, *itertools.accumulate(lengths)]
    numbered = [(user, int(user.args[1])) for user in split.users]  # type: ignore[arg-type]
    return [_Part(user, axis, starts[index], lengths[index], drops) for user, index in numbered]


def _part_of_selection(layout: _Layout, cut: fx.Node) -> list[_Part] | None:
    dim = argument(cut, "dim") % len(layout.order)
    axis, size = layout.order[dim], layout.sizes[layout.order[dim]]
    if is_call(cut, aten.select.int):
        return [_Part(cut, axis, argument(cut, "index") % size, 1, True)]
    if argument(cut, "step") != 1:
        return None
    start = argument(cut, "start") or 0
    start = max(start + size, 0) if start < 0 else start
    return [_Part(cut, axis, start, int(shape(cut)[dim]), False)]


def _project(graph: Graph, producer: fx.Node, constants: tuple[Tensor, Tensor], layout: _Layout, part: _Part) -> None:
    """Compute one part by itself, in the form that its users expect."""
    dtype = producer.meta["val"].dtype
    rows = [_rows(value, layout, part).to(dtype) for value in constants]
    weight = graph.add_constant(rows[0], f"{part.node.name}_weight", producer)
    has_bias = argument(producer, "bias") is not None
    bias = graph.add_constant(rows[1], f"{part.node.name}_bias", producer) if has_bias else None
    own = graph.call(producer.target, producer.args[0], weight, before=producer, like=producer)  # type: ignore[arg-type]
    own.args, own.kwargs = (producer.args[0], weight, *producer.args[2:]), dict(producer.kwargs)
    set_argument(own, "weight", weight)
    set_argument(own, "bias", bias)
    graph.refresh(own)
    keep = [axis for axis in range(len(layout.sizes)) if not (part.drops and axis == part.axis)]
    sizes = [part.length if axis == part.axis else layout.sizes[axis] for axis in keep]
    order = [keep.index(axis) for axis in layout.order if axis in keep]
    out = own
    if sizes != list(shape(own)):
        out = graph.call(aten.reshape.default, out, sizes, before=producer, like=producer)
    if order != list(range(rank(out))):
        out = graph.call(aten.permute.default, out, order, before=producer, like=producer)
    graph.replace(part.node, out)


def _rows(value: Tensor, layout: _Layout, part: _Part) -> Tensor:
    """The rows of a weight or bias that make a part."""
    factors = layout.sizes[layout.first : layout.last]
    split = value.reshape(*factors, *value.shape[1:])
    return split.narrow(part.axis - layout.first, part.start, part.length).reshape(-1, *value.shape[1:])
