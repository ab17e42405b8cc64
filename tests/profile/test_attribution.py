"""Which calls of a graph those of a file compute, told by what they are given and where their results go."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from deploy_kit.api import fuse
from deploy_kit.capture import capture
from deploy_kit.graph import Graph
from deploy_kit.profile.attribution import by_dataflow
from deploy_kit.profile.bytecode import INPUT, Call, Code
from deploy_kit.sources import load_model
from tests.support import TINY, TINY_SIZE

TINY_CODE = Code(
    [
        Call("aten::contiguous", (INPUT,)),
        Call("prepacked::conv2d_clamp_run", (0,)),
        Call("prepacked::conv2d_clamp_run", (1,)),
        Call("aten::flatten", (2,)),
        Call("aten::transpose", (3,)),
        Call("aten::layer_norm", (4,)),
        Call("prepacked::linear_clamp_run", (5,)),
        Call("aten::gelu_", (6,)),
        Call("aten::mean", (4,)),
        Call("aten::mean", (7,)),
        Call("prepacked::linear_clamp_run", (9,)),
        Call("aten::add_", (10, 8)),
        Call("prepacked::linear_clamp_run", (11,)),
    ],
    results=(12,),
)
"""What is made of the tiny model, with a ReLU in its first convolution."""

TINY_MODULES = ["", "stem", "local.conv", "", "", "norm", "fc1", "", "", "", "fc2", "", "head"]


@pytest.fixture(scope="module")
def tiny_graph() -> Graph:
    return fuse(load_model(TINY, input_size=TINY_SIZE), "torchscript-lite").after


def modules(code: Code, graph: Graph) -> list[str | None]:
    return [None if work is None else work.module for work in by_dataflow(code, graph)]


def test_every_call_has_its_module(tiny_graph: Graph) -> None:
    assert modules(TINY_CODE, tiny_graph)[1:] == TINY_MODULES[1:]


class Siblings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.left(x), self.right(x).sigmoid()], 1)


def test_the_order_of_calls_makes_no_difference() -> None:
    moved = Code(
        [
            Call("prepacked::linear_clamp_run", (INPUT,)),
            Call("prepacked::linear_clamp_run", (INPUT,)),
            Call("aten::sigmoid_", (0,)),
            Call("aten::cat", (1, 2)),
        ],
        results=(3,),
    )
    graph = capture(Siblings().eval(), (torch.zeros(1, 4),))
    assert modules(moved, graph) == ["right", "left", "", ""]


def test_calls_before_one_that_does_not_fit_have_no_module(tiny_graph: Graph) -> None:
    calls = list(TINY_CODE.calls)
    calls[10] = Call("aten::mystery", (9,))
    assert modules(replace(TINY_CODE, calls=calls), tiny_graph)[5:] == [None, None, None, "", None, None, "", "head"]


def test_a_call_with_other_inputs_leads_nowhere(tiny_graph: Graph) -> None:
    calls = list(TINY_CODE.calls)
    calls[11] = Call("aten::add_", (10,))
    assert modules(replace(TINY_CODE, calls=calls), tiny_graph) == [None] * 11 + ["", "head"]


def test_a_call_that_could_be_either_of_two_has_no_module() -> None:
    once = Code([Call("aten::linear", (INPUT,)), Call("aten::cat", (0, 0))], results=(1,))

    class Twice(Siblings):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.left(x), self.right(x)], 1)

    assert modules(once, capture(Twice().eval(), (torch.zeros(1, 4),))) == [None, ""]
