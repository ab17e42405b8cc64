from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from deploy_kit.graph import aten
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "strided_slice_to_depthwise_conv"


def model(cut: Callable[[Tensor], Tensor]) -> Net:
    return Net(lambda net, x: cut(x * 2) + 1)


@pytest.mark.parametrize(
    "cut",
    [
        lambda x: x[:, :, ::2, ::2],
        lambda x: x[:, :, ::3, ::2],
        lambda x: x[:, :, ::2],
        lambda x: x[..., ::4],
        lambda x: x[:, ::2, ::3],
        lambda x: x[:, ::2],
        lambda x: x[:, :, ::2][:, :, ::2],
        lambda x: x[:, :, 0:100:2, ::2],
    ],
)
@pytest.mark.parametrize("dynamic_batch", [True, False])
def test_takes_the_same_elements(cut: Callable[[Tensor], Tensor], dynamic_batch: bool) -> None:
    graph = assert_rewrites(PASS, model(cut), noise(2, 6, 7, 8), at=[""], dynamic_batch=dynamic_batch)
    assert not list(graph.calls(aten.slice.Tensor))
    (conv,) = graph.calls(aten.conv2d.default)
    assert conv.args[6] == conv.args[1].meta["val"].shape[0]


@pytest.mark.parametrize(
    "cut",
    [
        lambda x: x[:, :, 1::2, 1::2],
        lambda x: x[:, :, :5:2],
        lambda x: x[:, :, 1:],
        lambda x: x[:, ::2, ::2, ::2],
        lambda x: x[::2],
        lambda x: x.flatten(2)[..., ::2],
    ],
)
def test_keeps(cut: Callable[[Tensor], Tensor]) -> None:
    assert_keeps(PASS, model(cut), noise(2, 6, 7, 8))


def test_keeps_integers() -> None:
    assert_keeps(PASS, Net(lambda net, x: (x.long()[:, :, ::2] + 1).double()), noise(2, 6, 7, 8))


def test_shares_a_slice_that_two_slices_read() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        y = (x * 2)[:, :, ::2]
        return y[..., ::2].sum() + y[..., ::3].sum() + y

    graph = assert_rewrites(PASS, Net(forward), noise(2, 6, 7, 8), at=["", "", ""])
    assert len(list(graph.calls(aten.conv2d.default))) == 3
