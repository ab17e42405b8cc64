from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from deploy_kit.fusion import PASSES
from deploy_kit.fusion.axes import COPIES, VIEWS
from deploy_kit.graph import Graph, aten, is_call
from tests.fusion.support import Net, apply, assert_keeps, noise

PASS = "compose_views"
PERMUTATIONS = (aten.permute.default, aten.transpose.int, aten.t.default)


def left(graph: Graph) -> tuple[int, int]:
    """How many permutations and how many views a graph has."""
    return len(list(graph.calls(*PERMUTATIONS))), len(list(graph.calls(*VIEWS, *COPIES)))


def between_others(function: Callable[[Tensor], Tensor]) -> Net:
    return Net(lambda net, x: function(x.relu()) * 2)


@pytest.mark.parametrize(
    ("function", "permutations", "views"),
    [
        (lambda x: x.reshape(6, 20).reshape(2, 60), 0, 1),
        (lambda x: x.flatten(1).unflatten(1, (3, 20)).flatten(0, 1), 0, 1),
        (lambda x: x.unsqueeze(1).unsqueeze(3).squeeze(1), 0, 1),
        (lambda x: x.unsqueeze(1).unsqueeze(0), 0, 1),
        (lambda x: x[:, :, :1].squeeze(2).unsqueeze(-1), 0, 1),
        (lambda x: x.flatten(1).view(2, 3, 4, 5), 0, 0),
        (lambda x: x.unsqueeze(1).squeeze(1), 0, 0),
        (lambda x: x.unsqueeze(-1).unsqueeze(0).squeeze(), 0, 0),
        (lambda x: x.unsqueeze(1).unsqueeze(1).squeeze((1, 2)), 0, 0),
        (lambda x: x.reshape(2, 3, 4, 5), 0, 0),
        (lambda x: x.squeeze(1), 0, 0),
        (lambda x: x.flatten(1, 1), 0, 0),
    ],
)
def test_merges_views(function: Callable[[Tensor], Tensor], permutations: int, views: int) -> None:
    graph, rewrites = apply(PASS, between_others(function), noise(2, 3, 4, 5))
    assert left(graph) == (permutations, views)
    assert len(rewrites) == 1


@pytest.mark.parametrize(
    ("function", "permutations", "views"),
    [
        (lambda x: x.unsqueeze(1).permute(0, 2, 1, 3, 4), 0, 1),
        (lambda x: x.unsqueeze(1).transpose(1, 0), 0, 1),
        (lambda x: x.flatten().unsqueeze(0).t(), 0, 1),
        (lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2), 0, 0),
        (lambda x: x.permute(0, 2, 3, 1).permute(0, 1, 3, 2), 1, 0),
        (lambda x: x.permute(0, 2, 3, 1).permute(0, 2, 1, 3).contiguous().permute(3, 0, 1, 2), 1, 0),
        (lambda x: x.permute(0, 2, 3, 1).unsqueeze(1).permute(0, 1, 4, 2, 3), 0, 1),
        (lambda x: x.permute(0, 2, 3, 1).unsqueeze(1).permute(2, 0, 1, 4, 3), 1, 1),
        (lambda x: x.permute(0, 2, 3, 1).flatten(1, 2).transpose(1, 2), 0, 1),
        (lambda x: x.flatten(2).transpose(1, 2).unflatten(1, (4, 5)).permute(0, 3, 1, 2), 0, 0),
        (lambda x: x.flatten(2).transpose(1, 2).unflatten(1, (2, 10)).permute(0, 3, 1, 2), 0, 1),
        (lambda x: x.flatten(2).transpose(1, 2).reshape(2, 4, 5, 3).permute(0, 2, 1, 3), 1, 0),
        (lambda x: x.permute(0, 2, 3, 1).contiguous().flatten(1, 2), 1, 1),
        (lambda x: x.reshape(6, 4, 5).transpose(1, 2).reshape(2, 3, 5, 4), 1, 0),
        (lambda x: x.flatten().unsqueeze(1).t().reshape(3, 2, 20).transpose(0, 1), 1, 1),
    ],
)
def test_merges_permutations_with_views(function: Callable[[Tensor], Tensor], permutations: int, views: int) -> None:
    graph, rewrites = apply(PASS, between_others(function), noise(2, 3, 4, 5))
    assert rewrites
    assert left(graph) == (permutations, views)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: x.reshape(x.shape[0] * 3, 20).reshape(x.shape[0], 60), (0, 1)),
        (lambda x: x.flatten(0, 1).reshape(x.shape[0], 3, 4, 5), (0, 0)),
        (lambda x: x.flatten(2).transpose(1, 2).reshape(x.shape[0], 4, 5, 3).permute(0, 3, 1, 2), (0, 0)),
        (lambda x: x.flatten(0, 1).transpose(1, 2).reshape(x.shape[0], 3, 5, 4), (1, 0)),
        (lambda x: x.flatten(0, 2).unflatten(0, (-1, 12)).transpose(1, 2).flatten(0, 1).unflatten(0, (-1, 5)), (1, 1)),
        (lambda x: x.flatten(1).unsqueeze(0).transpose(1, 2), (1, 1)),
    ],
)
def test_merges_with_a_free_batch(function: Callable[[Tensor], Tensor], shape: tuple[int, int]) -> None:
    model = between_others(function)
    graph, rewrites = apply(PASS, model, noise(2, 3, 4, 5), dynamic_batch=True)
    assert rewrites
    assert left(graph) == shape
    assert not all(isinstance(size, int) for size in next(graph.calls(aten.mul.Tensor)).meta["val"].shape)
    for batch in (1, 2, 7):
        x = noise(batch, 3, 4, 5)
        assert graph.module(x).equal(model(x))


