"""What convolutions and pooling say of their windows: one number for all axes, or one an axis."""

from __future__ import annotations

from collections.abc import Sequence


def per_axis(value: Sequence[int] | int, dims: int) -> list[int]:
    """A stride, padding or dilation with one number for each of ``dims`` axes."""
    values = [value] if isinstance(value, int) else list(value)
    return values * dims if len(values) == 1 else values
