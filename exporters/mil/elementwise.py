"""MIL's operators that treat each element by itself: activations, arithmetic, comparisons, casts."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from deploy_kit.exporters.mil.registry import OPERATORS, UnsupportedOperatorError, operator

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "floor": torch.floor,
    "identity": torch.clone,
    "logical_not": torch.logical_not,
    "relu": torch.relu,
    "relu6": lambda x: x.clamp(0, 6),
    "round": torch.round,
    "sigmoid": torch.sigmoid,
    "sign": torch.sign,
    "silu": lambda x: x * torch.sigmoid(x),
    "sin": torch.sin,
    "sinh": torch.sinh,
    "softplus": lambda x: torch.log1p(torch.exp(-x.abs())) + x.clamp(min=0),
    "softsign": lambda x: x / (1 + x.abs()),
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}

BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "equal": torch.eq,
    "floor_div": torch.floor_divide,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mod": torch.remainder,
    "mul": torch.mul,
    "not_equal": torch.ne,
    "pow": torch.pow,
    "sub": torch.sub,
}


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def call(x: Tensor) -> Tensor:
        return function(x)

    return call


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def call(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)

    return call


OPERATORS.update({name: _unary(function) for name, function in UNARY.items()})
OPERATORS.update({name: _binary(function) for name, function in BINARY.items()})


@operator("real_div")
def real_div(x: Tensor, y: Tensor) -> Tensor:
    if not x.is_floating_point():
        raise UnsupportedOperatorError("real_div of integers")
    return x / y


@operator("gelu")
def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "EXACT":
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
    if mode == "TANH_APPROXIMATION":
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    raise UnsupportedOperatorError(f"gelu with mode {mode!r}")


@operator("leaky_relu")
def leaky_relu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x >= 0, x, alpha * x)


@operator("prelu")
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """``alpha`` has one element a channel, and channels are axis 1."""
    return torch.where(x > 0, x, alpha.reshape(-1, *[1] * (x.dim() - 2)) * x)


@operator("elu")
def elu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0)))


@operator("thresholded_relu")
def thresholded_relu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x >= alpha, x, torch.zeros_like(x))


@operator("clamped_relu")
def clamped_relu(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.minimum(torch.where(x >= 0, x, alpha * x), beta)


@operator("linear_activation")
def linear_activation(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return alpha * x + beta


@operator("scaled_tanh")
def scaled_tanh(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return alpha * torch.tanh(beta * x)


@operator("sigmoid_hard")
def sigmoid_hard(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


@operator("softmax")
def softmax(x: Tensor, axis: Tensor) -> Tensor:
    return torch.softmax(x, int(axis.item()))


@operator("clip")
def clip(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x, alpha), beta)


@operator("threshold")
def threshold(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.maximum(x, alpha)


@operator("inverse")
def inverse(x: Tensor, epsilon: Tensor) -> Tensor:
    return 1 / (x + epsilon)


@operator("log")
def log(x: Tensor, epsilon: Tensor) -> Tensor:
    return torch.log(x + epsilon)


@operator("rsqrt")
def rsqrt(x: Tensor, epsilon: Tensor) -> Tensor:
    return 1 / torch.sqrt(x + epsilon)


@operator("select")
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond, a, b)


RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-(2**15), 2**15 - 1), "uint16": (0, 2**16 - 1)}


@operator("cast")
def cast(x: Tensor, dtype: str) -> Tensor:
    """The type of the result is the program's to say; here only what differs between kinds of numbers is done."""
    if dtype == "bool":
        return x != 0
    if dtype in ("fp16", "fp32"):
        return x if x.is_floating_point() else x.to(torch.float64)
    if dtype != "int32" and dtype not in RANGES:
        raise UnsupportedOperatorError(f"cast to {dtype}")
    whole = x.to(torch.int64)
    low, high = RANGES.get(dtype, (-(2**31), 2**31 - 1))
    if whole.numel() and (whole.min() < low or whole.max() > high):
        raise UnsupportedOperatorError(f"cast to {dtype} of values out of its range")
    return whole
