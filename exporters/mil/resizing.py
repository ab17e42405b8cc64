"""MIL's resizing of images, sampled where its documentation says."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deploy_kit.exporters.mil.registry import UnsupportedOperatorError, flag, integer, integers, operator


@operator("upsample_bilinear")
def upsample_bilinear(
    x: Tensor,
    scale_factor_height: Tensor,
    scale_factor_width: Tensor,
    align_corners: Tensor,
    half_pixel_centers: Tensor | None = None,
) -> Tensor:
    """The scale is taken again from the rounded size, as in torch with ``recompute_scale_factor=True``."""
    aligned = flag(align_corners)
    if half_pixel_centers is not None and flag(half_pixel_centers) == aligned:
        mode = "DEFAULT"
        if aligned:
            raise UnsupportedOperatorError("upsample_bilinear with both align_corners and half_pixel_centers")
    else:
        mode = "STRICT_ALIGN_CORNERS" if aligned else "UNALIGN_CORNERS"
    return _linear(x, _scaled(x, scale_factor_height, scale_factor_width), mode)


@operator("resize_bilinear")
def resize_bilinear(x: Tensor, target_size_height: Tensor, target_size_width: Tensor, sampling_mode: str) -> Tensor:
    return _linear(x, [integer(target_size_height), integer(target_size_width)], sampling_mode)


@operator("upsample_nearest_neighbor")
def upsample_nearest_neighbor(x: Tensor, scale_factor_height: Tensor, scale_factor_width: Tensor) -> Tensor:
    return _nearest(x, _scaled(x, scale_factor_height, scale_factor_width))


@operator("resize_nearest_neighbor")
def resize_nearest_neighbor(x: Tensor, target_size_height: Tensor, target_size_width: Tensor) -> Tensor:
    return _nearest(x, [integer(target_size_height), integer(target_size_width)])


@operator("resize")
def resize(x: Tensor, shape: Tensor, resized_dims: Tensor, interpolation_mode: str, sampling_mode: str) -> Tensor:
    """The last ``resized_dims`` axes get the last sizes of ``shape``, where 0 keeps what ``x`` has."""
    count = integer(resized_dims)
    sizes = [
        size or x.shape[x.dim() - count + index] for index, size in enumerate(integers(shape)[shape.numel() - count :])
    ]
    if interpolation_mode == "LINEAR":
        return _linear(x, sizes, sampling_mode)
    return _nearest(x, sizes)


def _scaled(x: Tensor, height: Tensor, width: Tensor) -> list[int]:
    return [math.floor(factor.item() * size) for factor, size in zip((height, width), x.shape[-2:])]


def _linear(x: Tensor, sizes: list[int], mode: str) -> Tensor:
    """Resample the last axes, one after the other, between the two elements around each grid point."""
    for index, size in enumerate(sizes):
        axis = x.dim() - len(sizes) + index
        last = x.shape[axis] - 1
        points = grid_points(x.shape[axis], size, mode)
        low = points.floor().long().clamp(0, last)
        share = (points - low).to(x.dtype).reshape(-1, *[1] * (x.dim() - 1 - axis))
        below, above = x.index_select(axis, low), x.index_select(axis, (low + 1).clamp(max=last))
        x = below * (1 - share) + above * share
    return x


def grid_points(size: int, target: int, mode: str) -> Tensor:
    """Where along an axis of ``size`` elements each of ``target`` elements is sampled, in float64."""
    steps = torch.arange(target, dtype=torch.float64)
    if mode == "UNALIGN_CORNERS":
        points = (steps + 0.5) * (size / target) - 0.5
    elif mode == "DEFAULT":
        points = steps * (size / target)
    elif mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if target == 1:
            return torch.full((1,), 0.0 if mode == "STRICT_ALIGN_CORNERS" else (size - 1) / 2, dtype=torch.float64)
        points = steps * ((size - 1) / (target - 1))
    elif mode == "OFFSET_CORNERS":
        points = (steps + 0.5) * (max(1, size - 1) / target)
    else:
        raise UnsupportedOperatorError(f"sampling mode {mode!r}")
    return points.clamp(0, size - 1)


def _nearest(x: Tensor, sizes: list[int]) -> Tensor:
    """Repeat elements; a factor that is not whole is refused, because nothing says which neighbour is taken."""
    for index, size in enumerate(sizes):
        axis = x.dim() - len(sizes) + index
        if size % x.shape[axis]:
            raise UnsupportedOperatorError(f"nearest neighbour from {x.shape[axis]} to {size} elements")
        x = x.repeat_interleave(size // x.shape[axis], axis)
    return x
