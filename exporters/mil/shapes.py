"""MIL's operators that move elements about: shapes, slices, joins, gathers, padding."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from deploy_kit.exporters.mil.products import torch_order
from deploy_kit.exporters.mil.registry import UnsupportedOperatorError, flag, integer, integers, operator


@operator("reshape")
def reshape(x: Tensor, shape: Tensor) -> Tensor:
    """0 keeps the size at its place, and is allowed only where the rank stays; -1 takes what is left."""
    sizes = integers(shape)
    if 0 in sizes and len(sizes) != x.dim():
        raise UnsupportedOperatorError("reshape with a 0 to another rank")
    return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)])


@operator("transpose")
def transpose(x: Tensor, perm: Tensor) -> Tensor:
    return x.permute(integers(perm))


@operator("expand_dims")
def expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    rank = x.dim() + axes.numel()
    for axis in sorted(axis % rank for axis in integers(axes)):
        x = x.unsqueeze(axis)
    return x


@operator("squeeze")
def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    if axes is None:
        return x.squeeze()
    over = [axis % x.dim() for axis in integers(axes)]
    if any(x.shape[axis] != 1 for axis in over):
        raise UnsupportedOperatorError("squeeze of an axis whose size is not 1")
    return x.squeeze(over)


@operator("flatten2d")
def flatten2d(x: Tensor, axis: Tensor) -> Tensor:
    at = integer(axis)
    return x.reshape(x.shape[:at].numel(), x.shape[at:].numel())


@operator("shape")
def shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape)


@operator("concat")
def concat(values: list[Tensor], axis: Tensor, interleave: Tensor | None = None) -> Tensor:
    if flag(interleave):
        raise UnsupportedOperatorError("concat that interleaves")
    return torch.cat(values, integer(axis))


@operator("stack")
def stack(values: list[Tensor], axis: Tensor) -> Tensor:
    return torch.stack(values, integer(axis))


@operator("split")
def split(
    x: Tensor, axis: Tensor, num_splits: Tensor | None = None, split_sizes: Tensor | None = None
) -> tuple[Tensor, ...]:
    along = integer(axis)
    if split_sizes is not None:
        return torch.split(x, integers(split_sizes), along)
    assert num_splits is not None
    return torch.split(x, x.shape[along] // integer(num_splits), along)


@operator("slice_by_index")
def slice_by_index(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    """As numpy slices; a mask leaves ``begin`` or ``end`` open, or takes one element and drops its axis."""
    steps = [1] * x.dim() if stride is None else integers(stride)
    open_begin, open_end, single = (_mask(mask, x.dim()) for mask in (begin_mask, end_mask, squeeze_mask))
    starts, stops = integers(begin), integers(end)
    for axis in range(x.dim()):
        if single[axis]:
            chosen = [starts[axis] % x.shape[axis]]
        else:
            bounds = slice(
                None if open_begin[axis] else starts[axis], None if open_end[axis] else stops[axis], steps[axis]
            )
            chosen = list(range(*bounds.indices(x.shape[axis])))
        x = x.index_select(axis, torch.tensor(chosen, dtype=torch.int64))
    return x.squeeze([axis for axis in range(x.dim()) if single[axis]])


def _mask(mask: Tensor | None, rank: int) -> list[bool]:
    return [False] * rank if mask is None else [bool(bit) for bit in mask.tolist()]


@operator("slice_by_size")
def slice_by_size(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    """A size of -1 takes the rest."""
    for axis, (start, length) in enumerate(zip(integers(begin), integers(size))):
        first = start % x.shape[axis]
        x = x.narrow(axis, first, x.shape[axis] - first if length == -1 else length)
    return x


@operator("crop")
def crop(x: Tensor, crop_height: Tensor, crop_width: Tensor) -> Tensor:
    for axis, amounts in ((-2, crop_height), (-1, crop_width)):
        before, after = integers(amounts)
        x = x.narrow(axis, before, x.shape[axis] - before - after)
    return x


@operator("pad")
def pad(x: Tensor, pad: Tensor, mode: str, constant_val: Tensor | None = None) -> Tensor:
    """``pad`` holds elements before and after each of the last axes."""
    around = integers(pad)
    if mode == "constant":
        return F.pad(x, torch_order(around), value=0.0 if constant_val is None else constant_val.item())
    if mode not in ("reflect", "replicate"):
        raise UnsupportedOperatorError(f"pad with mode {mode!r}")
    first = x.dim() - len(around) // 2
    for index, (before, after) in enumerate(zip(around[::2], around[1::2])):
        size = x.shape[first + index]
        where = torch.arange(-before, size + after)
        if mode == "reflect":
            where = (size - 1) - ((size - 1) - where.abs()).abs()
        x = x.index_select(first + index, where.clamp(0, size - 1))
    return x


@operator("tile")
def tile(x: Tensor, reps: Tensor) -> Tensor:
    return x.repeat(integers(reps))


@operator("reverse")
def reverse(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.flip(list(range(x.dim())) if axes is None else integers(axes))


@operator("pixel_shuffle")
def pixel_shuffle(x: Tensor, upscale_factor: Tensor) -> Tensor:
    n, channels, height, width = x.shape
    f = integer(upscale_factor)
    blocks = x.reshape(n, channels // f**2, f, f, height, width)
    return blocks.permute(0, 1, 4, 2, 5, 3).reshape(n, channels // f**2, height * f, width * f)


@operator("pixel_unshuffle")
def pixel_unshuffle(x: Tensor, downscale_factor: Tensor) -> Tensor:
    n, channels, height, width = x.shape
    f = integer(downscale_factor)
    blocks = x.reshape(n, channels, height // f, f, width // f, f)
    return blocks.permute(0, 1, 3, 5, 2, 4).reshape(n, channels * f**2, height // f, width // f)


@operator("fill")
def fill(shape: Tensor, value: Tensor) -> Tensor:
    return value.expand(integers(shape)).clone()


@operator("range_1d")
def range_1d(start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    return torch.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


@operator("band_part")
def band_part(x: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Zero outside the diagonals from ``-lower`` to ``upper``; a negative one keeps that whole side."""
    below, above = integer(lower), integer(upper)
    kept = x if below < 0 else x.triu(-below)
    return kept if above < 0 else kept.tril(above)


