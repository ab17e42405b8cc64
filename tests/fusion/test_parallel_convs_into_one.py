from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy_kit.fusion import PASSES
from deploy_kit.graph import Graph, aten, set_argument
from tests.fusion.support import Net, apply, assert_keeps, assert_rewrites, noise

PASS = "parallel_convs_into_one"
ADD, BN = aten.add.Tensor, aten.batch_norm.default
CONVS = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.linear.default)


def total(*branches: nn.Module) -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.b0(x)
        for index in range(1, len(branches)):
            y = y + getattr(net, f"b{index}")(x)
        return y

    return Net(forward, **{f"b{index}": branch for index, branch in enumerate(branches)})


def count(graph: Graph) -> int:
    return len(list(graph.calls(*CONVS)))


@pytest.mark.parametrize(
    ("branches", "shape"),
    [
        ((nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(4, 6, 1)), (2, 4, 5, 6)),
        ((nn.Conv2d(4, 6, 1, bias=False), nn.Conv2d(4, 6, 3, padding=1)), (2, 4, 5, 6)),
        ((nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1, bias=False)), (2, 4, 5, 6)),
        ((nn.Conv2d(4, 6, 3, padding=1, stride=2), nn.Conv2d(4, 6, 1, stride=2)), (2, 4, 5, 6)),
        ((nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.Conv2d(4, 6, 1, groups=2)), (2, 4, 5, 6)),
        ((nn.Conv2d(4, 4, 7, padding=3, groups=4), nn.Conv2d(4, 4, 3, padding=1, groups=4)), (2, 4, 5, 6)),
        ((nn.Conv2d(4, 6, 5, padding=1), nn.Conv2d(4, 6, 3)), (2, 4, 5, 6)),
        ((nn.Conv2d(4, 6, (3, 5), padding=(2, 3)), nn.Conv2d(4, 6, (1, 3), padding=(1, 2))), (2, 4, 5, 6)),
        ((nn.Conv2d(4, 6, (3, 1), padding=(1, 0)), nn.Conv2d(4, 6, 1)), (2, 4, 5, 6)),
        ((nn.Conv2d(4, 6, 3, padding=2, dilation=2), nn.Conv2d(4, 6, 1)), (2, 4, 5, 6)),
        ((nn.Conv2d(4, 6, 1), nn.Conv2d(4, 6, 5, padding="same", dilation=2)), (2, 4, 9, 9)),
        ((nn.Conv2d(4, 6, 1, dilation=3), nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(4, 6, 1)), (2, 4, 5, 6)),
        ((nn.Conv1d(4, 6, 3, padding=1), nn.Conv1d(4, 6, 1)), (2, 4, 5)),
        ((nn.Conv3d(4, 6, 3, padding=1), nn.Conv3d(4, 6, (1, 3, 1), padding=(0, 1, 0))), (2, 4, 3, 4, 5)),
        ((nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(4, 6, 1)), (4, 5, 6)),
        ((nn.Conv2d(3, 6, 3, (2, 1), 1), nn.Conv2d(3, 6, 1, (2, 1))), (2, 3, 5, 6)),
        ((nn.Linear(4, 6), nn.Linear(4, 6, bias=False), nn.Linear(4, 6)), (2, 5, 4)),
    ],
    ids=str,
)
def test_adds_up(branches: tuple[nn.Module, ...], shape: tuple[int, ...]) -> None:
    graph = assert_rewrites(PASS, total(*branches), noise(*shape), at=["b0"], gone=(ADD,))
    assert count(graph) == 1


