from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy_kit.graph import aten
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "pad_into_convolution"
PADS = (aten.constant_pad_nd.default, aten.pad.default)


@pytest.mark.parametrize(
    ("pad", "reader", "shape"),
    [
        (nn.ZeroPad2d(1), nn.Conv2d(4, 3, 3), (2, 4, 5, 6)),
        (nn.ZeroPad2d((2, 2, 1, 1)), nn.Conv2d(4, 3, 3, stride=2), (2, 4, 5, 6)),
        (nn.ZeroPad2d((2, 2, 1, 1)), nn.Conv2d(4, 3, 3, padding=(0, 2), dilation=2), (2, 4, 5, 6)),
        (nn.ConstantPad2d((1, 1, 0, 0), 0.0), nn.Conv2d(4, 3, (1, 3), padding=(2, 0)), (2, 4, 5, 6)),
        (nn.ConstantPad1d((1, 1), 0.0), nn.Conv2d(4, 3, 3), (2, 4, 5, 6)),
        (nn.ZeroPad2d(1), nn.Conv2d(4, 4, 3, groups=4), (4, 5, 6)),
        (nn.ZeroPad1d(1), nn.Conv1d(4, 3, 3, padding=2), (2, 4, 5)),
        (nn.ZeroPad3d((1, 1, 2, 2, 3, 3)), nn.Conv3d(4, 3, 3), (2, 4, 2, 3, 4)),
        (nn.ZeroPad2d(0), nn.Conv2d(4, 3, 3), (2, 4, 5, 6)),
        (nn.Sequential(nn.ZeroPad2d(1), nn.ZeroPad2d((1, 1, 0, 0))), nn.Conv2d(4, 3, 3), (2, 4, 5, 6)),
        (nn.ZeroPad2d(1), nn.AvgPool2d(3), (2, 4, 5, 6)),
        (nn.ZeroPad2d(1), nn.AvgPool2d(3, 1, count_include_pad=False), (2, 4, 5, 6)),
        (nn.ZeroPad2d(1), nn.AvgPool2d(5, 2, padding=1), (2, 4, 5, 6)),
        (nn.ZeroPad2d((1, 1, 2, 2)), nn.AvgPool2d((4, 3), 2, divisor_override=7), (2, 4, 5, 6)),
        (nn.ZeroPad1d(1), nn.AvgPool1d(2), (2, 4, 5)),
        (nn.ZeroPad3d(1), nn.AvgPool3d(3), (2, 4, 3, 4, 5)),
    ],
    ids=str,
)
def test_folds(pad: nn.Module, reader: nn.Module, shape: tuple[int, ...]) -> None:
    pads = len(pad) if isinstance(pad, nn.Sequential) else 1
    at = ["0.1", "0.0"] if pads == 2 else ["0"]
    assert_rewrites(PASS, nn.Sequential(pad, reader), noise(*shape), at=at, gone=PADS)


@pytest.mark.parametrize(
    "pad",
    [
        lambda x: F.pad(x, (1, 1, 1, 1)),
        lambda x: F.pad(x, (1, 1, 1, 1), "constant", 0.0),
        lambda x: F.pad(x, (1, 1), value=0),
        lambda x: F.pad(x, (1, 1, 2, 2, 0, 0, 0, 0)),
        lambda x: torch.constant_pad_nd(x, (1, 1)),
    ],
)
def test_folds_every_way_to_write_it(pad: Callable[[Tensor], Tensor]) -> None:
    model = Net(lambda net, x: net.conv(pad(x)), conv=nn.Conv2d(4, 3, 3))
    assert_rewrites(PASS, model, noise(2, 4, 5, 6), at=[""], gone=PADS)