@operator("gather")
def gather(
    x: Tensor,
    indices: Tensor,
    axis: Tensor,
    batch_dims: Tensor | None = None,
    validate_indices: Tensor | None = None,
) -> Tensor:
    if batch_dims is not None and integer(batch_dims) != 0:
        raise UnsupportedOperatorError("gather with batch_dims")
    along = integer(axis) % x.dim()
    chosen = _indices(indices, x.shape[along], negative=validate_indices is None)
    gathered = x.index_select(along, chosen.flatten())
    return gathered.reshape(*x.shape[:along], *indices.shape, *x.shape[along + 1 :])


@operator("gather_along_axis")
def gather_along_axis(x: Tensor, indices: Tensor, axis: Tensor, validate_indices: Tensor | None = None) -> Tensor:
    along = integer(axis) % x.dim()
    return x.gather(along, _indices(indices, x.shape[along], negative=validate_indices is None))


def _indices(indices: Tensor, size: int, *, negative: bool) -> Tensor:
    """Indices that are not negative. From iOS 17 on, where ``validate_indices`` came, negative ones are undefined."""
    if (indices < (-size if negative else 0)).any() or (indices >= size).any():
        raise UnsupportedOperatorError("indices out of range, which CoreML does not define")
    return torch.where(indices < 0, indices + size, indices)


@operator("topk")
def topk(
    x: Tensor,
    k: Tensor,
    axis: Tensor,
    ascending: Tensor,
    sort: Tensor | None = None,
    return_indices: Tensor | None = None,
    output_indices_dtype: str | None = None,
) -> Tensor | tuple[Tensor, ...]:
    values, indices = x.topk(integer(k), integer(axis), largest=not flag(ascending), sorted=True)
    return (values, indices) if return_indices is None or flag(return_indices) else values
