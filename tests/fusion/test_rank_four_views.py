from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from deploy_kit.fusion.rank_four_views import sort_steps
from deploy_kit.graph import Graph, aten, operand, shape
from tests.fusion.support import Net, apply, assert_keeps, noise

PASS = "rank_four_views"
PERMUTATIONS = (aten.permute.default, aten.transpose.int)


def between_others(function: Callable[[Tensor], Tensor]) -> Net:
    return Net(lambda net, x: function(x.relu()) * 2)


def permutations(graph: Graph) -> int:
    """How many permutations a graph has, of which none takes more than four axes; nor does anything else.

    Nothing is viewed in the shape that it has.
    """
    for view in graph.calls(aten.reshape.default):
        assert shape(view) != shape(operand(view))
    assert all(node.meta["val"].dim() <= 4 for node in graph.nodes if isinstance(node.meta.get("val"), Tensor))
    return len(list(graph.calls(*PERMUTATIONS)))


def windows(x: Tensor) -> Tensor:
    """Official Swin: windows of 2 by 3."""
    b, h, w, c = x.shape
    return x.view(b, h // 2, 2, w // 3, 3, c).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 2, 3, c)


def whole(x: Tensor, batch: int, height: int, width: int) -> Tensor:
    """Official Swin: windows of 2 by 3 back in their places."""
    x = x.view(batch, height // 2, width // 3, 2, 3, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(batch, height, width, -1)


def merged_patches(x: Tensor) -> Tensor:
    """timm's Swin: four neighbours in one."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 4, 2, 5).flatten(3)


def shuffled_channels(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, c, h, w)


def unshuffled_pixels(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 3, 3).permute(0, 1, 3, 5, 2, 4).reshape(b, 6 * c, h // 2, w // 3)


def patches(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.reshape(b, c, h // 2, 2, w // 3, 3).permute(0, 2, 4, 3, 5, 1).reshape(b, -1, 6 * c)


def grid(x: Tensor) -> Tensor:
    """MaxViT: every second by every third."""
    b, h, w, c = x.shape
    return x.view(b, 2, h // 2, 3, w // 3, c).permute(0, 2, 4, 1, 3, 5).contiguous().view(-1, 2, 3, c)


CASES = [
    (windows, 1),
    (lambda x: whole(x.reshape(8, 2, 3, 4), 2, 4, 6), 1),
    (lambda x: windows(x[:1]), 1),
    (merged_patches, 1),
    (shuffled_channels, 1),
    (lambda x: unshuffled_pixels(x.permute(0, 3, 1, 2)), 3),
    (lambda x: patches(x.permute(0, 3, 1, 2)), 3),
    (grid, 2),
    (lambda x: x.unsqueeze(1).unsqueeze(2).permute(0, 1, 4, 2, 3, 5).flatten(1), 1),
    (lambda x: x.view(2, 2, 2, 6, 4).flatten(1, 2), 0),
    (lambda x: x.view(2, 2, 2, 6, 4).transpose(1, 2).transpose(2, 1).flatten(1), 0),
    (lambda x: x.view(2, 2, 2, 6, 4).permute(4, 3, 2, 1, 0).reshape(-1), 2),
]


@pytest.mark.parametrize(("function", "expected"), CASES)
def test_takes_four_axes_at_a_time(function: Callable[[Tensor], Tensor], expected: int) -> None:
    graph, rewrites = apply(PASS, between_others(function), noise(2, 4, 6, 4))
    assert len(rewrites) == 1
    assert permutations(graph) == expected


@pytest.mark.parametrize("function", [windows, merged_patches, shuffled_channels, grid])
def test_takes_four_axes_at_a_time_of_a_free_batch(function: Callable[[Tensor], Tensor]) -> None:
    model = between_others(function)
    graph, rewrites = apply(PASS, model, noise(2, 4, 6, 4), dynamic_batch=True)
    assert len(rewrites) == 1
    permutations(graph)
    for batch in (1, 3):
        x = noise(batch, 4, 6, 4)
        assert graph.module(x).equal(model(x))


def test_puts_windows_back_in_a_free_batch() -> None:
    model = between_others(lambda x: whole(windows(x).sin(), x.shape[0], 4, 6))
    graph, rewrites = apply(PASS, model, noise(2, 4, 6, 4), dynamic_batch=True)
    assert len(rewrites) == 2
    assert permutations(graph) == 2
    x = noise(5, 4, 6, 4)
    assert graph.module(x).equal(model(x))


@pytest.mark.parametrize("order", list(itertools.permutations(range(5)))[::7])
def test_any_order_of_five_axes(order: tuple[int, ...]) -> None:
    model = between_others(lambda x: x.view(2, 4, 6, 2, 2).permute(order).flatten(1))
    graph, _ = apply(PASS, model, noise(2, 4, 6, 4))
    permutations(graph)


@pytest.mark.parametrize("count", range(1, 7))
def test_steps_sort_into_the_order_that_was_asked_for(count: int) -> None:
    for order in list(itertools.permutations(range(count)))[:: 1 + count * count]:
        now = tuple(range(count))
        steps = sort_steps(order)
        assert steps is not None
        assert len(steps) <= 3
        for groups, moved in steps:
            assert len(groups) <= 4
            assert tuple(block for group in groups for block in group) == now
            now = tuple(block for group in moved for block in groups[group])
        assert now == order


def test_more_blocks_than_are_searched_are_left() -> None:
    assert sort_steps((7, 0, 6, 1, 5, 2, 4, 3)) is None


def _elsewhere(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    y = x.view(2, 2, 2, 6, 4).permute(0, 2, 1, 3, 4)
    return y.flatten(1) + 1, y


def test_keeps_what_is_used_in_between() -> None:
    assert_keeps(PASS, Net(_elsewhere), noise(2, 4, 6, 4))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.permute(0, 3, 1, 2).flatten(2).transpose(1, 2),
        lambda x: x.view(2, 2, 2, 6, 4).permute(0, 2, 1, 3, 4),
        lambda x: x.view(2, 2, 2, 6, 4).relu().flatten(1),
        lambda x: x.view(2, 2, 2, 6, 4).permute(0, 2, 1, 3, 4)[:, 1],
        lambda x: x.view(2, 2, 2, 6, 4).expand(2, 2, 2, 6, 4).flatten(1),
    ],
)
def test_keeps(function: Callable[[Tensor], Tensor]) -> None:
    assert_keeps(PASS, between_others(function), noise(2, 4, 6, 4))


def test_keeps_axes_that_are_cut_where_they_do_not_part() -> None:
    model = between_others(
        lambda x: x.view(2, 4, 2, 3, 4).permute(0, 2, 1, 3, 4).reshape(2, 3, 8, 2, 2).transpose(0, 1)[0]
    )
    assert_keeps(PASS, model, noise(2, 4, 6, 4))
    model = between_others(
        lambda x: x.view(2, 4, 2, 3, 4).permute(0, 2, 1, 3, 4).reshape(2, 3, 8, 2, 2).transpose(1, 2).flatten(1)
    )
    assert_keeps(PASS, model, noise(2, 4, 6, 4))


def test_keeps_more_axes_than_are_searched() -> None:
    def forward(x: Tensor) -> Tensor:
        return x.view(2, 2, 2, 2, 2, 2, 2, 2).permute(7, 0, 6, 1, 5, 2, 4, 3).reshape(-1)

    assert_keeps(PASS, between_others(forward), noise(4, 4, 4, 4))


def test_keeps_a_graph_that_writes_over_its_tensors() -> None:
    def write(graph: Graph) -> None:
        next(graph.calls(aten.relu.default)).target = aten.relu_.default

    model = Net(lambda net, x: windows(x * 2).relu())
    assert_keeps(PASS, model, noise(2, 4, 6, 4), edit=write)
