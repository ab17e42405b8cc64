from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy_kit.capture import capture
from deploy_kit.fusion import PASSES
from deploy_kit.graph import Graph, argument, aten, set_argument
from tests.fusion.support import Net, apply, assert_keeps, assert_rewrites, noise

PASS = "affine_into_neighbours"
BN = aten.batch_norm.default
ARITHMETIC = (
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.rsub.Scalar,
    aten.neg.default,
    aten.mul.Scalar,
)
FORMS = {
    "times": lambda x, c: x * c,
    "times, reversed": lambda x, c: c * x,
    "multiply": lambda x, c: torch.multiply(x, c),
    "in place": lambda x, c: x.clone().mul_(c),
    "over": lambda x, c: x / c,
    "divide": lambda x, c: torch.divide(x, c),
    "over, without rounding": lambda x, c: torch.div(x, c, rounding_mode=None),
    "plus": lambda x, c: x + c,
    "plus, reversed": lambda x, c: c + x,
    "plus, alpha": lambda x, c: torch.add(x, c, alpha=3),
    "minus": lambda x, c: x - c,
    "minus, reversed": lambda x, c: c - x,
    "minus, alpha": lambda x, c: torch.sub(x, c, alpha=3),
    "subtract": lambda x, c: torch.subtract(x, c),
    "rsub": lambda x, c: torch.rsub(x, c, alpha=3),
}
SWAPPED = {
    "alpha, reversed": lambda x, c: torch.add(c, x, alpha=3),
    "minus, alpha, reversed": lambda x, c: torch.sub(c, x, alpha=3),
    "rsub, reversed": lambda x, c: torch.rsub(c, x, alpha=3),
}


def arithmetic(graph: Graph) -> int:
    return len([node for node in graph.nodes if node.op == "call_function" and node.target in ARITHMETIC])


@pytest.mark.parametrize("form", {**FORMS, **SWAPPED}.values(), ids=[*FORMS, *SWAPPED])
@pytest.mark.parametrize("shape", [(1, 4, 1, 1), ()], ids=str)
def test_folds_into_the_layer_before(form: Callable[..., Tensor], shape: tuple[int, ...]) -> None:
    model = Net(lambda net, x: form(net.conv(x), net.c), conv=nn.Conv2d(3, 4, 3, padding=1), c=torch.ones(shape))
    assert_rewrites(PASS, model, noise(2, 3, 5, 6), at=[""], gone=ARITHMETIC)


@pytest.mark.parametrize("form", {**FORMS, **SWAPPED}.values(), ids=[*FORMS, *SWAPPED])
@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 1, 1, 1)], ids=str)
def test_folds_into_the_layer_after(form: Callable[..., Tensor], shape: tuple[int, ...]) -> None:
    model = Net(lambda net, x: net.conv(form(x, net.c)), conv=nn.Conv2d(4, 6, 3, groups=2), c=torch.ones(shape))
    assert_rewrites(PASS, model, noise(2, 4, 5, 6), at=[""], gone=ARITHMETIC)


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
@pytest.mark.parametrize("number", [2, 0.3])
def test_folds_numbers(form: Callable[..., Tensor], number: float) -> None:
    before = Net(lambda net, x: form(net.fc(x), number), fc=nn.Linear(4, 3, bias=False))
    assert_rewrites(PASS, before, noise(2, 4), at=[""], gone=ARITHMETIC)
    after = Net(lambda net, x: net.fc(form(x, number)), fc=nn.Linear(4, 3))
    assert_rewrites(PASS, after, noise(2, 4), at=[""], gone=ARITHMETIC)


def test_folds_a_negation() -> None:
    assert_rewrites(PASS, Net(lambda net, x: -net.fc(x), fc=nn.Linear(4, 3)), noise(2, 4), at=[""], gone=ARITHMETIC)


@pytest.mark.parametrize(
    ("layer", "shape", "constant"),
    [
        (nn.Linear(4, 6), (2, 5, 4), (6,)),
        (nn.Conv1d(4, 6, 3, padding=1), (2, 4, 5), (6, 1)),
        (nn.Conv3d(4, 6, 3, padding=1, groups=2), (2, 4, 3, 4, 5), (6, 1, 1, 1)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, output_padding=1), (2, 4, 3, 4), (6, 1, 1)),
        (nn.Conv2d(4, 6, 3, stride=2), (4, 5, 6), (6, 1, 1)),
        (nn.Conv2d(4, 1, 3), (2, 4, 5, 6), (1, 1, 1, 1)),
    ],
    ids=str,
)
def test_folds_into_any_layer_before(layer: nn.Module, shape: tuple[int, ...], constant: tuple[int, ...]) -> None:
    model = Net(lambda net, x: net.layer(x) * net.c + net.c, layer=layer, c=torch.ones(constant))
    assert_rewrites(PASS, model, noise(*shape), at=["", ""], gone=ARITHMETIC)