@pytest.mark.parametrize(
    "gain",
    [
        nn.Identity(),
        nn.BatchNorm2d(4),
        Net(lambda net, x: x * net.c, c=torch.ones(4, 1, 1)),
        Net(lambda net, x: 0.5 - x),
        nn.Conv2d(4, 4, 1, groups=4),
    ],
    ids=["identity", "norm", "product", "difference", "depthwise"],
)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_adds_a_residual_to_the_branches(gain: nn.Module, groups: int) -> None:
    """RepVGG's and MobileOne's blocks, whose norms after convolutions are folded before."""
    wide, narrow = (nn.Conv2d(4, 4, side, padding=side // 2, groups=groups) for side in (3, 1))
    graph = assert_rewrites(PASS, total(wide, narrow, gain), noise(2, 4, 5, 6), at=["b0"], gone=(ADD, BN))
    assert count(graph) == 1


def test_folds_a_whole_repvgg_block_with_norms() -> None:
    def branch(side: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(4, 4, side, padding=side // 2, bias=False), nn.BatchNorm2d(4))

    def fold_norms(graph: Graph) -> None:
        PASSES["affine_into_neighbours"].run(graph)

    model = nn.Sequential(total(branch(3), branch(1), nn.BatchNorm2d(4)), nn.ReLU())
    assert count(assert_rewrites(PASS, model, noise(2, 4, 5, 6), at=["0.b0.0"], gone=(ADD, BN), edit=fold_norms)) == 1


@pytest.mark.parametrize(
    ("conv", "shape"),
    [
        (nn.Conv2d(4, 4, 3, padding=1), (2, 4, 5, 6)),
        (nn.Conv2d(6, 6, 3, padding=1, groups=2), (2, 6, 5, 6)),
        (nn.Conv2d(4, 4, 3, padding=2, dilation=2), (2, 4, 5, 6)),
        (nn.Conv1d(4, 4, 1), (2, 4, 5)),
        (nn.Linear(4, 4), (2, 3, 4)),
    ],
    ids=str,
)
@pytest.mark.parametrize("add", [lambda x, y: x + y, lambda x, y: y + x, lambda x, y: y.add_(x)])
def test_adds_a_residual_to_one_convolution(
    conv: nn.Module, shape: tuple[int, ...], add: Callable[[Tensor, Tensor], Tensor]
) -> None:
    model = Net(lambda net, x: add(x, net.conv(x)), conv=conv)
    assert_rewrites(PASS, model, noise(*shape), at=["conv"], gone=(ADD,))


def _longer_sum(net: Any, x: Tensor, y: Tensor) -> Tensor:
    return (net.a(x) + y) + (net.b(x) + (net.c(y) + x)) + net.d(y)


def test_adds_up_what_belongs_together_in_a_longer_sum() -> None:
    sides = {"a": 3, "b": 1, "c": 3, "d": 1}
    model = Net(_longer_sum, **{name: nn.Conv2d(4, 4, side, padding=side // 2) for name, side in sides.items()})
    graph, rewrites = apply(PASS, model, noise(2, 4, 5, 6), noise(2, 4, 5, 6, seed=2))
    assert sorted(rewrite.module for rewrite in rewrites) in (["a", "c"], ["a", "d"], ["b", "c"], ["b", "d"])
    assert count(graph) == 2
    assert len(list(graph.calls(ADD))) == 1


def test_adds_a_depthwise_branch_once() -> None:
    """The 1x1 is a gain of the dense kernel, and could be in the middle of the depthwise one."""
    dense, wide = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=4)
    graph = assert_rewrites(PASS, total(dense, wide, nn.Conv2d(4, 4, 1, groups=4)), noise(2, 4, 5, 6), at=["b0"])
    assert count(graph) == 2


def test_adds_a_residual_twice() -> None:
    model = Net(lambda net, x: x + (x + net.conv(x)), conv=nn.Conv2d(4, 4, 3, padding=1))
    assert_rewrites(PASS, model, noise(2, 4, 5, 6), at=["conv"], gone=(ADD,))


def test_adds_up_with_a_dynamic_batch() -> None:
    model = total(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Identity())
    graph = assert_rewrites(PASS, model, noise(2, 4, 5, 6), at=["b0"], gone=(ADD,), dynamic_batch=True)
    assert graph.module(noise(3, 4, 5, 6)).shape == (3, 4, 5, 6)


def test_adds_up_only_the_calls_of_shared_kernels_that_are_added() -> None:
    model = Net(
        lambda net, x: net.a((net.a(x) + net.b(x)).relu()), a=nn.Conv2d(4, 4, 3, padding=1), b=nn.Conv2d(4, 4, 1)
    )
    assert count(assert_rewrites(PASS, model, noise(2, 4, 5, 6), at=["a"], gone=(ADD,))) == 2


@pytest.mark.parametrize(
    "branches",
    [
        (nn.Conv2d(4, 4, (3, 1), padding=(1, 0)), nn.Conv2d(4, 4, (1, 3), padding=(0, 1))),
        (nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1, groups=2)),
        (nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 5, padding=4, dilation=2)),
        (nn.Conv2d(4, 4, 2, padding="same"), nn.Conv2d(4, 4, 1)),
        (nn.Conv2d(4, 4, 3, padding=1), nn.ConvTranspose2d(4, 4, 1)),
        (nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Identity()),
        (nn.Conv2d(4, 4, 1, groups=4), nn.Identity()),
        (nn.ConvTranspose2d(4, 4, 1), nn.Identity()),
        (nn.BatchNorm2d(4), nn.Identity()),
        (nn.Conv2d(4, 4, 3, padding=1), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1))),
        (nn.Conv2d(4, 4, 3, padding=1), nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())),
        (nn.Conv2d(4, 4, 3, padding=1), nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4))),
        (nn.Conv2d(4, 4, 2, padding="same"), nn.Identity()),
    ],
    ids=str,
)
def test_keeps_branches(branches: tuple[nn.Module, ...]) -> None:
    assert_keeps(PASS, total(*branches), noise(2, 4, 6, 6))


