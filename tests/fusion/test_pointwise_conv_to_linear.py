from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deploy_kit.graph import aten
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "pointwise_conv_to_linear"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dynamic_batch", [True, False])
def test_is_exact(bias: bool, dynamic_batch: bool) -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 1, bias=bias), nn.SiLU())
    gone = (aten.conv2d.default,)
    assert_rewrites(PASS, model, noise(2, 4, 5, 3), at=["0"], gone=gone, dynamic_batch=dynamic_batch)


def test_rewrites_each_call_of_a_shared_convolution() -> None:
    model = Net(lambda net, x: net.conv(net.conv(x).sigmoid()), conv=nn.Conv2d(4, 4, 1))
    assert_rewrites(PASS, model, noise(2, 4, 5, 3), at=["conv", "conv"], gone=(aten.conv2d.default,))


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, 3),
        nn.Conv2d(4, 6, (1, 2)),
        nn.Conv2d(4, 6, 1, padding=1),
        nn.Conv2d(4, 6, 1, stride=2),
        nn.Conv2d(4, 6, 1, stride=(1, 2)),
        nn.Conv2d(4, 6, 1, groups=2),
    ],
    ids=str,
)
def test_keeps(conv: nn.Module) -> None:
    assert_keeps(PASS, nn.Sequential(conv), noise(2, 4, 5, 3))


@pytest.mark.parametrize("clamp", [nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-1, 2)], ids=str)
def test_keeps_what_runtimes_compute_with_its_activation(clamp: nn.Module) -> None:
    assert_keeps(PASS, nn.Sequential(nn.Conv2d(4, 6, 1), clamp), noise(2, 4, 5, 3))


def test_does_not_keep_it_for_another_use() -> None:
    model = Net(lambda net, x: (lambda y: y.relu() + y)(net.conv(x)), conv=nn.Conv2d(4, 6, 1))
    assert_rewrites(PASS, model, noise(2, 4, 5, 3), at=["conv"])


def test_keeps_an_image_without_a_batch() -> None:
    assert_keeps(PASS, nn.Sequential(nn.Conv2d(4, 6, 1)), noise(4, 5, 3))


def test_keeps_a_computed_kernel() -> None:
    model = Net(lambda net, x: F.conv2d(x, net.kernel * x.mean()), kernel=torch.ones(6, 4, 1, 1))
    assert_keeps(PASS, model, noise(2, 4, 5, 3))
