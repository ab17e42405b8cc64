from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deploy_kit.graph import aten
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "transposed_conv_to_product"
CONV = aten.conv_transpose2d.input


@pytest.mark.parametrize(
    "conv",
    [
        nn.ConvTranspose2d(4, 4, 2, stride=2, groups=4),
        nn.ConvTranspose2d(4, 4, (2, 3), stride=(2, 3), groups=4, bias=False),
        nn.ConvTranspose2d(4, 4, 4, stride=4, groups=4),
        nn.ConvTranspose2d(4, 4, 1, groups=4),
    ],
    ids=str,
)
def test_is_exact(conv: nn.Module) -> None:
    assert_rewrites(PASS, nn.Sequential(conv, nn.ReLU()), noise(2, 4, 5, 3), at=["0"], gone=(CONV,))


@pytest.mark.parametrize(
    "conv",
    [
        nn.ConvTranspose2d(4, 4, 3, stride=2, groups=4),
        nn.ConvTranspose2d(4, 4, 2, stride=3, groups=4),
        nn.ConvTranspose2d(4, 4, (2, 3), stride=2, groups=4),
        nn.ConvTranspose2d(4, 4, 2, stride=2, padding=1, groups=4),
        nn.ConvTranspose2d(4, 4, 2, stride=2, output_padding=1, groups=4),
        nn.ConvTranspose2d(4, 4, 2, stride=2, dilation=2, groups=4),
        nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2),
        nn.ConvTranspose2d(4, 8, 2, stride=2, groups=4),
        nn.ConvTranspose2d(4, 4, 2, stride=2),
        nn.ConvTranspose2d(4, 1, 2, stride=2),
    ],
    ids=str,
)
def test_keeps(conv: nn.Module) -> None:
    assert_keeps(PASS, nn.Sequential(conv), noise(2, 4, 5, 3))


def test_keeps_a_dynamic_batch_and_an_image_without_a_batch() -> None:
    conv = nn.ConvTranspose2d(4, 4, 2, stride=2, groups=4)
    assert_keeps(PASS, nn.Sequential(conv), noise(2, 4, 5, 3), dynamic_batch=True)
    assert_keeps(PASS, nn.Sequential(conv), noise(4, 5, 3))


def test_keeps_a_computed_kernel() -> None:
    model = Net(
        lambda net, x: F.conv_transpose2d(x, net.kernel * x.mean(), stride=2, groups=4), kernel=torch.ones(4, 1, 2, 2)
    )
    assert_keeps(PASS, model, noise(2, 4, 5, 3))
