from __future__ import annotations

import pytest
from torch import nn

from deploy_kit.graph import aten
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "matmul_to_bmm"
MODEL = Net(lambda net, x, y: net.act(x @ y), act=nn.ReLU())


@pytest.mark.parametrize("stacks", [(3,), (2, 3), (2, 1, 3), (1, 1)], ids=str)
def test_counts_stacks_by_one_number(stacks: tuple[int, ...]) -> None:
    x, y = noise(*stacks, 4, 5), noise(*stacks, 5, 6)
    graph = assert_rewrites(PASS, MODEL, x, y, at=[""], gone=(aten.matmul.default,))
    assert len(list(graph.calls(aten.bmm.default))) == 1


@pytest.mark.parametrize(
    ("a", "b"),
    [((4, 5), (5, 6)), ((3, 4, 5), (5, 6)), ((3, 4, 5), (1, 5, 6)), ((2, 3, 4, 5), (3, 5, 6)), ((3, 4, 5), (5,))],
    ids=str,
)
def test_keeps(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    assert_keeps(PASS, MODEL, noise(*a), noise(*b))


def test_keeps_a_dynamic_batch() -> None:
    assert_keeps(PASS, MODEL, noise(2, 3, 4, 5), noise(2, 3, 5, 6), dynamic_batch=True)
