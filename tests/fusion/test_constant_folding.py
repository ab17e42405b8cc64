from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deploy_kit.api import fuse
from deploy_kit.graph import Graph, aten
from deploy_kit.sources import load_model
from tests.fusion.support import Net, apply, assert_keeps, assert_rewrites, noise

PASS = "constant_folding"


def _bias_table(net: Any, x: Tensor) -> Tensor:
    steps = torch.arange(5)
    return x + net.table[:, (steps[:, None] - steps[None]).abs()]


def _mask(net: Any, x: Tensor) -> Tensor:
    return x.masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), -1.0)


def _interpolated(net: Any, x: Tensor) -> Tensor:
    return x + nn.functional.interpolate(net.table[None, :, None], (1, 5), mode="nearest")[0, :, 0, :, None]


def _folded(model: nn.Module, x: Tensor) -> tuple[Graph, list[Any]]:
    graph, rewrites = apply(PASS, model, x)
    assert rewrites
    return graph, [node.target for node in graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("forward", [_bias_table, _mask, _interpolated])
def test_computes_once(forward: Callable[..., Tensor]) -> None:
    model = Net(forward, table=torch.ones(2, 5))
    graph, calls = _folded(model, noise(2, 5, 5))
    assert len(calls) == 1
    assert len(list(graph.module.buffers())) == 1


def test_computes_a_reparametrised_weight_once() -> None:
    model = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 6))
    _, calls = _folded(model, noise(2, 4))
    assert calls == [aten.linear.default]


def test_computes_two_steps_in_one_run() -> None:
    _, calls = _folded(Net(lambda net, x: x * (net.scale.exp() + 1).sqrt(), scale=torch.ones(4)), noise(2, 4))
    assert calls == [aten.mul.Tensor]


def test_rearranges_a_large_constant() -> None:
    model = Net(lambda net, x: x + net.table.t()[:2, :1], table=torch.ones(1025, 1024))
    _, calls = _folded(model, noise(2, 1))
    assert calls == [aten.add.Tensor]


def test_shares_no_memory_with_the_model() -> None:
    model = Net(lambda net, x: x + net.table.t(), table=torch.ones(2, 3))
    graph = assert_rewrites(PASS, model, noise(3, 2), at=[""])
    before = graph.module(noise(3, 2))
    model.table.data.zero_()
    assert graph.module(noise(3, 2)).equal(before)


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: x + 1,
        lambda net, x: x * 2 + net.table,
        lambda net, x: x + net.table.split(1)[0],
    ],
    ids=["no constants", "used as it is", "several outputs"],
)
def test_keeps(function: Callable[..., Tensor]) -> None:
    assert_keeps(PASS, Net(function, table=torch.ones(2, 4)), noise(2, 4))


def test_keeps_randomness() -> None:
    model = Net(lambda net, x: x + 0 * torch.rand_like(net.table), table=torch.ones(2, 4))
    assert_keeps(PASS, model, noise(2, 4))


def test_keeps_what_would_become_much_larger() -> None:
    model = Net(lambda net, x: x + net.table.expand(2048, 1024).sum(), table=torch.ones(1024))
    assert_keeps(PASS, model, noise(2, 4))


def _large_bias(net: Any, x: Tensor) -> Tensor:
    steps = torch.arange(520)
    return x + net.table[:, (steps[:, None] - steps[None]).abs()].unsqueeze(0)


@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_computes_a_large_bias_of_scores_that_are_as_large(dynamic_batch: bool) -> None:
    model = Net(_large_bias, table=torch.ones(4, 520))
    graph, _ = apply(PASS, model, noise(2, 4, 520, 520), dynamic_batch=dynamic_batch)
    assert [node.target for node in graph.nodes if node.op == "call_function"] == [aten.add.Tensor]
    assert [buffer.shape for buffer in graph.module.buffers()] == [(1, 4, 520, 520)]


def _compared(net: Any, x: Tensor) -> Tensor:
    return x.masked_fill(net.table[:, None] != net.table[None], 0)


def test_computes_a_large_mask() -> None:
    graph, _ = apply(PASS, Net(_compared, table=torch.ones(1040)), noise(1, 1040, 1040))
    assert [node.target for node in graph.nodes if node.op == "call_function"] == [aten.masked_fill.Scalar]


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: x + net.table.expand(1, 1040, 1040),
        lambda net, x: x[:, :1, :1] + (net.table[:, None] * net.table).sum(),
        lambda net, x: (x, net.table[:, None] * net.table),
    ],
    ids=["a broadcast", "met by less", "returned"],
)
def test_keeps_what_the_runtime_would_not_compute_as_large(function: Callable[..., Any]) -> None:
    graph, _ = apply(PASS, Net(function, table=torch.ones(1040)), noise(1, 1040, 1040))
    assert sum(buffer.numel() for buffer in graph.module.buffers()) <= 2 * 1040


def test_keeps_what_depends_on_the_batch() -> None:
    model = Net(lambda net, x: torch.cat([net.token.expand(x.shape[0], 1, 4), x], 1), token=torch.ones(1, 1, 4))
    assert_keeps(PASS, model, noise(2, 3, 4), dynamic_batch=True)


def test_no_index_tables_are_left_of_a_large_levit() -> None:
    graph = fuse(load_model("levit_128s", input_size="1x3x384x384"), "onnx").after
    kept = [graph.constant(node) for node in graph.nodes if node.op == "get_attr"]
    assert max(value.numel() for value in kept if value is not None) == 4 * 576 * 576
    assert all(value.is_floating_point() for value in kept if value is not None)
