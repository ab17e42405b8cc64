from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy_kit.capture import capture
from deploy_kit.fusion import PASSES, Policy, fuse_graph
from deploy_kit.fusion.policy import folds
from deploy_kit.graph import Graph, argument, aten, set_argument
from deploy_kit.models.layers import randomize_
from deploy_kit.timm_models import create_timm_model
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise, relative_error

PASS = "affine_into_neighbours"
BN = aten.batch_norm.default


@pytest.mark.parametrize(
    ("producer", "norm", "shape"),
    [
        (nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2), nn.BatchNorm1d(6), (2, 4, 9)),
        (nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), (2, 4, 5, 7)),
        (nn.Conv2d(4, 6, (3, 1), bias=False), nn.BatchNorm2d(6), (2, 4, 5, 7)),
        (nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), (2, 4, 5, 7)),
        (nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), (2, 4, 5, 7)),
        (nn.Conv2d(4, 6, 4, padding="same"), nn.BatchNorm2d(6), (2, 4, 5, 7)),
        (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(6), (2, 4, 5, 7)),
        (nn.Conv3d(4, 6, 2, groups=2), nn.BatchNorm3d(6), (2, 4, 3, 4, 5)),
        (nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2), nn.BatchNorm1d(6), (2, 4, 5)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, bias=False), nn.BatchNorm2d(6), (2, 4, 5, 7)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6), (2, 4, 5, 7)),
        (nn.ConvTranspose2d(6, 6, 2, stride=2, groups=6), nn.BatchNorm2d(6), (2, 6, 3, 4)),
        (nn.ConvTranspose3d(4, 6, 2, groups=2, padding=1), nn.BatchNorm3d(6), (2, 4, 3, 4, 5)),
        (nn.Linear(4, 6), nn.BatchNorm1d(6), (5, 4)),
        (nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6, eps=0.1), (5, 4)),
        (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False), (2, 4, 5, 7)),
    ],
    ids=str,
)
def test_folds(producer: nn.Module, norm: nn.Module, shape: tuple[int, ...]) -> None:
    assert_rewrites(PASS, nn.Sequential(producer, norm, nn.ReLU()), noise(*shape), at=["1"], gone=(BN,))


def test_folds_without_adding_operators_and_drops_the_old_constants() -> None:
    graph = assert_rewrites(PASS, nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6)), noise(2, 4, 3, 3), at=["1"])
    assert [node.op for node in graph.nodes].count("call_function") == 1
    assert len(list(graph.module.buffers())) == 2
    assert not list(graph.module.parameters())


@pytest.mark.parametrize(
    "between",
    [
        lambda y: y.transpose(1, 2),
        lambda y: y.permute(0, 2, 1).contiguous(),
        lambda y: y.flatten(0, 1),
        lambda y: y.reshape(-1, 6),
        lambda y: y[:, 1],
        lambda y: y[:, 1:3].permute(0, 2, 1).unsqueeze(-1).flatten(2),
    ],
    ids=["transpose", "permute", "flatten", "reshape", "select", "chain"],
)
def test_folds_through_views(between: Callable[[Tensor], Tensor]) -> None:
    model = Net(lambda net, x: net.norm(between(net.fc(x))), fc=nn.Linear(4, 6), norm=nn.BatchNorm1d(6))
    assert_rewrites(PASS, model, noise(2, 5, 4), at=["norm"], gone=(BN,))


def test_folds_over_flattened_tokens_of_a_dynamic_batch() -> None:
    model = Net(
        lambda net, x: net.norm(net.fc(x).flatten(0, 1)).reshape(x.shape[0], 5, 6),
        fc=nn.Linear(4, 6),
        norm=nn.BatchNorm1d(6),
    )
    graph = assert_rewrites(PASS, model, noise(2, 5, 4), at=["norm"], gone=(BN,), dynamic_batch=True)
    assert graph.module(noise(7, 5, 4)).shape == (7, 5, 6)


def test_folds_over_flattened_tokens_that_get_the_shape_of_the_layer_back() -> None:
    """The official LeViT."""

    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.fc(x)
        return net.norm(x.flatten(0, 1)).reshape_as(x)

    model = Net(forward, fc=nn.Linear(4, 6, bias=False), norm=nn.BatchNorm1d(6))
    assert_rewrites(PASS, model, noise(2, 5, 4), at=["norm"], gone=(BN,))


def test_folds_only_the_call_of_a_shared_layer_that_a_norm_follows() -> None:
    model = Net(
        lambda net, x: net.norm(net.conv(x)) + net.conv(x.flip(3)), conv=nn.Conv2d(4, 4, 3), norm=nn.BatchNorm2d(4)
    )
    graph = assert_rewrites(PASS, model, noise(2, 4, 5, 5), at=["norm"], gone=(BN,))
    first, second = graph.calls(aten.conv2d.default)
    assert argument(first, "weight") is not argument(second, "weight")


def test_folds_a_shared_norm_into_each_layer_before_it() -> None:
    model = Net(
        lambda net, x: net.norm(net.a(x)) + net.norm(net.b(x)),
        a=nn.Conv2d(4, 4, 3),
        b=nn.Conv2d(4, 4, 3),
        norm=nn.BatchNorm2d(4),
    )
    assert_rewrites(PASS, model, noise(2, 4, 5, 5), at=["norm", "norm"], gone=(BN,))