def test_folds_a_layer_scale_behind_views_and_before_a_residual() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.b(net.a(x).relu()).permute(0, 3, 1, 2) * net.gamma
        return x.permute(0, 3, 1, 2) + y

    model = Net(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 4), gamma=torch.ones(4, 1, 1))
    graph = assert_rewrites(PASS, model, noise(2, 5, 6, 4), at=[""], gone=(aten.mul.Tensor,))
    assert len(list(graph.calls(aten.add.Tensor))) == 1


def _normalise(net: Any, x: Tensor) -> Tensor:
    return net.conv((x - net.mean) / net.std)


def _scale_and_offset(net: Any, x: Tensor) -> Tensor:
    return net.conv(x * net.std + net.mean)


@pytest.mark.parametrize("forward", [_normalise, _scale_and_offset])
def test_folds_the_normalisation_of_an_input(forward: Callable[..., Tensor]) -> None:
    model = Net(forward, conv=nn.Conv2d(3, 4, 4, stride=4), mean=torch.ones(1, 3, 1, 1), std=torch.ones(3, 1, 1))
    assert_rewrites(PASS, model, noise(2, 3, 8, 8), at=[""], gone=ARITHMETIC)


@pytest.mark.parametrize("forward", [_normalise, _scale_and_offset])
def test_leaves_one_sum_of_a_normalisation_before_zero_padding(forward: Callable[..., Tensor]) -> None:
    model = Net(forward, conv=nn.Conv2d(3, 4, 3, padding=1), mean=torch.ones(1, 3, 1, 1), std=torch.ones(3, 1, 1))
    graph = assert_rewrites(PASS, model, noise(2, 3, 8, 8), at=[""], gone=(aten.mul.Tensor, aten.div.Tensor))
    assert arithmetic(graph) == 1
    assert PASSES[PASS].run(graph) == []


def test_folds_a_long_chain_before_and_after() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.a((2 * x + 1) * net.c - 3)
        return net.b(((y + net.c) * 2 - 1).relu() / 5)

    model = Net(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 3), c=torch.ones(4))
    graph, _ = apply(PASS, model, noise(2, 4))
    assert arithmetic(graph) == 0


@pytest.mark.parametrize(
    "nothing", [lambda x: x + 0, lambda x: 0 + x, lambda x: x * 1.0, lambda x: x / 1, lambda x: x - 0]
)
def test_leaves_out_what_has_no_effect(nothing: Callable[[Tensor], Tensor]) -> None:
    """As in MobileOne, which adds its branches up from 0."""
    model = Net(lambda net, x: nothing(x.relu()).exp())
    assert_rewrites(PASS, model, noise(2, 4), at=[""], gone=ARITHMETIC)


def test_folds_norms_in_a_chain() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.n2(net.n1(net.a(x)) * net.c + 1)
        return net.b(net.n3(y.relu() * net.c) - 1)

    norms = {name: nn.BatchNorm2d(4) for name in ("n1", "n2", "n3")}
    model = Net(forward, a=nn.Conv2d(3, 4, 3, padding=1), b=nn.Conv2d(4, 3, 3), c=torch.ones(4, 1, 1), **norms)
    graph, _ = apply(PASS, model, noise(2, 3, 5, 6))
    assert arithmetic(graph) == 0
    assert not list(graph.calls(BN))


def test_leaves_a_sum_of_a_norm_before_zero_padding() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3, padding=1))
    assert arithmetic(assert_rewrites(PASS, model, noise(2, 4, 5, 6), at=["0"], gone=(BN,))) == 1


def test_keeps_a_norm_in_training_mode() -> None:
    def train(graph: Graph) -> None:
        for norm in graph.calls(BN):
            set_argument(norm, "training", True)

    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))
    assert_keeps(PASS, model, noise(2, 3, 5, 6), edit=train)


@pytest.mark.parametrize("average", [nn.AdaptiveAvgPool2d(1), Net(lambda net, x: x.mean((2, 3), keepdim=True))])
def test_folds_through_averages(average: nn.Module) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.average(net.a(x)) * net.c + net.c
        return net.b(net.average(y.exp() - net.c).flatten(1))

    model = Net(forward, average=average, a=nn.Conv2d(3, 4, 3), b=nn.Linear(4, 3), c=torch.ones(4, 1, 1))
    assert_rewrites(PASS, model, noise(2, 3, 5, 6), at=["", "", ""], gone=ARITHMETIC)


