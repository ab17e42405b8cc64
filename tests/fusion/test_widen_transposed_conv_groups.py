from __future__ import annotations

import pytest
from torch import nn

from deploy_kit.graph import aten
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "widen_transposed_conv_groups"


def conv(channels: int, **options: object) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(channels, channels, 2, groups=channels, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [{"stride": 2}, {"stride": 2, "bias": False}, {"stride": 3, "padding": 1, "output_padding": 1}, {"dilation": 2}],
    ids=str,
)
def test_is_the_convolution(options: dict) -> None:
    assert_rewrites(PASS, conv(6, **options), noise(2, 6, 5, 4), at=["0"])


@pytest.mark.parametrize(("channels", "groups"), [(2, 1), (16, 1), (36, 3), (48, 3), (34, 17)])
def test_groups_divide_the_channels(channels: int, groups: int) -> None:
    graph = assert_rewrites(PASS, conv(channels, stride=2), noise(1, channels, 2, 2), at=["0"])
    (call,) = graph.calls(aten.conv_transpose2d.input)
    assert call.args[6] == groups


def test_rewrites_with_a_dynamic_batch() -> None:
    assert_rewrites(PASS, conv(6, stride=2), noise(2, 6, 5, 4), at=["0"], dynamic_batch=True)


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(6, 6, 2),
        nn.ConvTranspose2d(6, 6, 2, groups=3),
        nn.ConvTranspose2d(6, 12, 2, groups=6),
        nn.Conv2d(6, 6, 2, groups=6),
    ],
    ids=str,
)
def test_keeps(layer: nn.Module) -> None:
    assert_keeps(PASS, layer, noise(2, 6, 5, 4))


def test_keeps_a_prime_number_of_channels() -> None:
    assert_keeps(PASS, conv(17), noise(2, 17, 5, 4))


def test_keeps_a_computed_weight() -> None:
    model = Net(
        lambda net, x: nn.functional.conv_transpose2d(x, net.weight * x.mean(), groups=6), weight=noise(6, 1, 2, 2)
    )
    assert_keeps(PASS, model, noise(2, 6, 5, 4))