def test_folds_in_float32_within_rounding() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)).eval()
    x = noise(2, 4, 5, 5).float()
    graph = capture(model, (x,))
    assert PASSES[PASS].run(graph)
    torch.testing.assert_close(graph.module(x), model(x), rtol=1e-5, atol=1e-5)
    assert all(buffer.dtype == torch.float32 for buffer in graph.module.buffers())


def _residual(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    return net.norm(y) + y


def _second_output(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    y = net.conv(x)
    return net.norm(y), y


def _two_views(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    return net.norm(y[:, :, 1:]) + y[:, :, :-1]


def _two_norms(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    return net.norm(y) * net.norm(y.flip(2))


@pytest.mark.parametrize("forward", [_residual, _second_output, _two_views, _two_norms])
def test_keeps_an_output_that_is_used_twice(forward: Callable[..., Any]) -> None:
    assert_keeps(PASS, Net(forward, conv=nn.Conv2d(4, 4, 3), norm=nn.BatchNorm2d(4)), noise(2, 4, 6, 6))


@pytest.mark.parametrize(
    "between",
    [
        lambda y: y.relu(),
        lambda y: y.transpose(1, 2),
        lambda y: y.permute(0, 3, 1, 2),
        lambda y: y.reshape(2, 2, 2, 4, 4).transpose(1, 2).reshape(2, 4, 4, 4),
        lambda y: y.flip(1),
        lambda y: y.roll(1, 1),
    ],
    ids=["activation", "other axis", "rotated axes", "channel shuffle", "flip", "roll"],
)
def test_keeps_a_norm_of_other_channels(between: Callable[[Tensor], Tensor]) -> None:
    model = Net(lambda net, x: net.norm(between(net.conv(x))), conv=nn.Conv2d(4, 4, 3), norm=nn.BatchNorm2d(4))
    assert_keeps(PASS, model, noise(2, 4, 6, 6))


@pytest.mark.parametrize(
    "between",
    [
        lambda y: y[:, :4],
        lambda y: y[:, 4:],
        lambda y: y[:, ::2],
        lambda y: y.reshape(2, 4, 2, -1),
        lambda y: y[:, 1:5],
    ],
    ids=["first half", "second half", "every second", "split", "middle"],
)
def test_keeps_a_norm_of_some_channels(between: Callable[[Tensor], Tensor]) -> None:
    model = Net(lambda net, x: net.norm(between(net.conv(x))), conv=nn.Conv2d(4, 8, 3), norm=nn.BatchNorm2d(4))
    assert_keeps(PASS, model, noise(2, 4, 6, 6))


def test_keeps_a_norm_over_as_many_tokens_as_there_are_channels() -> None:
    assert_keeps(PASS, nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)), noise(2, 5, 4))


def test_keeps_a_norm_in_training_mode() -> None:
    def train(graph: Graph) -> None:
        for norm in graph.calls(BN):
            set_argument(norm, "training", True)

    assert_keeps(PASS, nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6)), noise(2, 4, 3, 3), edit=train)


def test_keeps_a_norm_that_takes_its_statistics_from_the_batch() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6, track_running_stats=False))
    assert_keeps(PASS, model, noise(2, 4, 3, 3))


@pytest.mark.parametrize("computed", ["running_mean", "running_var", "weight", "bias"])
def test_keeps_a_norm_whose_constants_are_computed(computed: str) -> None:
    def forward(net: Any, x: Tensor, factor: Tensor) -> Tensor:
        values = {name: getattr(net, name) for name in ("running_mean", "running_var", "weight", "bias")}
        values[computed] = values[computed] * factor
        return F.batch_norm(net.conv(x), **values)

    model = Net(
        forward,
        conv=nn.Conv2d(4, 4, 1),
        running_mean=torch.zeros(4),
        running_var=torch.ones(4),
        weight=torch.ones(4),
        bias=torch.zeros(4),
    )
    assert_keeps(PASS, model, noise(2, 4, 3, 3), noise(4).abs() + 0.5, edit=_positive_variance)


def _positive_variance(graph: Graph) -> None:
    graph.module.running_var.data.abs_().add_(0.5)


@pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.parametrize("name", ["levit_128s", "levit_conv_128s"])
def test_levit_has_no_batch_norm_left(name: str) -> None:
    model, size = create_timm_model(name, num_classes=5, seed=0)
    randomize_(model, seed=0)
    x = noise(*size)
    graph, _ = fuse_graph(capture(model.double().eval(), (x,)), Policy(folds("")))
    assert not list(graph.calls(BN))
    with torch.no_grad():
        assert relative_error(graph.module(x), model(x)) <= 1e-12


@pytest.mark.parametrize("computed", ["weight", "bias"])
def test_keeps_a_layer_whose_weights_are_computed(computed: str) -> None:
    def forward(net: Any, x: Tensor, factor: Tensor) -> Tensor:
        weight, bias = (net.weight * factor, net.bias) if computed == "weight" else (net.weight, net.bias * factor)
        return net.norm(F.conv2d(x, weight, bias))

    model = Net(forward, weight=torch.ones(4, 4, 1, 1), bias=torch.ones(4), norm=nn.BatchNorm2d(4))
    assert_keeps(PASS, model, noise(2, 4, 3, 3), noise(1))
