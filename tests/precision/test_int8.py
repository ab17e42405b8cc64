from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from deploy_kit.errors import UserError
from deploy_kit.graph import Graph, aten, is_call, operand
from deploy_kit.precision.int8 import DEQUANTIZE, DEQUANTIZE_WEIGHT, QUANTIZE, measure, quantize, weight_scale
from deploy_kit.precision.scheme import Scheme
from tests.fusion.support import Net
from tests.precision.support import agreement_db, captured, outputs
from tests.support import Tiny, random

SCHEMES = [Scheme(), Scheme(unsigned=True), Scheme(symmetric=True)]


def lowered(graph: Graph, scheme: Scheme | None = None, **options: object) -> Graph:
    scheme = scheme or Scheme()
    return quantize(graph, scheme, measure(graph, scheme), **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tiny() -> Graph:
    return captured(random(Tiny()), 1, 3, 32, 32)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_layer_computes_on_int8_and_the_model_keeps_its_outputs(tiny: Graph, scheme: Scheme) -> None:
    int8 = lowered(tiny, scheme)
    layers = list(int8.calls(aten.conv2d.default, aten.linear.default))
    assert len(layers) == 5
    for layer in layers:
        assert is_call(layer.args[0], DEQUANTIZE)
        assert is_call(layer.args[1], DEQUANTIZE_WEIGHT)
        stored = int8.constant(operand(operand(layer, 1)))
        assert stored is not None
        assert stored.dtype == torch.int8
    assert agreement_db(tiny, int8) > 25


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_lies_on_the_grid_passes_unchanged(scheme: Scheme) -> None:
    """x = (q - z) s and w = p t with whole q, z and p: rounding them changes nothing; only the result is rounded."""
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[127.0, 1, -5, 8], [3, -127, 2, 0], [0, 64, 127, -127]]) / 64)
        layer.bias.copy_(torch.tensor([0.25, -0.5, 0.0]))
    graph = captured(layer, 2, 4)
    low = -128.0 if not scheme.symmetric else -127.0
    inputs = torch.tensor([[low, 127, 3, 0], [1, -2, 64, 100]]) / 32
    graph.calibration = ((inputs,),)
    numbers = measure(graph, scheme)
    int8 = quantize(graph, scheme, numbers)
    read = operand(next(iter(int8.calls(aten.linear.default))))
    assert float(read.args[1]) == pytest.approx(1 / 32)  # type: ignore[arg-type]
    exact = outputs(graph, inputs)
    store = next(node for node in int8.calls(QUANTIZE) if is_call(operand(node), aten.linear.default))
    scale = float(store.args[1])  # type: ignore[arg-type]
    assert (outputs(int8, inputs) - exact).abs().max() <= scale / 2 * 1.001


def test_the_graph_that_is_given_stays_as_it_is(tiny: Graph) -> None:
    before = str(tiny.module.graph)
    lowered(tiny)
    assert str(tiny.module.graph) == before


def test_everyone_reads_a_stored_value_from_int8() -> None:
    """Where a result has two readers, a float one must not keep the integer kernel from being fused."""
    net = Net(lambda n, x: (lambda y: n.b(y) + torch.sigmoid(y))(n.a(x)), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 4, 1))
    int8 = lowered(captured(net, 1, 3, 8, 8))
    first = next(node for node in int8.calls(aten.conv2d.default) if node.users)
    assert [is_call(user, QUANTIZE) for user in first.users] == [True]


def test_a_clamp_is_stored_with_the_layer_before_it() -> None:
    net = Net(lambda n, x: n.b(torch.relu(n.a(x))), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 4, 1))
    int8 = lowered(captured(net, 1, 3, 8, 8))
    relu = next(iter(int8.calls(aten.relu.default)))
    assert is_call(operand(relu), aten.conv2d.default)
    assert [is_call(user, QUANTIZE) for user in relu.users] == [True]


def test_a_clamp_is_not_stored_with_the_layer_whose_result_is_read_elsewhere() -> None:
    net = Net(lambda n, x: (lambda y: n.b(torch.relu(y)) + y)(n.a(x)), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 4, 1))
    int8 = lowered(captured(net, 1, 3, 8, 8))
    relu = next(iter(int8.calls(aten.relu.default)))
    assert is_call(operand(relu), DEQUANTIZE)


