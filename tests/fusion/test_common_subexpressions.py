from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy_kit.capture import capture
from deploy_kit.fusion import PASSES
from deploy_kit.graph import Graph, aten, set_argument
from tests.fusion.support import Net, apply, assert_keeps, noise

PASS = "common_subexpressions"


def net(function: Callable[..., Any]) -> Net:
    values = torch.arange(4.0) - 1
    model = Net(function, fc=nn.Linear(4, 4), norm=nn.BatchNorm1d(4))
    for name, value in {"a": values, "same": values.clone(), "other": values + 1, "cut": values[:1]}.items():
        model.register_buffer(name, value)
    model.register_buffer("ones", torch.ones(4))
    model.register_buffer("zeros", torch.zeros(1))
    model.register_buffer("nought", torch.zeros(1, dtype=torch.int64))
    model.register_buffer("row", values[None])
    model.register_buffer("column", values[:, None])
    return model


def calls(graph: Graph) -> int:
    return sum(node.op == "call_function" for node in graph.nodes)


@pytest.mark.parametrize(
    ("function", "left"),
    [
        (lambda net, x: x.sin() * x.sin(), 2),
        (lambda net, x: x.sin().cos() * x.sin().cos(), 3),
        (lambda net, x: x[:, None].flatten(1).sin() + x[:, None].flatten(1, -1).sin(), 4),
        (lambda net, x: x.softmax(-1) + x.softmax(-1, dtype=None), 2),
        (lambda net, x: x.chunk(2, -1)[0] * x.chunk(2, -1)[1] + x.chunk(2, -1)[0], 5),
        (lambda net, x: net.fc(x) * net.fc(x), 2),
        (lambda net, x: x * net.a.relu() + x * net.same.relu(), 3),
        (lambda net, x: x * net.a + x * net.same, 2),
        (lambda net, x: torch.cat([x, x], 1) + torch.cat([x, x], 1), 2),
        (lambda net, x: net.norm(x) * net.norm(x), 2),
        (lambda net, x: x.sin() + (x * 1).sin(), 2),
    ],
)
def test_computes_once(function: Callable[..., Tensor], left: int) -> None:
    graph, rewrites = apply(PASS, net(function), noise(2, 4))
    assert rewrites
    assert calls(graph) == left


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: x.sin() * x.cos(),
        lambda net, x: x.sin() * (x + 1).sin(),
        lambda net, x: x.softmax(-1) + x.softmax(0),
        lambda net, x: x.flatten(0).sum() + x.flatten(1).sum(),
        lambda net, x: (x > 0) * (x > 0.5) + x,
        lambda net, x: (lambda y: y // 1 + y / 1)(x.int()),
        lambda net, x: (lambda y: y.copysign(y * 0.0) + 2 * y.copysign(y * -0.0))(x.abs()),
        lambda net, x: net.fc(x) * F.linear(x, net.fc.weight),
        lambda net, x: x * net.a + x * net.other,
        lambda net, x: x * net.a[1:2] + x * net.a[2:3],
        lambda net, x: (lambda y: y * net.row + y * net.column)(x[:1, :1]),
        lambda net, x: x[:, :2] * x[:, 2:],
    ],
)
def test_keeps_what_differs(function: Callable[..., Any]) -> None:
    assert_keeps(PASS, net(function), noise(2, 4))


