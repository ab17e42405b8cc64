from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from deploy_kit.capture import capture
from deploy_kit.fusion import PASSES
from deploy_kit.graph import Graph, aten, rank
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "constants_between_views"
SUM = aten.add.Tensor


def windows(op: Callable[[Tensor, Tensor], Tensor] = torch.add) -> Net:
    """Attention scores of two images of four windows, with a mask a window, as Swin writes it."""

    def forward(net: Net, x: Tensor) -> Tensor:
        scores = op(x.reshape(2, 4, 3, 5, 5), net.mask)
        return scores.reshape(-1, 3, 5, 5).softmax(-1)

    return Net(forward, mask=torch.ones(1, 4, 1, 5, 5))


def widest(graph: Graph) -> int:
    return max(rank(node) for node in graph.nodes if node.op == "call_function")


@pytest.mark.parametrize(
    "op",
    [
        torch.add,
        torch.sub,
        torch.mul,
        torch.div,
        lambda x, c: c + x,
        lambda x, c: c - x,
        lambda x, c: c / x,
        lambda x, c: torch.add(x, c, alpha=3),
        lambda x, c: torch.sub(c, x, alpha=3),
    ],
)
def test_the_mask_of_windows_is_added_in_four_axes(op: Callable[[Tensor, Tensor], Tensor]) -> None:
    graph = assert_rewrites(PASS, windows(op), noise(8, 3, 5, 5), at=[""])
    assert widest(graph) == 4


def test_the_mask_itself_has_five_axes_without_the_pass() -> None:
    assert widest(capture(windows(), (noise(8, 3, 5, 5).float(),))) == 5


def test_an_axis_along_which_the_constant_is_the_same_stays_one() -> None:
    model = Net(lambda net, x: (x.reshape(4, 3, 5) + net.c).reshape(12, 5).relu(), c=noise(3, 1))
    graph = assert_rewrites(PASS, model, noise(12, 5), at=[""])
    (node,) = graph.calls(SUM)
    assert tuple(node.args[1].meta["val"].shape) == (12, 1)  # type: ignore[union-attr]  # a node


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: (x.reshape(4, 3, 5) + net.c).reshape(4, 15).relu(),
        lambda net, x: (lambda y: (y + net.c).reshape(12, 5).relu() + y.mean())(x.reshape(4, 3, 5)),
        lambda net, x: (x.reshape(4, 3, 5) + x.reshape(4, 3, 5).sin()).reshape(12, 5).relu(),
        lambda net, x: (lambda y: y.reshape(12, 5) * y.mean())(x.reshape(4, 3, 5) + net.c),
        lambda net, x: (x.reshape(4, 3, 5) + net.c).relu().reshape(12, 5),
        lambda net, x: (x.reshape(4, 3, 5).transpose(1, 2) + net.d).reshape(12, 5).relu(),
        lambda net, x: (x.reshape(4, 3, 5)[:, :1] + net.c).reshape(12, 5).relu(),
        lambda net, x: (x[:4].reshape(4, 1, 5) + net.c).reshape(12, 5).relu(),
    ],
)
def test_keeps_everything_else(forward: Callable[[Net, Tensor], Tensor]) -> None:
    assert_keeps(PASS, Net(forward, c=noise(3, 1), d=noise(5, 1)), noise(12, 5))


def test_keeps_a_free_batch() -> None:
    model = Net(lambda net, x: (x.reshape(-1, 3, 5) + net.c).reshape(-1, 15).relu(), c=noise(3, 1))
    assert_keeps(PASS, model, noise(4, 15), dynamic_batch=True)


def test_a_constant_without_axes_does_not_decide_on_the_dtype() -> None:
    model = Net(lambda net, x: (x.reshape(4, 3, 5) * net.k).reshape(12, 5).relu(), k=torch.ones(()))
    model.k.data = model.k.data.double()
    graph = capture(model, (noise(12, 5).float(),))
    PASSES[PASS].run(graph)
    assert graph.module(noise(12, 5).float()).dtype == torch.float32
