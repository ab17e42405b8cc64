from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from deploy_kit.graph import aten
from tests.fusion.support import Net, apply, assert_keeps, assert_rewrites, noise

PASS = "roll_to_slices"
ROLL = aten.roll.default


@pytest.mark.parametrize(
    ("function", "joined"),
    [
        (lambda x: x.roll(1, 1), 1),
        (lambda x: x.roll(-1, 1), 1),
        (lambda x: x.roll(-3, -2), 1),
        (lambda x: x.roll(9, 3), 1),
        (lambda x: x.roll(-9, 3), 1),
        (lambda x: x.roll((-3, -3), (1, 2)), 1),
        (lambda x: x.roll((-2, -2), (1, 2)), 2),
        (lambda x: x.roll((1, 2, 3), (0, -2, -1)), 3),
        (lambda x: x.roll((1, 2), (3, 3)), 2),
        (lambda x: x.roll(0, 1), 0),
        (lambda x: x.roll((6, -10), (1, 3)), 0),
        (lambda x: x[:, :1].roll(5, 1), 0),
        (lambda x: x[:, :0].roll(5, 1), 0),
        (lambda x: x.roll((-1, -2), (1, 2)).roll((1, 2), (1, 2)), 4),
    ],
)
def test_rewrites(function: Callable[[Tensor], Tensor], joined: int) -> None:
    model = Net(lambda net, x: (function(x) * x[:, :1]).cumsum(1).sum(1) + 1)
    graph, rewrites = apply(PASS, model, noise(2, 3, 4, 5))
    assert rewrites
    assert not list(graph.calls(ROLL))
    assert len(list(graph.calls(aten.cat.default))) == joined


def test_rewrites_beside_a_free_batch() -> None:
    model = Net(lambda net, x: x.roll((-1, 2), (1, 2)) * 2)
    graph = assert_rewrites(PASS, model, noise(2, 3, 4, 5), at=[""], gone=(ROLL,), dynamic_batch=True)
    x = noise(5, 3, 4, 5)
    assert graph.module(x).equal(model(x))


def test_keeps_a_roll_of_the_free_batch() -> None:
    assert_keeps(PASS, Net(lambda net, x: x.roll((1, 1), (0, 1)) * 2), noise(2, 3, 4), dynamic_batch=True)


def test_keeps_a_shift_that_depends_on_the_batch() -> None:
    assert_keeps(PASS, Net(lambda net, x: x.roll(x.shape[0], 1) * 2), noise(2, 3, 4), dynamic_batch=True)


def test_keeps_a_roll_of_all_elements_as_one_row() -> None:
    assert_keeps(PASS, Net(lambda net, x: x.roll(1) * 2), noise(2, 3, 4))
