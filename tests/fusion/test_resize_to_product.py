from __future__ import annotations

from typing import Any

import pytest
import torch.nn.functional as F

from deploy_kit.graph import aten
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "resize_to_product"


@pytest.mark.parametrize(
    "how",
    [
        {"scale_factor": 2, "mode": "bilinear"},
        {"scale_factor": 2, "mode": "bilinear", "align_corners": True},
        {"size": (9, 4), "mode": "bilinear"},
        {"size": (3, 2), "mode": "bilinear"},
        {"scale_factor": (1.7, 2.3), "mode": "bilinear"},
        {"scale_factor": (1.7, 2.3), "mode": "bilinear", "recompute_scale_factor": True},
        {"scale_factor": 3, "mode": "bicubic"},
        {"scale_factor": 2, "mode": "nearest"},
    ],
)
def test_a_resize_is_a_product_with_a_constant(how: dict[str, Any]) -> None:
    graph = assert_rewrites(PASS, Net(lambda net, x: F.interpolate(x, **how)), noise(2, 3, 5, 7), at=[""])
    assert len(list(graph.calls(aten.matmul.default))) == 1


def test_a_free_batch_stays_free() -> None:
    model = Net(lambda net, x: F.interpolate(x, scale_factor=2, mode="bilinear"))
    graph = assert_rewrites(PASS, model, noise(2, 3, 5, 7), at=[""], dynamic_batch=True)
    x = noise(4, 3, 5, 7)
    assert graph.module(x) == pytest.approx(model(x).detach(), abs=1e-12)


@pytest.mark.parametrize(
    ("how", "sizes"),
    [
        ({"scale_factor": 2, "mode": "bilinear"}, (1, 2, 9, 8)),
        ({"scale_factor": 2, "mode": "linear"}, (1, 2, 9)),
        ({"size": (3, 3), "mode": "area"}, (1, 2, 6, 6)),
    ],
)
def test_keeps_what_is_large_or_no_image(how: dict[str, Any], sizes: tuple[int, ...]) -> None:
    assert_keeps(PASS, Net(lambda net, x: F.interpolate(x, **how)), noise(*sizes))
