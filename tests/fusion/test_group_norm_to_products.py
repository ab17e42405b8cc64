from __future__ import annotations

import pytest
from torch import nn

from deploy_kit.graph import aten
from tests.fusion.support import assert_keeps, assert_rewrites, noise

PASS = "group_norm_to_products"


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"eps": 0.1}], ids=str)
def test_is_the_norm(groups: int, options: dict) -> None:
    model = nn.Sequential(nn.GroupNorm(groups, 6, **options))
    assert_rewrites(PASS, model, noise(2, 6, 5, 4), at=["0"], gone=(aten.group_norm.default,))


def test_is_the_norm_with_a_dynamic_batch() -> None:
    assert_rewrites(PASS, nn.Sequential(nn.GroupNorm(2, 6)), noise(2, 6, 5, 4), at=["0"], dynamic_batch=True)


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 5), (2, 6, 5, 4, 3)], ids=str)
def test_keeps_what_is_no_image(shape: tuple[int, ...]) -> None:
    assert_keeps(PASS, nn.GroupNorm(2, 6), noise(*shape))
