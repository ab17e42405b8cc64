"""Between floats and stored integers."""

from __future__ import annotations

import torch
from torch import Tensor

from deploy_kit.exporters.mil.registry import UnsupportedOperatorError, integer, operator

RANGES = {"int8": (-128, 127), "uint8": (0, 255)}


@operator("quantize")
def quantize(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: Tensor | None = None
) -> Tensor:
    """``round(input / scale) + zero_point``, within the range of the stored type; halves go to the even neighbour."""
    if output_dtype not in RANGES:
        raise UnsupportedOperatorError(f"integers of type {output_dtype}")
    stored = torch.round(input / _along(scale, axis, input)) + _shift(zero_point, axis, input)
    return stored.clamp(*RANGES[output_dtype]).to(torch.int64)


@operator("dequantize")
def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    """``(input - zero_point) * scale``."""
    return (input.to(scale.dtype) - _shift(zero_point, axis, input)) * _along(scale, axis, input)


def _shift(zero_point: Tensor | None, axis: Tensor | None, value: Tensor) -> Tensor | int:
    return 0 if zero_point is None else _along(zero_point, axis, value)


def _along(numbers: Tensor, axis: Tensor | None, value: Tensor) -> Tensor:
    """One number for all, or one for each index along an axis, in a shape that broadcasts to ``value``."""
    if numbers.dim() == 0 or axis is None:
        return numbers
    shape = [1] * value.dim()
    shape[integer(axis)] = -1
    return numbers.reshape(shape)
