"""MIL's compressed constants: the dense tensors that the bytes in a package's file of weights stand for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy_kit.exporters.mil.registry import UnsupportedOperatorError

Array = NDArray[Any]


def affine_dequantize(quantized_data: Array, zero_point: Array, scale: Array, axis: Array) -> Array:
    """``scale * (data - zero_point)``, with a scale and a zero point for all, or for each index along ``axis``."""
    shape = [1] * quantized_data.ndim
    shape[int(axis)] = -1
    factor, shift = (np.asarray(x, np.float64).reshape(shape if np.ndim(x) else ()) for x in (scale, zero_point))
    return factor * (quantized_data.astype(np.float64) - shift)


def blockwise_shift_scale(data: Array, scale: Array, offset: Array | None = None) -> Array:
    """The same, with a scale and an offset for each block: along each axis their sizes divide the data's."""
    factor = _spread(scale, data.shape)
    return factor * (data.astype(np.float64) - (0 if offset is None else _spread(offset, data.shape)))


def lut_to_dense(indices: Array, lut: Array, shape: Array | None = None, vector_axis: Array | None = None) -> Array:
    """The elements of a palette that indices name: packed into bytes, of a given shape, and with one palette for the
    whole tensor until iOS 17; from iOS 18 on as they are, with a palette ``[..., entries, 1]`` for each block."""
    if shape is not None:
        sizes = [int(size) for size in np.asarray(shape).flatten()]
        return lut[unpack(indices, int(math.log2(lut.size)), math.prod(sizes))].reshape(sizes)
    if lut.shape[-1] != 1:
        raise UnsupportedOperatorError("a palette of vectors")
    blocks, entries = lut.shape[:-2], lut.shape[-2]
    which = _spread(np.arange(math.prod(blocks)).reshape(blocks), indices.shape).astype(np.int64)
    return lut.reshape(-1, entries)[which, indices.astype(np.int64)]


def unpack(data: Array, bits: int, count: int) -> NDArray[np.int64]:
    """``count`` numbers of so many bits each, packed into bytes without gaps, lowest bit first."""
    stream = np.unpackbits(np.asarray(data, np.uint8), bitorder="little")[: bits * count]
    return stream.reshape(count, bits).astype(np.int64) @ (1 << np.arange(bits))


def cast(source_val: Array, output_dtype: str) -> Array:
    """fp16 as fp32, which loses nothing; the type of the result is the program's to say."""
    return source_val


def _spread(values: Array, shape: tuple[int, ...]) -> Array:
    """Repeat each element over its block of a tensor of this shape."""
    wide = np.asarray(values)
    for axis, size in enumerate(shape):
        wide = np.repeat(wide, size // wide.shape[axis], axis)
    return wide


CONSTANTS: dict[str, Callable[..., Array]] = {
    "constexpr_affine_dequantize": affine_dequantize,
    "constexpr_blockwise_shift_scale": blockwise_shift_scale,
    "constexpr_cast": cast,
    "constexpr_lut_to_dense": lut_to_dense,
}
"""By MIL's name. A function's parameters are the operator's inputs, by MIL's names, as the package holds them."""
