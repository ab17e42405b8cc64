"""Between floats and integers, with a scale for all and one for each channel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.exporters.mil.support import check, mb, noise


@pytest.mark.parametrize(("dtype", "low", "high", "zero"), [("int8", -128, 127, -3), ("uint8", 0, 255, 120)])
def test_values_are_rounded_to_the_grid_and_clipped_at_its_ends(dtype: str, low: int, high: int, zero: int) -> None:
    x = torch.cat([noise(2, 3, 5) * 3, torch.tensor([[[100.0] * 5, [-100.0] * 5, [0.015625] * 5]])])
    scale = 0.03125
    stored = torch.clamp(torch.round(x.double() / scale) + zero, low, high)
    kind = getattr(np, dtype)

    def program(x: object) -> object:
        quantized = mb.quantize(input=x, zero_point=kind(zero), scale=np.float32(scale), output_dtype=dtype)
        return mb.dequantize(input=quantized, zero_point=kind(zero), scale=np.float32(scale))

    check(program, (stored - zero) * scale, x, within=1e-6, ios=17)


def test_each_channel_has_its_own_grid() -> None:
    x, scale = noise(2, 3, 4), np.array([0.1, 0.01, 0.5], np.float32)
    steps = torch.from_numpy(scale).double().reshape(1, 3, 1)
    stored = torch.clamp(torch.round(x.double() / steps), -128, 127)

    def program(x: object) -> object:
        quantized = mb.quantize(input=x, scale=scale, axis=np.int32(1), output_dtype="int8")
        return mb.dequantize(input=quantized, scale=scale, axis=np.int32(1))

    check(program, stored * steps, x, within=1e-6, ios=17)