def test_a_gain_passes_zero_padding() -> None:
    model = Net(lambda net, x: net.conv(x.relu() * net.c), conv=nn.Conv2d(4, 6, 3, padding=1), c=torch.ones(4, 1, 1))
    assert_rewrites(PASS, model, noise(2, 4, 5, 6), at=[""], gone=ARITHMETIC)


def test_folds_depthwise_pointwise_convolutions() -> None:
    def narrow() -> nn.Module:
        return nn.Conv2d(4, 4, 1, groups=4)

    before = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), narrow())
    assert len(list(assert_rewrites(PASS, before, noise(2, 3, 5, 6), at=["1"]).calls(aten.conv2d.default))) == 1
    after = nn.Sequential(narrow(), nn.Conv2d(4, 3, 3))
    assert len(list(assert_rewrites(PASS, after, noise(2, 4, 5, 6), at=["0"]).calls(aten.conv2d.default))) == 1
    bordered = nn.Sequential(narrow(), nn.Conv2d(4, 3, 3, padding=1))
    graph = assert_rewrites(PASS, bordered, noise(2, 4, 5, 6), at=["0"])
    assert len(list(graph.calls(aten.conv2d.default))) == arithmetic(graph) == 1


def test_folds_into_every_reader() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = x * net.c
        return net.a(y) + net.b(y) + net.fc(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    model = Net(
        forward,
        a=nn.Conv2d(4, 6, 1),
        b=nn.Conv2d(4, 6, 3, padding=1),
        fc=nn.Linear(4, 6),
        c=torch.ones(4, 1, 1),
    )
    assert_rewrites(PASS, model, noise(2, 4, 5, 6), at=[""], gone=(aten.mul.Tensor,))


def test_folds_with_a_dynamic_batch() -> None:
    model = Net(
        lambda net, x: net.b((net.a(x) * net.c + 1).relu() / net.c),
        a=nn.Conv2d(3, 4, 3, padding=1),
        b=nn.Conv2d(4, 3, 1),
        c=torch.ones(4, 1, 1),
    )
    graph = assert_rewrites(PASS, model, noise(2, 3, 5, 6), at=["", "", ""], gone=ARITHMETIC, dynamic_batch=True)
    assert graph.module(noise(3, 3, 5, 6)).shape == (3, 3, 5, 6)


def test_folds_only_the_call_of_a_shared_layer_that_is_scaled() -> None:
    model = Net(lambda net, x: net.fc(net.fc(x).relu()) * 2, fc=nn.Linear(4, 4))
    assert_rewrites(PASS, model, noise(2, 4), at=[""], gone=ARITHMETIC)


def test_leaves_the_scale_of_attention_to_the_pass_for_it() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        q, k, v = net.qkv(x).chunk(3, -1)
        return net.proj((q * 0.5 @ k.transpose(1, 2)).softmax(-1) @ v)

    def model() -> nn.Module:
        return Net(forward, qkv=nn.Linear(4, 12), proj=nn.Linear(4, 4))

    assert_keeps(PASS, model(), noise(2, 5, 4))
    graph, rewrites = apply("attention_scale_into_query", model(), noise(2, 5, 4))
    assert len(rewrites) == 1
    assert PASSES[PASS].run(graph) == []


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net.padded(x + net.c),
        lambda net, x: net.padded(x - 1),
        lambda net, x: net.padded(x.relu() + 1) + net.conv(x),
        lambda net, x: net.padded(x * net.zero + net.c),
        lambda net, x: (lambda y: net.conv(y) + y)(x * 2),
        lambda net, x: (lambda y: y * 2 + y)(net.conv(x)),
        lambda net, x: (lambda y: y * y)(net.conv(x)),
        lambda net, x: (lambda y: net.padded(y + 1) + y.relu())(x * 2),
        lambda net, x: net.conv(x * (net.c * 2)),
        lambda net, x: net.conv(x * x),
        lambda net, x: net.conv(x + x),
        lambda net, x: net.conv(net.c / x.exp()),
        lambda net, x: net.conv(torch.div(x, 2, rounding_mode="floor")),
        lambda net, x: net.conv(x * x.mean()),
        lambda net, x: net.conv(x * x.mean((0, 2, 3), keepdim=True)),
        lambda net, x: net.conv(x * net.row),
        lambda net, x: net.conv(x) * net.row,
        lambda net, x: net.conv(x * net.image),
        lambda net, x: net.conv(x) + net.image,
        lambda net, x: net.conv(x * net.batch),
        lambda net, x: net.conv(x) * net.batch,
        lambda net, x: net.conv(x) * net.one,
        lambda net, x: net.conv((x * net.c).transpose(1, 2)),
        lambda net, x: (net.conv(x).transpose(1, 2)) * net.c,
        lambda net, x: net.conv((x * net.c).flip(1)),
        lambda net, x: net.conv((x * 2).relu()),
        lambda net, x: net.conv(x).relu() * 2,
        lambda net, x: F.conv2d(x * 2, net.kernel * x.mean()),
        lambda net, x: F.conv2d(x, net.kernel * x.mean()) * 2,
        lambda net, x: F.conv2d(x, (x * 2)[:, :, :1, :1]),
        lambda net, x: F.conv_transpose2d(x * 2, net.kernel),
        lambda net, x: net.conv(x[:1]) * net.batch,
        lambda net, x: F.max_pool2d(net.conv(x), 2) * 2,
        lambda net, x: net.conv(x).mean(1, keepdim=True) * 2,
        lambda net, x: F.avg_pool2d(net.conv(x), 2, padding=1) + 2,
    ],
)
def test_keeps(forward: Callable[..., Tensor]) -> None:
    members = {"conv": nn.Conv2d(4, 4, 1), "padded": nn.Conv2d(4, 4, 3, padding=1)}
    constants = {
        "c": torch.ones(4, 1, 1),
        "row": torch.ones(1, 4),
        "image": torch.ones(4, 4, 4),
        "batch": torch.ones(4, 1, 1, 1),
        "one": torch.ones(1, 1, 1, 1, 1),
        "kernel": torch.ones(4, 4, 1, 1),
    }
    model = Net(forward, **members, **constants)
    model.register_buffer("zero", torch.zeros(4, 1, 1))
    assert_keeps(PASS, model, noise(4, 4, 4, 4))