def test_constants_of_other_types_differ() -> None:
    def forward(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.long() * net.ones.long() * 3, x.long() * net.ones * 3

    def types(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.add(x.long(), 2), torch.add(x.long(), 2.0)

    def bits(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.long() * net.nought + 3, x.long() * net.zeros + 3

    for function in (forward, types, bits):
        graph, _ = apply(PASS, net(function), noise(2, 4) * 5)
        first, second = graph.module(noise(2, 4) * 5)
        assert first.dtype != second.dtype


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: F.dropout(x.sin(), 0.5, training=False),
        lambda net, x: x.sin() * 1,
        lambda net, x: 1.0 * x.sin(),
        lambda net, x: x.sin() + 0,
        lambda net, x: 0 + x.sin(),
        lambda net, x: x.sin() - 0.0,
        lambda net, x: x.sin() / 1,
        lambda net, x: x.sin() * net.ones,
        lambda net, x: net.ones * x.sin(),
        lambda net, x: x.sin() + net.zeros,
        lambda net, x: torch.add(x.sin(), net.zeros, alpha=3),
        lambda net, x: x.sin().detach(),
        lambda net, x: x.sin().to(torch.float64),
        lambda net, x: x.sin().double(),
        lambda net, x: x.sin().type_as(x),
        lambda net, x: x.sin().to("cpu"),
        lambda net, x: x.sin().expand(x.shape[0], 4),
        lambda net, x: x.sin().expand_as(x),
        lambda net, x: x.sin()[:, 0:4],
        lambda net, x: x.sin()[:, -4:9],
        lambda net, x: x.sin()[..., ::1],
        lambda net, x: F.pad(x.sin(), (0, 0, 0, 0)),
        lambda net, x: F.pad(x.sin()[None], (0, 0), mode="reflect")[0],
    ],
)
@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_drops_what_changes_nothing(function: Callable[..., Tensor], dynamic_batch: bool) -> None:
    model = net(lambda net, x: function(net, x).cos())
    graph, _ = apply(PASS, model, noise(2, 4), dynamic_batch=dynamic_batch)
    left = [node.target for node in graph.nodes if node.op == "call_function"]
    assert set(left) <= {aten.sin.default, aten.cos.default, aten.unsqueeze.default, aten.select.int}
    assert {aten.sin.default, aten.cos.default} <= set(left)


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: x * 2,
        lambda net, x: 1 - x,
        lambda net, x: 2 / x,
        lambda net, x: x + 1,
        lambda net, x: x * net.a,
        lambda net, x: x + net.a * 0.5,
        lambda net, x: x[:1] * net.ones[:, None],
        lambda net, x: net.zeros + x[0, 0],
        lambda net, x: torch.add(net.zeros, x, alpha=2),
        lambda net, x: torch.sub(net.zeros, x),
        lambda net, x: x.long() / 1,
        lambda net, x: x.long() * 1.0,
        lambda net, x: x.to(torch.float32),
        lambda net, x: x.float().to(torch.float64),
        lambda net, x: x[:, :1].expand(2, 4),
        lambda net, x: x.expand(1, 2, 4),
        lambda net, x: x[:, 1:],
        lambda net, x: x[:, ::2],
        lambda net, x: F.pad(x, (0, 1)),
        lambda net, x: F.pad(x, (1, -1)),
        lambda net, x: torch.div(x, 1, rounding_mode="floor"),
        lambda net, x: x.contiguous(memory_format=torch.contiguous_format),
    ],
)
def test_keeps_what_changes_something(function: Callable[..., Tensor]) -> None:
    assert_keeps(PASS, net(lambda net, x: function(net, x.sin() * 3).cos()), noise(2, 4))


def test_keeps_operators_that_are_not_its_own() -> None:
    """Nobody knows what another library's operator does besides."""

    @torch.library.custom_op("deploykit_tests::count", mutates_args=())
    def count(x: Tensor) -> Tensor:
        return x + 1

    count.register_fake(torch.empty_like)
    assert_keeps(PASS, Net(lambda net, x: count(x) * count(x)), noise(2, 4))


def test_keeps_a_constant_beside_the_free_size() -> None:
    model = net(lambda net, x: x + (net.zeros + x.shape[0]) * (net.ones * x.shape[0]))
    assert_keeps(PASS, model, noise(2, 4), dynamic_batch=True)


def _train(graph: Graph) -> None:
    for node in graph.calls(aten.batch_norm.default):
        set_argument(node, "training", True)


def test_keeps_norms_in_training_mode() -> None:
    assert_keeps(PASS, net(lambda net, x: net.norm(x) * net.norm(x)), noise(4, 4), edit=_train)


def test_keeps_dropout_in_training_mode_and_random_numbers() -> None:
    model = Net(lambda net, x: F.dropout(x, 0.5, True) + torch.rand_like(x) * torch.rand_like(x))
    graph = capture(model, (noise(2, 4),))
    assert PASSES[PASS].run(graph) == []


def test_keeps_a_graph_that_writes_over_its_tensors() -> None:
    def write(graph: Graph) -> None:
        next(graph.calls(aten.relu.default)).target = aten.relu_.default

    model = Net(lambda net, x: x.sin().relu() * x.sin())
    assert_keeps(PASS, model, noise(2, 4), edit=write)


def test_merges_sizes_and_views_of_a_free_batch() -> None:
    model = Net(lambda net, x: x.reshape(2 * x.shape[0], 2).sin() + x.reshape(2 * x.shape[0], 2).cos())
    graph, _ = apply(PASS, model, noise(3, 4), dynamic_batch=True)
    assert len(list(graph.calls(aten.reshape.default))) == 1
    assert graph.module(noise(7, 4)).shape == (14, 2)


def test_a_free_batch_is_not_the_size_that_it_was_captured_with() -> None:
    model = Net(lambda net, x: x.sum(0, keepdim=True).expand(x.shape[0], 4) + x)
    assert_keeps(PASS, model, noise(2, 4), dynamic_batch=True)


def test_outputs_are_not_inputs_or_constants_as_they_are() -> None:
    def forward(net: Any, x: Tensor) -> tuple[Tensor, ...]:
        y, z = x * 1, net.a * 1
        return y, z, y.sin(), (z + x).sin()

    graph, rewrites = apply(PASS, net(forward), noise(2, 4))
    outputs = graph.module.graph.output_node().all_input_nodes
    assert all(output.op == "call_function" for output in outputs)
    assert next(node.args[0].op for node in graph.calls(aten.sin.default)) == "placeholder"
    assert len(rewrites) == 2
    assert PASSES[PASS].run(graph) == []


def test_an_output_may_be_what_was_computed_before() -> None:
    graph, _ = apply(PASS, Net(lambda net, x: (x.sin().cos(), x.sin(), x.sin() * 1)), noise(2, 4))
    assert calls(graph) == 2
