from __future__ import annotations

import torch
from torch import nn

from deploy_kit.graph import aten
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "decompose_tanh_gelu"


def test_writes_it_as_it_is_defined() -> None:
    graph = assert_rewrites(PASS, nn.Sequential(nn.Linear(5, 7), nn.GELU("tanh")), 3 * noise(2, 4, 5), at=["1"])
    assert not list(graph.calls(aten.gelu.default))


def test_writes_it_where_its_input_is_used_again_and_with_a_free_batch() -> None:
    model = Net(lambda net, x: torch.nn.functional.gelu(x, approximate="tanh") * x)
    assert_rewrites(PASS, model, noise(3, 4), at=[""], dynamic_batch=True)


def test_keeps_the_form_with_erf() -> None:
    assert_keeps(PASS, nn.Sequential(nn.Linear(5, 7), nn.GELU()), noise(2, 5))
