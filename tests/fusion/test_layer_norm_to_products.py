from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from deploy_kit.capture import capture
from deploy_kit.fusion import PASSES
from deploy_kit.graph import aten
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise, relative_error

PASS = "layer_norm_to_products"
NORM = aten.layer_norm.default


def model(norm: nn.Module) -> Net:
    return Net(lambda net, x: net.norm(x) + 1, norm=norm)


@pytest.mark.parametrize(
    "norm",
    [nn.LayerNorm(4), nn.LayerNorm(4, eps=0.1), nn.LayerNorm(4, bias=False), nn.LayerNorm(4, elementwise_affine=False)],
    ids=str,
)
@pytest.mark.parametrize("shape", [(2, 4), (2, 7, 4), (2, 3, 5, 4), (2, 1, 3, 5, 4)], ids=str)
def test_is_the_norm(norm: nn.Module, shape: tuple[int, ...]) -> None:
    graph = assert_rewrites(PASS, model(norm), noise(*shape), at=["norm"], gone=(NORM,))
    expected = aten.conv2d.default if len(shape) == 4 else aten.linear.default
    assert len(list(graph.calls(aten.conv2d.default, aten.linear.default))) == 2
    assert len(list(graph.calls(expected))) == 2


@pytest.mark.parametrize("shape", [(2, 7, 4), (2, 3, 5, 4)], ids=str)
def test_is_the_norm_with_a_dynamic_batch(shape: tuple[int, ...]) -> None:
    assert_rewrites(PASS, model(nn.LayerNorm(4)), noise(*shape), at=["norm"], gone=(NORM,), dynamic_batch=True)


def test_a_large_mean_costs_no_more_precision_than_in_the_norm() -> None:
    x = (torch.randn(1, 50, 64, generator=torch.Generator().manual_seed(0)) + 100).float()
    norm = nn.LayerNorm(64)
    graph = capture(norm, (x,))
    PASSES[PASS].run(graph)
    with torch.no_grad():
        exact = norm.double()(x.double())
        own = relative_error(norm.float()(x).double(), exact)
        assert relative_error(graph.module(x).double(), exact) <= 4 * own


class OverTwoAxes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm((5, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


def test_keeps_a_norm_over_two_axes() -> None:
    assert_keeps(PASS, OverTwoAxes(), noise(2, 3, 5, 4))
