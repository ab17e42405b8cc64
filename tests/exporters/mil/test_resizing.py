"""Resizing against torch, at whole and broken factors, with corners aligned and not."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from deploy_kit.exporters.mil.registry import UnsupportedOperatorError
from deploy_kit.exporters.mil.resizing import grid_points
from tests.exporters.mil.support import check, mb, noise, run


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("size", [(10, 14), (8, 9), (3, 4)])
def test_bilinear(aligned: bool, size: tuple[int, int]) -> None:
    x = noise(2, 3, 5, 7)
    expected = F.interpolate(x.double(), size, mode="bilinear", align_corners=aligned)
    up = [target / given for target, given in zip(size, (5, 7))]
    check(
        lambda x: mb.upsample_bilinear(
            x=x, scale_factor_height=up[0] + 1e-4, scale_factor_width=up[1] + 1e-4, align_corners=aligned
        ),
        expected,
        x,
    )
    mode = "STRICT_ALIGN_CORNERS" if aligned else "UNALIGN_CORNERS"
    check(
        lambda x: mb.resize_bilinear(x=x, target_size_height=size[0], target_size_width=size[1], sampling_mode=mode),
        expected,
        x,
    )


def test_bilinear_half_pixels_said_twice() -> None:
    x = noise(1, 2, 4, 5)
    expected = F.interpolate(x.double(), scale_factor=2, mode="bilinear", align_corners=False)
    both = {"scale_factor_height": 2.0, "scale_factor_width": 2.0, "align_corners": False}
    check(lambda x: mb.upsample_bilinear(x=x, half_pixel_centers=True, **both), expected, x, ios=16)


@pytest.mark.parametrize(
    ("mode", "points"),
    [
        ("UNALIGN_CORNERS", [0, 0.1, 0.5, 0.9, 1]),
        ("STRICT_ALIGN_CORNERS", [0, 0.25, 0.5, 0.75, 1]),
        ("DEFAULT", [0, 0.4, 0.8, 1, 1]),
        ("OFFSET_CORNERS", [0.1, 0.3, 0.5, 0.7, 0.9]),
    ],
)
def test_grid_points_are_those_of_the_documentation(mode: str, points: list[float]) -> None:
    torch.testing.assert_close(grid_points(2, 5, mode), torch.tensor(points, dtype=torch.float64))


def test_nearest() -> None:
    x = noise(2, 3, 4, 5)
    expected = F.interpolate(x, size=(8, 15), mode="nearest")
    check(lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3), expected, x)
    check(lambda x: mb.resize_nearest_neighbor(x=x, target_size_height=8, target_size_width=15), expected, x)
    with pytest.raises(UnsupportedOperatorError, match="nearest neighbour from 4 to 6"):
        run(lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=1.5, scale_factor_width=1.0), x)
