from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deploy_kit.capture import capture, from_program
from deploy_kit.errors import ExportError
from deploy_kit.graph import Graph, aten
from deploy_kit.models.layers import randomize_


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Conv2d(4, 3, 1)
        )
        self.register_buffer("offset", torch.ones(3, 1, 1))
        self.register_buffer("scale", torch.ones(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        y += x * self.offset
        y.mul_(self.scale).clamp_(-3, 3)
        return y


class Function(nn.Module):
    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def prepared(model: nn.Module) -> nn.Module:
    randomize_(model, seed=0)
    return model.double().eval()


def calls(graph: Graph) -> list[str]:
    return [node.target.__name__.split(".")[0] for node in graph.nodes if node.op == "call_function"]


@torch.no_grad()
def assert_captures(model: nn.Module, *inputs: Tensor, **options: Any) -> Graph:
    expected = model(*(x.clone() for x in inputs))
    before = [x.clone() for x in inputs]
    graph = capture(model, inputs, **options)
    torch.testing.assert_close(graph.module(*inputs), expected, rtol=1e-14, atol=1e-14)
    assert all(x.equal(kept) for x, kept in zip(inputs, before))
    return graph


def test_edgevit_is_captured_exactly(edgevit_xxs: nn.Module, edgevit_xxs_graph: Graph, image: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(edgevit_xxs_graph.module(image), edgevit_xxs(image), rtol=1e-14, atol=1e-14)


def test_in_place_operators_become_functional() -> None:
    graph = assert_captures(prepared(Block()), noise(2, 3, 6, 6))
    assert not any(node.target._schema.is_mutable for node in graph.nodes if node.op == "call_function")
    assert calls(graph) == ["conv2d", "batch_norm", "relu", "conv2d", "mul", "add", "mul", "clamp"]


def test_in_place_operators_change_no_layer_s_form() -> None:
    def stack(inplace: bool) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=inplace),
            nn.ConvTranspose2d(4, 4, 2),
            nn.AvgPool2d(1, 2),
            nn.AdaptiveAvgPool2d(2),
            nn.Hardswish(inplace=inplace),
            nn.Dropout2d(),
            nn.Flatten(),
            nn.LayerNorm(16),
            nn.Linear(16, 4),
            nn.GELU(),
            nn.Softmax(-1),
        )

    x = noise(2, 3, 8, 8)
    functional, in_place = (assert_captures(prepared(stack(inplace)), x) for inplace in (False, True))
    assert [name.replace("flatten", "reshape") for name in calls(functional)] == calls(in_place)


@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_in_place_operators_on_the_input_spare_it(dynamic_batch: bool) -> None:
    graph = assert_captures(nn.Sequential(nn.ReLU(inplace=True)), noise(2, 3), dynamic_batch=dynamic_batch)
    assert calls(graph) == ["relu"]


@pytest.mark.parametrize("dropout", [nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout(), nn.FeatureAlphaDropout()])
@pytest.mark.parametrize("inplace", [False, True])
def test_dropout_vanishes(dropout: nn.Module, inplace: bool) -> None:
    graph = assert_captures(
        nn.Sequential(nn.Hardtanh(inplace=inplace), dropout, nn.Sigmoid()).eval(), noise(2, 3, 4, 4)
    )
    assert calls(graph) == ["hardtanh", "sigmoid"]


def test_the_model_is_not_changed() -> None:
    model = Block().train()
    model.body[0].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    state = {key: value.clone() for key, value in model.state_dict().items()}
    graph = capture(model, (torch.randn(2, 3, 6, 6),))
    for value in [*graph.module.parameters(), *graph.module.buffers()]:
        value.data.zero_()
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(value.equal(state[key]) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not model._forward_pre_hooks


def test_buffers_are_constants_whether_persistent_or_not() -> None:
    graph = assert_captures(prepared(Block()), noise(2, 3, 6, 6))
    names = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    assert {"offset", "scale", "body.1.running_var"} <= names
    assert all(graph.constant(node) is not None for node in graph.nodes if node.op == "get_attr")


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_dynamic_batch_stays_open(batch: int) -> None:
    model = prepared(nn.Sequential(Block(), nn.Flatten(), nn.Linear(108, 2)))
    graph = capture(model, (noise(batch, 3, 6, 6),), dynamic_batch=True)
    assert graph.dynamic_batch
    with torch.no_grad():
        for size in (1, 2, 5):
            x = noise(size, 3, 6, 6)
            torch.testing.assert_close(graph.module(x), model(x))


def test_a_fixed_batch_is_the_example_s() -> None:
    graph = assert_captures(prepared(Block()), noise(1, 3, 6, 6))
    assert not graph.dynamic_batch
    assert graph.example_inputs[0].shape == (1, 3, 6, 6)


class Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x - 2 * y, y.flatten(1)


@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_two_inputs_and_two_outputs(dynamic_batch: bool) -> None:
    assert_captures(Two(), noise(2, 3), noise(2, 3) + 1, dynamic_batch=dynamic_batch)


def test_one_tensor_given_twice_is_two_inputs() -> None:
    x = noise(2, 3)
    graph = capture(Two(), (x, x))
    assert graph.module(x, x + 1)[0].equal(x - 2 * (x + 1))


def test_inputs_of_a_variable_number_may_be_dynamic() -> None:
    class Sum(nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            return sum(inputs)

    assert_captures(Sum(), noise(2, 3), noise(2, 3), dynamic_batch=True)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv1d(3, 4, 4, padding="same", dilation=3),
        nn.Conv2d(3, 4, (3, 4), padding="same"),
        nn.Conv2d(3, 3, (3, 5), padding="same", dilation=2, groups=3),
        nn.Conv2d(3, 4, 3, padding="valid", stride=2),
        nn.Conv3d(3, 4, 2, padding="same", bias=False),
    ],
    ids=str,
)
def test_named_padding_becomes_numbers(conv: nn.Module) -> None:
    graph = assert_captures(prepared(conv), noise(2, 3, *[7] * len(conv.kernel_size)))
    assert not list(graph.calls(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding))


def test_views_do_not_depend_on_memory_order() -> None:
    graph = assert_captures(Function(lambda x: x.view(2, 12)), noise(2, 3, 4))
    assert graph.module(noise(2, 4, 3).transpose(1, 2)).shape == (2, 12)


def test_operators_that_change_nothing_vanish() -> None:
    model = Function(lambda x: x.detach().clone()[:, :].relu()[:])
    assert calls(assert_captures(model, noise(2, 3))) == ["relu"]
    assert calls(assert_captures(model, noise(2, 3), dynamic_batch=True)) == ["relu"]


def _no_grad(x: Tensor) -> Tensor:
    with torch.enable_grad():
        y = x.sin().relu_()
    with torch.autocast("cpu", enabled=False):
        y, z = y.double() + 1, x.cos()
    return y * z


def test_no_grad_and_disabled_autocast_blocks_are_written_out() -> None:
    graph = assert_captures(Function(_no_grad), noise(2, 3))
    assert calls(graph) == ["sin", "relu", "add", "cos", "mul"]


def test_a_fused_encoder_layer_is_captured() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert_captures(prepared(layer), noise(2, 5, 8))


def test_an_exported_program_is_read() -> None:
    model, x = prepared(Block()), noise(2, 3, 6, 6)
    graph = from_program(torch.export.export(model, (x,)), (x,))
    with torch.no_grad():
        torch.testing.assert_close(graph.module(x), model(x))


def test_a_program_in_training_mode_is_refused() -> None:
    model, x = Block().train(), torch.randn(2, 3, 6, 6)
    with pytest.raises(ExportError, match=r"changes 'body\.1\.running_mean' while it runs") as error:
        from_program(torch.export.export(model, (x,)), (x,))
    assert "evaluation mode" in error.value.fix


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return x * self.count


def test_a_model_with_state_is_refused_with_the_line_that_changes_it() -> None:
    with pytest.raises(ExportError, match=r"changes 'count' while it runs.*test_capture\.py.*self\.count \+= 1"):
        capture(Counter(), (torch.randn(2, 3),))


def _branch(x: Tensor) -> Tensor:
    if x.sum() > 0:  # depends on data
        return x
    return -x


def _wrong_type(x: Tensor) -> Tensor:
    return torch.cat([x, 3])  # not a tensor


def _raise(x: Tensor) -> Tensor:
    raise ValueError("images must be square")


@pytest.mark.parametrize(
    ("function", "reason", "line"),
    [
        (_branch, "data-dependent", "if x.sum() > 0:"),
        (_wrong_type, "got int", "torch.cat([x, 3])"),
        (_raise, "images must be square", "raise ValueError"),
        (lambda x: x.reshape(5, 5), "invalid for input of size 6", "x.reshape(5, 5)"),
    ],
    ids=["branch", "type", "own error", "shape"],
)
def test_an_uncapturable_model_is_refused_with_reason_and_source_line(
    function: Callable[..., Any], reason: str, line: str
) -> None:
    with pytest.raises(ExportError) as error:
        capture(Function(function), (torch.randn(2, 3),))
    assert reason in str(error.value)
    assert "test_capture.py" in str(error.value)
    assert line in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is not None


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    class Locked(nn.Module):
        def __deepcopy__(self, memo: dict) -> Any:
            raise TypeError("cannot be copied")

    with pytest.raises(ExportError, match="cannot be copied"):
        capture(Locked(), (torch.randn(2, 3),))


def test_the_shape_of_another_tensor_is_no_use_of_it() -> None:
    graph = assert_captures(Function(lambda x: (x * 2).flatten(0, 1).sin().view_as(x.relu())), noise(2, 3, 4))
    assert not list(graph.calls(aten.relu.default, aten.view_as.default))


def test_the_shape_of_another_tensor_may_have_a_free_batch() -> None:
    model = Function(lambda x: (x * 2).flatten(0, 1).sin().reshape_as(x.relu()))
    graph = capture(model, (noise(2, 3, 4),), dynamic_batch=True)
    assert not list(graph.calls(aten.relu.default, aten.reshape_as.default))
    assert torch.equal(graph.module(noise(5, 3, 4)), model(noise(5, 3, 4)))


def test_a_free_size_that_nothing_tells_stays_that_of_the_other() -> None:
    model = Function(lambda x: x.sum(0).sin().expand_as(x * 2))
    graph = capture(model, (noise(2, 3, 4),), dynamic_batch=True)
    assert list(graph.calls(aten.expand_as.default))
    assert torch.equal(graph.module(noise(5, 3, 4)), model(noise(5, 3, 4)))
