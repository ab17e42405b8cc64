from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deploy_kit.capture import capture
from deploy_kit.fusion import PASSES
from deploy_kit.graph import aten
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "decompose_rms_norm"
NORM = aten.rms_norm.default


@pytest.mark.parametrize(
    "norm",
    [
        nn.RMSNorm(4),
        nn.RMSNorm(4, eps=0.1),
        nn.RMSNorm(4, elementwise_affine=False),
        nn.RMSNorm((5, 4)),
        nn.RMSNorm((5, 4), eps=0.1),
    ],
    ids=str,
)
def test_is_exact(norm: nn.Module) -> None:
    assert_rewrites(PASS, nn.Sequential(norm), noise(2, 5, 4), at=["0"], gone=(NORM,), dynamic_batch=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_takes_the_default_epsilon_of_the_dtype(dtype: torch.dtype) -> None:
    x = noise(2, 5, 4).to(dtype) * torch.finfo(dtype).eps ** 0.5
    model = Net(lambda net, x: F.rms_norm(x, (4,)))
    graph = capture(model, (x,))
    assert PASSES[PASS].run(graph)
    torch.testing.assert_close(graph.module(x), model(x), rtol=1e-5, atol=0)


def test_keeps_layer_norm() -> None:
    assert_keeps(PASS, nn.Sequential(nn.LayerNorm(4)), noise(2, 5, 4))