def test_a_residual_sum_of_two_stored_values_is_stored() -> None:
    def forward(n: Net, x: Tensor) -> Tensor:
        y = n.a(x)
        return n.c(y + n.b(y))

    net = Net(forward, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 4, 1), c=nn.Conv2d(4, 4, 1))
    graph = captured(net, 1, 3, 8, 8)
    total = next(iter(lowered(graph).calls(aten.add.Tensor)))
    assert all(is_call(argument, DEQUANTIZE) for argument in total.args)
    assert [is_call(user, QUANTIZE) for user in total.users] == [True]


def test_a_sum_with_a_float_value_is_a_float_sum() -> None:
    net = Net(lambda n, x: n.b(n.a(x) + torch.sigmoid(x)) + x, a=nn.Conv2d(4, 4, 1), b=nn.Conv2d(4, 4, 1))
    int8 = lowered(captured(net, 1, 4, 8, 8))
    first = next(iter(int8.calls(aten.add.Tensor)))
    assert not all(is_call(argument, DEQUANTIZE) for argument in first.args)


def test_a_view_is_stored_with_the_numbers_of_its_source() -> None:
    net = Net(lambda n, x: n.b(n.a(x).flatten(2).transpose(1, 2)), a=nn.Conv2d(3, 4, 1), b=nn.Linear(4, 5))
    int8 = lowered(captured(net, 1, 3, 8, 8))
    linear = next(iter(int8.calls(aten.linear.default)))
    conv = next(iter(int8.calls(aten.conv2d.default)))
    after = next(iter(conv.users))
    assert operand(linear).args[1:] == after.args[1:]


def test_an_average_is_no_layer() -> None:
    """A norm that is written with products needs all digits of its mean."""
    weight = torch.full((1, 4, 1, 1), 0.25)
    net = Net(lambda n, x: n.a(x - nn.functional.conv2d(x, n.mean)), a=nn.Conv2d(4, 4, 1), mean=weight)
    int8 = lowered(captured(net, 1, 4, 8, 8))
    assert sum(is_call(node.args[1], DEQUANTIZE_WEIGHT) for node in int8.calls(aten.conv2d.default)) == 1


def test_a_module_that_is_kept_stays_in_float32(tiny: Graph) -> None:
    int8 = lowered(tiny, keep=["fc1"])
    kept = [node for node in int8.calls(aten.linear.default) if not is_call(node.args[1], DEQUANTIZE_WEIGHT)]
    assert len(kept) == 1
    assert int8.constant(kept[0].args[1]).shape == (16, 8)  # type: ignore[union-attr]


def test_a_module_that_does_not_exist_is_named_with_those_that_do(tiny: Graph) -> None:
    with pytest.raises(UserError, match="fc3") as caught:
        lowered(tiny, keep=["fc3"])
    assert "fc2" in caught.value.fix


def test_a_scale_for_each_channel() -> None:
    weight = torch.tensor([[1.0, -0.5], [0.01, 0.0], [0.0, 0.0]])
    assert weight_scale(weight)[:2].tolist() == pytest.approx([1 / 127, 0.01 / 127])
    assert weight_scale(weight)[2] > 0


def test_a_bias_fits_into_int32_at_its_channel_s_scale() -> None:
    """A dead channel has no weights to speak of and may have a bias; runtimes keep that in steps of both scales."""
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight[1] = 1e-12
        layer.bias.copy_(torch.tensor([0.1, 5.0]))
    graph = captured(layer, 2, 4)
    int8 = lowered(graph)
    linear = next(iter(int8.calls(aten.linear.default)))
    scales = int8.constant(operand(operand(linear, 1), 1))
    assert scales is not None
    steps = layer.bias.detach().abs() / (scales * float(operand(linear).args[1]))  # type: ignore[arg-type]
    assert steps.max() < 2**31
    assert agreement_db(graph, int8) > 25


def test_a_weight_that_is_computed_is_no_constant() -> None:
    net = Net(lambda n, x: nn.functional.linear(x, n.w * x.mean()), w=torch.randn(3, 4))
    assert not list(lowered(captured(net, 2, 4)).calls(QUANTIZE))
