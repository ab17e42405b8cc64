"""Fold a border of zeros into the padding of the convolutions and averages that read it."""

from __future__ import annotations

from torch import fx

from deploy_kit.fusion.linear_ops import CONVOLUTIONS
from deploy_kit.fusion.windows import per_axis
from deploy_kit.graph import Graph, argument, aten, is_call, operand, set_argument

POOLS = (aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default)
PADS = (aten.constant_pad_nd.default, aten.pad.default)


def pad_into_convolution(graph: Graph) -> list[tuple[fx.Node, str]]:
    """conv(pad(x, q zeros), padding p) = conv(x, padding p + q), for q on both sides of the axes that conv moves on.

    An average counts the zeros as before where it includes its own padding, or has none. Every use of the
    border must take it: what is left of one is a copy of the whole image.
    """
    changes = []
    for pad in reversed(list(graph.calls(*PADS))):
        sides = _symmetric_zeros(pad)
        users = list(pad.users)
        if sides is None or not users or not all(_takes(user, pad, sides) for user in users):
            continue
        for user in users:
            dims = _spatial_dims(user)
            padding = per_axis(argument(user, "padding"), dims)
            set_argument(user, "padding", [p + q for p, q in zip(padding, _of_axes(sides, dims))])
            if is_call(user, *POOLS):
                set_argument(user, "count_include_pad", True)
        graph.replace(pad, operand(pad))
        changes.append((pad, f"zeros are padding of {', '.join(user.name for user in users)}"))
    return changes


def _symmetric_zeros(pad: fx.Node) -> list[int] | None:
    """How many zeros a pad puts on either side, the last axis first; None where it is anything else."""
    if is_call(pad, aten.pad.default) and argument(pad, "mode") != "constant":
        return None
    amounts = argument(pad, "pad")
    if argument(pad, "value") not in (None, 0) or not all(isinstance(q, int) and q >= 0 for q in amounts):
        return None
    return list(amounts[::2]) if amounts[::2] == amounts[1::2] else None


def _takes(user: fx.Node, pad: fx.Node, sides: list[int]) -> bool:
    """Whether a user moves a window over the padded axes alone, and may have this padding."""
    if not is_call(user, *CONVOLUTIONS, *POOLS) or operand(user) is not pad or pad in user.args[1:]:
        return False
    dims = _spatial_dims(user)
    return not any(sides[dims:]) and (is_call(user, *CONVOLUTIONS) or _averages_zeros(user, _of_axes(sides, dims)))


def _averages_zeros(pool: fx.Node, sides: list[int]) -> bool:
    """Whether an average may have ``sides`` more of padding: half its window at most, and all of it counted.

    An output whose size is rounded up ends elsewhere beside padding than beside zeros.
    """
    dims = len(sides)
    padding, kernel = (per_axis(argument(pool, name), dims) for name in ("padding", "kernel_size"))
    counted = argument(pool, "count_include_pad") or not any(padding)
    fits = all(p + q <= side // 2 for p, q, side in zip(padding, sides, kernel))
    return counted and fits and not argument(pool, "ceil_mode")


def _of_axes(sides: list[int], dims: int) -> list[int]:
    """The sides of the last ``dims`` axes in the order of the axes."""
    return [*sides, *[0] * dims][:dims][::-1]


def _spatial_dims(user: fx.Node) -> int:
    return (CONVOLUTIONS if is_call(user, *CONVOLUTIONS) else POOLS).index(user.target) + 1
