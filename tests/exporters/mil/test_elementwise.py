"""Each elementwise operator against torch, and against coremltools' own arithmetic where it has some."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from deploy_kit.exporters.mil.elementwise import BINARY, UNARY
from deploy_kit.exporters.mil.registry import UnsupportedOperatorError
from tests.exporters.mil.support import check, inferred, mb, noise, run, wide

POSITIVE = {"sqrt"}
WITHIN_ONE = {"acos", "asin", "atanh"}
NOT_FLOAT = {"logical_not", "logical_and", "logical_or", "logical_xor"}


@pytest.mark.parametrize("name", sorted(set(UNARY) - NOT_FLOAT - {"silu", "identity"}))
def test_unary_as_coremltools_computes_it(name: str) -> None:
    x = noise(3, 5) * 2
    x = x.abs() if name in POSITIVE else x.tanh() if name in WITHIN_ONE else x
    operator = getattr(mb, name)
    check(lambda x: operator(x=x), inferred(lambda x: operator(x=x), x), x, within=1e-5)


@pytest.mark.parametrize("name", sorted(set(BINARY) - NOT_FLOAT))
def test_binary_broadcasts_as_coremltools_does(name: str) -> None:
    x, y = noise(3, 1, 5), noise(4, 1, seed=1)
    x = x.abs() + 0.1 if name == "pow" else x
    if name.endswith("equal"):
        y[0] = x[0, 0, 0]
    operator = getattr(mb, name)
    check(lambda x, y: operator(x=x, y=y), inferred(lambda x, y: operator(x=x, y=y), x, y), x, y, within=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("logical_and", torch.logical_and), ("logical_or", torch.logical_or), ("logical_xor", torch.logical_xor)],
)
def test_truth_values(name: str, expected: torch.nn.Module) -> None:
    def build(x, y):
        zero = mb.const(val=0.0)
        return mb.cast(x=getattr(mb, name)(x=mb.greater(x=x, y=zero), y=mb.greater(x=y, y=zero)), dtype="fp32")

    x, y = noise(4, 4), noise(4, 4, seed=1)
    check(build, expected(x > 0, y > 0).double(), x, y)
    negated = (lambda x: mb.cast(x=mb.logical_not(x=mb.greater(x=x, y=0.0)), dtype="int32"), (x <= 0).int())
    check(*negated, x)


def test_silu_and_identity() -> None:
    x = noise(3, 4)
    check(lambda x: mb.silu(x=x), F.silu(*wide(x)), x)
    check(lambda x: mb.identity(x=x), x, x)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("EXACT", lambda x: F.gelu(x)),
        ("TANH_APPROXIMATION", lambda x: F.gelu(x, approximate="tanh")),
        ("SIGMOID_APPROXIMATION", lambda x: x * torch.sigmoid(1.702 * x)),
    ],
)
def test_gelu_in_each_mode(mode: str, expected) -> None:
    x = noise(4, 8) * 3
    check(lambda x: mb.gelu(x=x, mode=mode), expected(x.double()), x)


def test_the_modes_of_gelu_differ() -> None:
    x = noise(4, 8)
    exact, tanh = (run(lambda x, mode=mode: mb.gelu(x=x, mode=mode), x) for mode in ("EXACT", "TANH_APPROXIMATION"))
    assert (exact - tanh).abs().max() > 1e-5


ALPHA, BETA = 0.3, 0.7


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda x: mb.leaky_relu(x=x, alpha=ALPHA), lambda x: F.leaky_relu(x, ALPHA)),
        (lambda x: mb.elu(x=x, alpha=ALPHA), lambda x: F.elu(x, ALPHA)),
        (lambda x: mb.thresholded_relu(x=x, alpha=-ALPHA), lambda x: torch.where(x >= -ALPHA, x, 0 * x)),
        (lambda x: mb.clamped_relu(x=x, alpha=ALPHA, beta=BETA), lambda x: F.leaky_relu(x, ALPHA).clamp(max=BETA)),
        (lambda x: mb.linear_activation(x=x, alpha=ALPHA, beta=BETA), lambda x: ALPHA * x + BETA),
        (lambda x: mb.scaled_tanh(x=x, alpha=ALPHA, beta=BETA), lambda x: ALPHA * torch.tanh(BETA * x)),
        (lambda x: mb.sigmoid_hard(x=x, alpha=1 / 6, beta=0.5), F.hardsigmoid),
        (lambda x: mb.clip(x=x, alpha=-ALPHA, beta=BETA), lambda x: x.clamp(-ALPHA, BETA)),
        (lambda x: mb.threshold(x=x, alpha=ALPHA), lambda x: x.clamp(min=ALPHA)),
        (lambda x: mb.softmax(x=x, axis=1), lambda x: x.softmax(1)),
        (lambda x: mb.softmax(x=x, axis=-1), lambda x: x.softmax(-1)),
        (lambda x: mb.real_div(x=x, y=4.0), lambda x: x / 4),
        (lambda x: mb.inverse(x=x, epsilon=9.0), lambda x: 1 / (x + 9)),
        (lambda x: mb.log(x=x, epsilon=9.0), lambda x: torch.log(x + 9)),
        (lambda x: mb.rsqrt(x=x, epsilon=9.0), lambda x: torch.rsqrt(x + 9)),
    ],
)
def test_with_parameters(build, expected) -> None:
    x = noise(2, 3, 4, 5) * 2
    check(build, expected(x.double()), x)


def test_prelu_is_per_channel() -> None:
    x, slopes = noise(2, 3, 4, 5), noise(3, seed=1)
    check(lambda x: mb.prelu(x=x, alpha=slopes.numpy()), F.prelu(*wide(x, slopes)), x)


def test_select() -> None:
    x, y = noise(3, 4), noise(3, 4, seed=1)
    check(lambda x, y: mb.select(cond=mb.greater(x=x, y=y), a=x, b=y), torch.maximum(x, y), x, y)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("int32", lambda x: x.int()), ("bool", lambda x: x.bool()), ("fp16", lambda x: x.half().double())],
)
def test_cast(dtype: str, expected) -> None:
    x = torch.tensor([-2.7, -0.2, 0.0, 1.5, 1e-9, 2049.0])
    check(lambda x: mb.cast(x=x, dtype=dtype), expected(x), x)


def test_a_cast_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UnsupportedOperatorError, match="out of its range"):
        run(lambda x: mb.cast(x=x, dtype="int16"), torch.tensor([4e4]), ios=17)


def test_fp16_overflows_to_infinity_and_underflows_to_zero() -> None:
    x = torch.tensor([300.0, 1e-3, 1.0])
    squared = run(lambda x: mb.cast(x=mb.square(x=mb.cast(x=x, dtype="fp16")), dtype="fp32"), x * torch.tensor(1.0))
    assert squared[0].item() == math.inf
    assert squared[2].item() == 1
    assert run(lambda x: mb.square(x=mb.square(x=mb.cast(x=x, dtype="fp16"))), x)[1].item() == 0