def test_folds_into_every_reader_with_a_dynamic_batch() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = F.pad(x, (1, 1, 1, 1))
        return net.a(y) + net.b(y) + F.avg_pool2d(y, 3, 1)

    model = Net(forward, a=nn.Conv2d(4, 4, 3), b=nn.Conv2d(4, 4, 3))
    graph = assert_rewrites(PASS, model, noise(2, 4, 5, 6), at=[""], gone=PADS, dynamic_batch=True)
    assert graph.module(noise(3, 4, 5, 6)).shape == (3, 4, 5, 6)


def test_folds_before_a_computed_kernel() -> None:
    model = Net(lambda net, x: F.conv2d(F.pad(x, (1, 1)), net.kernel * x.mean()), kernel=torch.ones(3, 4, 3, 3))
    assert_rewrites(PASS, model, noise(2, 4, 5, 6), at=[""], gone=PADS)


@pytest.mark.parametrize(
    "pad",
    [
        lambda x: F.pad(x, (1, 1, 1, 1), value=1.0),
        lambda x: F.pad(x, (1, 1, 1, 1), value=-1e-9),
        lambda x: F.pad(x, (0, 1, 0, 1)),
        lambda x: F.pad(x, (1, 2, 1, 2)),
        lambda x: F.pad(x, (1, 1, 1, 0)),
        lambda x: F.pad(x, (-1, -1)),
        lambda x: F.pad(x, (2, 2, -1, -1)),
        lambda x: F.pad(x, (1, 1, 1, 1), "reflect"),
        lambda x: F.pad(x, (1, 1, 1, 1), "replicate"),
        lambda x: F.pad(x, (1, 1, 1, 1), "circular"),
        lambda x: F.pad(x[:, :2], (0, 0, 0, 0, 1, 1)),
        lambda x: F.pad(x, (1, 1, 1, 1, 0, 0, 1, 1)),
        lambda x: F.pad(x, (1, 1)).relu(),
        lambda x: F.pad(x, (1, 1)).transpose(2, 3),
    ],
)
def test_keeps_a_border_of(pad: Callable[[Tensor], Tensor]) -> None:
    model = Net(lambda net, x: net.conv(pad(x)), conv=nn.Conv2d(4, 3, 3))
    assert_keeps(PASS, model, noise(2, 4, 6, 6))


@pytest.mark.parametrize(
    "reader",
    [
        nn.AvgPool2d(5, padding=1, count_include_pad=False),
        nn.AvgPool2d(3, padding=1),
        nn.AvgPool2d((1, 4)),
        nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.AdaptiveAvgPool2d(1),
        nn.MaxPool2d(3),
        nn.ConvTranspose2d(4, 3, 3),
        nn.Linear(8, 3),
        nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(4, 3, 2, padding="same"),
        nn.BatchNorm2d(4),
        nn.Identity(),
    ],
    ids=str,
)
def test_keeps_a_border_before(reader: nn.Module) -> None:
    assert_keeps(PASS, nn.Sequential(nn.ZeroPad2d(1), reader), noise(2, 4, 6, 6))


def _read_as_it_is_too(net: Any, x: Tensor) -> Tensor:
    y = F.pad(x, (1, 1, 1, 1))
    return net.conv(y) + y.mean()


def _an_output(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    y = F.pad(x, (1, 1, 1, 1))
    return net.conv(y), y


@pytest.mark.parametrize(
    "forward",
    [
        _read_as_it_is_too,
        _an_output,
        lambda net, x: F.conv2d(x, F.pad(net.kernel * x.mean(), (1, 1))),
        lambda net, x: F.conv2d(x[:, 0], F.pad(x[:, :, :3, :3], (0, 0))[:, :2]),
    ],
    ids=["read as it is too", "an output", "a kernel", "cut"],
)
def test_keeps_a_border_with_another_use(forward: Callable[..., Any]) -> None:
    model = Net(forward, conv=nn.Conv2d(2, 3, 3), kernel=torch.ones(3, 2, 1, 1))
    assert_keeps(PASS, model, noise(2, 2, 6, 6))