@pytest.mark.parametrize(
    ("a", "b", "shape"),
    [
        (nn.Conv2d(4, 4, 3, padding=1, stride=2), nn.Conv2d(4, 4, 1), (2, 4, 1, 1)),
        (nn.Conv2d(4, 4, 3, padding=1, stride=3), nn.Conv2d(4, 4, 3, stride=3), (2, 4, 6, 6)),
        (nn.Conv2d(4, 4, 3, padding=1, stride=3), nn.Conv2d(4, 4, 3, stride=3, padding=(1, 0)), (2, 4, 6, 6)),
        (nn.Conv2d(4, 4, 2, padding=1, stride=2), nn.Conv2d(4, 4, 1, stride=2), (2, 4, 5, 5)),
        (nn.Conv2d(4, 4, 1, stride=2), nn.Identity(), (2, 4, 1, 1)),
        (nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 1, 1), (2, 4, 6, 6)),
        (nn.Conv2d(4, 1, 1), nn.Identity(), (2, 4, 6, 6)),
        (nn.Conv2d(1, 4, 1), nn.Identity(), (2, 1, 6, 6)),
    ],
    ids=str,
)
def test_keeps_what_does_not_lie_alike(a: nn.Module, b: nn.Module, shape: tuple[int, ...]) -> None:
    assert_keeps(PASS, total(a, b), noise(*shape))


def _used_twice(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    return (y + net.b(x)) * y


def _sum_used_twice(net: Any, x: Tensor) -> Tensor:
    y = net.a(x) + x.relu()
    return y * (y + net.b(x))


def _an_output(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    y = net.b(x)
    return net.a(x) + y, y


def _norm_used_twice(net: Any, x: Tensor) -> Tensor:
    y = net.norm(x)
    return (net.a(x) + y) * y


@pytest.mark.parametrize(
    "forward",
    [
        _used_twice,
        _sum_used_twice,
        _an_output,
        _norm_used_twice,
        lambda net, x: torch.add(net.a(x), net.b(x), alpha=2),
        lambda net, x: torch.add(net.a(x), x, alpha=2),
        lambda net, x: net.a(x) - net.b(x),
        lambda net, x: net.a(x) * net.b(x),
        lambda net, x: net.a(x) + net.b(x.flip(3)),
        lambda net, x: net.a(x) + net.b(x).relu(),
        lambda net, x: net.a(x) + 1,
        lambda net, x: (lambda y: y + y)(net.a(x)),
        lambda net, x: net.a(x) + F.conv2d(x, net.kernel * x.mean()),
        lambda net, x: net.a(x) + F.conv2d(x, net.kernel, x[0, :, 0, 0]),
        lambda net, x: net.a(x) + net.b(x[:1]),
        lambda net, x: net.a(x[:1]) + x,
        lambda net, x: net.a(x) + x * x,
        lambda net, x: net.a(x) + x * x.mean(),
        lambda net, x: net.a(x) + x * net.row,
        lambda net, x: net.a(x) + x[:1],
    ],
)
def test_keeps_what_is_no_sum_of_branches(forward: Callable[..., Any]) -> None:
    members = {"a": nn.Conv2d(4, 4, 3, padding=1), "b": nn.Conv2d(4, 4, 1), "norm": nn.BatchNorm2d(4)}
    model = Net(forward, kernel=torch.ones(4, 4, 1, 1), row=torch.ones(6), **members)
    assert_keeps(PASS, model, noise(2, 4, 5, 6))


def test_keeps_a_norm_in_training_mode() -> None:
    def train(graph: Graph) -> None:
        for norm in graph.calls(BN):
            set_argument(norm, "training", True)

    assert_keeps(PASS, total(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)), noise(2, 4, 3, 3), edit=train)


def test_a_weight_that_lies_otherwise_in_memory_gets_its_gain() -> None:
    transposed = Net(
        lambda net, x: (lambda y: y + F.conv2d(y, net.weight.transpose(2, 3), padding=1))(x.sin()),
        weight=torch.ones(4, 4, 3, 3),
    )
    graph, rewrites = apply(PASS, transposed, noise(2, 4, 5, 6), edit=_fold_constants)
    assert len(rewrites) == 1
    assert not list(graph.calls(aten.add.Tensor))


def _fold_constants(graph: Graph) -> None:
    """Let the kernel be a constant whose rows and columns are swapped in memory."""
    (conv,) = graph.calls(aten.conv2d.default)
    transpose = conv.args[1]
    value = graph.constant(transpose.args[0])
    graph.module.swapped = nn.Parameter(value.transpose(2, 3))
    with graph.module.graph.inserting_before(conv):
        node = graph.module.graph.get_attr("swapped")
    node.meta["val"] = transpose.meta["val"]
    conv.replace_input_with(transpose, node)
    graph.clean()