def test_views_that_are_used_elsewhere_stay_for_that() -> None:
    def forward(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.relu().flatten(1)
        return y, y.reshape(6, 20) + 1

    graph, _ = apply(PASS, Net(forward), noise(2, 3, 4, 5))
    relu = next(graph.calls(aten.relu.default))
    assert [node.args[0] for node in graph.calls(*VIEWS)] == [relu, relu]


def test_a_permutation_that_is_used_elsewhere_is_not_made_twice() -> None:
    def forward(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.permute(0, 2, 3, 1)
        return y + 1, y.reshape(2, 4, 15).reshape(2, 60)

    graph, rewrites = apply(PASS, Net(forward), noise(2, 3, 4, 5))
    assert len(rewrites) == 1
    assert left(graph) == (1, 1)


def test_finds_nothing_more_when_it_runs_again() -> None:
    def forward(net: Any, x: Tensor) -> tuple[Tensor, ...]:
        y = x.permute(0, 2, 3, 1).flatten(1, 2)
        return y.transpose(1, 2), y.unsqueeze(1).squeeze(1), y.transpose(0, 1).unsqueeze(0)

    graph, _ = apply(PASS, Net(forward), noise(2, 3, 4, 5))
    assert PASSES[PASS].run(graph) == []


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.flatten(1),
        lambda x: x.permute(0, 2, 3, 1),
        lambda x: x.transpose(0, 3),
        lambda x: x.flatten(2).transpose(1, 2),
        lambda x: x.transpose(1, 2).flatten(1),
        lambda x: x.unsqueeze(1).permute(2, 0, 1, 3, 4),
        lambda x: x.permute(0, 2, 3, 1).relu().permute(0, 3, 1, 2),
        lambda x: x.flatten(1).relu().reshape(2, 3, 4, 5),
        lambda x: x.reshape(2, 3, 2, 2, 5).permute(0, 2, 1, 4, 3),
        lambda x: x.reshape(6, 2, 2, 5).permute(2, 0, 3, 1).reshape(3, 4, 5, 2).permute(3, 1, 0, 2),
        lambda x: x.contiguous(memory_format=torch.channels_last).flatten(1),
        lambda x: x.transpose(1, 2).contiguous() + 1,
        lambda x: x.expand(2, 3, 4, 5).flatten(1)[:, :7].unsqueeze(0),
    ],
)
def test_keeps(function: Callable[[Tensor], Tensor]) -> None:
    assert_keeps(PASS, between_others(function), noise(2, 3, 4, 5))


def test_keeps_what_takes_more_axes_at_once_than_there_are() -> None:
    """Three swaps in four axes are one permutation of six, which many runtimes refuse."""

    def forward(x: Tensor) -> Tensor:
        y = x.reshape(2, 3, 2, 10).permute(0, 2, 1, 3).reshape(4, 3, 2, 5).permute(0, 2, 1, 3)
        return y.reshape(8, 3, 5, 1).permute(2, 1, 0, 3).reshape(5, 6, 2, 2).permute(1, 0, 3, 2)

    graph, _ = apply(PASS, between_others(forward), noise(2, 3, 4, 5))
    assert all(len(node.meta["val"].shape) <= 4 for node in graph.nodes if is_call(node, *VIEWS, *PERMUTATIONS))


def test_keeps_two_free_sizes() -> None:
    """One -1 cannot stand for both."""
    model = between_others(lambda x: (x.flatten(1) @ x.flatten(1).transpose(0, 1)).unsqueeze(0).unsqueeze(0))
    assert_keeps(PASS, model, noise(2, 3, 4, 5), dynamic_batch=True)


def test_keeps_an_empty_tensor() -> None:
    model = Net(lambda net, x: torch.cat([x.flatten(1), x[:, :0].flatten(1).reshape(2, 0)], 1))
    assert_keeps(PASS, model, noise(2, 3, 4, 5))


def test_keeps_a_graph_that_writes_over_its_tensors() -> None:
    def write(graph: Graph) -> None:
        node = next(graph.calls(aten.relu.default))
        node.target = aten.relu_.default

    model = Net(lambda net, x: (x * 1.5).flatten(1).reshape(2, 3, 20).relu())
    assert_keeps(PASS, model, noise(2, 3, 4, 5), edit=write)


def test_an_output_is_not_an_input_as_it_is() -> None:
    """CoreML refuses that."""
    assert_keeps(PASS, Net(lambda net, x: x.unsqueeze(0).squeeze(0)), noise(2, 3, 4, 5))
    graph, _ = apply(PASS, Net(lambda net, x: x.sin().unsqueeze(0).squeeze(0)), noise(2, 3, 4, 5))
    assert left(graph) == (0, 0)
