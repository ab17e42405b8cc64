"""Following a channel axis through operators that keep channels apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import fx

from deploy_kit.graph import argument, aten, is_call, rank, shape


@dataclass(frozen=True)
class ChannelUse:
    """One place where a followed tensor is used: the consumer, its operand, and the operand's channel axis."""

    consumer: fx.Node
    operand: fx.Node
    axis: int


def channel_uses(node: fx.Node, axis: int, *, through_mean: bool = False) -> list[ChannelUse]:
    """Every use of ``node``'s channels behind any chain of views, with the channel axis at each.

    Views are followed while each of their elements keeps its channel index. ``through_mean`` also
    follows averages over other axes, which commute with a gain and a shift of each channel.
    """
    uses = []
    for user in list(node.users):
        moved = follow_view(user, node, axis)
        if moved is None and through_mean:
            moved = _follow_mean(user, node, axis)
        if moved is None:
            uses.append(ChannelUse(user, node, axis))
        else:
            uses.extend(channel_uses(user, moved, through_mean=through_mean))
    return uses


def follow_view(view: fx.Node, source: fx.Node, axis: int) -> int | None:
    """The channel axis after ``view``; None where it is no view or mixes channels with other axes."""
    dims = rank(source)
    if is_call(view, aten.permute.default):
        return [d % dims for d in argument(view, "dims")].index(axis)
    if is_call(view, aten.t.default):
        return 1 - axis
    if is_call(view, aten.transpose.int):
        first, second = argument(view, "dim0") % dims, argument(view, "dim1") % dims
        return {first: second, second: first}.get(axis, axis)
    if is_call(view, aten.contiguous.default, aten.clone.default):
        return axis
    if is_call(view, aten.slice.Tensor, aten.select.int):
        dim = argument(view, "dim") % dims
        if dim == axis:
            return None
        return axis - 1 if is_call(view, aten.select.int) and dim < axis else axis
    if is_call(view, aten.unsqueeze.default):
        return axis + 1 if argument(view, "dim") % (dims + 1) <= axis else axis
    if is_call(view, aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.flatten.using_ints):
        return _same_axis(shape(source), shape(view), axis)
    return None


def _same_axis(before: tuple, after: tuple, axis: int) -> int | None:
    """The axis of a reshaped tensor that indexes exactly what ``axis`` did; None where there is none."""
    if not all(isinstance(size, int) for size in before[axis:]):
        return None
    tail = math.prod(before[axis + 1 :])
    for candidate in range(len(after) - 1, -1, -1):
        if not all(isinstance(size, int) for size in after[candidate:]):
            return None
        if after[candidate] == before[axis] and math.prod(after[candidate + 1 :]) == tail:
            return candidate
    return None


def _follow_mean(mean: fx.Node, source: fx.Node, axis: int) -> int | None:
    dims = rank(source)
    if is_call(mean, aten.mean.dim):
        averaged = {d % dims for d in argument(mean, "dim") or range(dims)}
        if axis in averaged:
            return None
        kept = argument(mean, "keepdim")
        return axis if kept else axis - sum(d < axis for d in averaged)
    if is_call(mean, aten.adaptive_avg_pool2d.default) and axis == dims - 3:
        return axis
    return None