@pytest.mark.parametrize("channels", [nn.Conv2d(4, 4, 1, groups=4), nn.BatchNorm2d(4)], ids=str)
def test_keeps_a_gain_of_another_axis(channels: nn.Module) -> None:
    assert_keeps(PASS, nn.Sequential(channels, nn.Linear(4, 4)), noise(4, 4, 4, 4))


def test_keeps_an_output() -> None:
    def forward(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        y = net.fc(x)
        z = x * 2
        return y * 2, y, net.fc(z), z

    assert_keeps(PASS, Net(forward, fc=nn.Linear(4, 4)), noise(2, 4))


def test_keeps_a_division_by_zero() -> None:
    model = Net(lambda net, x: net.fc(x / net.zero), fc=nn.Linear(4, 4), zero=torch.zeros(4)).eval()
    assert PASSES[PASS].run(capture(model, (torch.ones(2, 4),))) == []


@pytest.mark.parametrize(
    "product",
    [
        lambda net, x: net.fc(x.long() * 0.5),
        lambda net, x: net.fc(x.half() * net.c),
        lambda net, x: net.fc(x) * net.c.double(),
        lambda net, x: net.fc((x > 0) * net.c),
        lambda net, x: F.linear(x.long() * 2, net.whole),
    ],
    ids=["integers", "half", "double", "bool", "only integers"],
)
def test_keeps_what_changes_the_dtype(product: Callable[..., Tensor]) -> None:
    """The product of an integer and 0.5 is a float: it is the cast as well."""
    model = Net(product, fc=nn.Linear(4, 4), c=torch.ones(4)).eval()
    model.register_buffer("whole", torch.ones(4, 4).long())
    graph = capture(model, (torch.full((2, 4), 3.0),))
    PASSES["constant_folding"].run(graph)
    assert PASSES[PASS].run(graph) == []


def test_keeps_the_weights_of_other_calls() -> None:
    model = Net(lambda net, x: net.fc(x) * 2 + net.fc(x + 0.5), fc=nn.Linear(4, 4))
    graph, _ = apply(PASS, model, noise(2, 4))
    weights = [argument(node, "weight") for node in graph.calls(aten.linear.default)]
    assert len(set(weights)) == 2


def test_keeps_a_gain_so_small_that_the_shift_over_it_is_not_finite() -> None:
    def tiny(graph: Graph) -> None:
        (mul,) = graph.calls(aten.mul.Tensor)
        mul.args = (mul.args[0], 1e-310)

    model = Net(lambda net, x: net.conv(x.sin() * 2 + 1), conv=nn.Conv2d(4, 4, 3, padding=1))
    assert_keeps(PASS, model, noise(2, 4, 5, 6), edit=tiny)
