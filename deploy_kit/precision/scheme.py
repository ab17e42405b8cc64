"""How a target stores eight-bit numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch

aten = torch.ops.aten

LAYERS = (aten.conv2d.default, aten.linear.default)
"""What every runtime has an integer kernel for, where the weight is constant."""


@dataclass(frozen=True)
class Scheme:
    """What a target's integer kernels take.

    Weights are always symmetric int8, with a scale for every output channel. Activations are int8 with their
    zero where their range wants it; ``symmetric`` puts it at 0, ``unsigned`` stores them in uint8.
    """

    symmetric: bool = False
    unsigned: bool = False


@dataclass(frozen=True)
class Affine:
    """An activation's numbers: ``value = (stored - zero_point) * scale``, stored from ``lowest`` to ``highest``."""

    scale: float
    zero_point: int
    lowest: int
    highest: int

    @property
    def dtype(self) -> torch.dtype:
        """What the stored numbers are."""
        return torch.int8 if self.lowest < 0 else torch.uint8


def affine(low: float, high: float, scheme: Scheme) -> Affine:
    """The parameters that cover the values from ``low`` to ``high``, and zero exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    if scheme.symmetric:
        return Affine(max(-low, high, _SMALLEST) / 127, 0, -127, 127)
    lowest, highest = (0, 255) if scheme.unsigned else (-128, 127)
    scale = max(high - low, _SMALLEST) / 255
    return Affine(scale, min(highest, max(lowest, round(lowest - low / scale))), lowest, highest)


_SMALLEST = 1e-6
"""The least range: an activation that is always zero has a scale too."""
