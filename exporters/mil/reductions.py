"""MIL's reductions and normalisations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deploy_kit.exporters.mil.registry import OPERATORS, flag, integer, integers, operator

REDUCTIONS: dict[str, Callable[[Tensor, list[int]], Tensor]] = {
    "reduce_l1_norm": lambda x, axes: x.abs().sum(axes, keepdim=True),
    "reduce_l2_norm": lambda x, axes: x.square().sum(axes, keepdim=True).sqrt(),
    "reduce_log_sum": lambda x, axes: x.sum(axes, keepdim=True).log(),
    "reduce_log_sum_exp": lambda x, axes: x.logsumexp(axes, keepdim=True),
    "reduce_max": lambda x, axes: x.amax(axes, keepdim=True),
    "reduce_mean": lambda x, axes: x.mean(axes, keepdim=True),
    "reduce_min": lambda x, axes: x.amin(axes, keepdim=True),
    "reduce_sum": lambda x, axes: x.sum(axes, keepdim=True),
    "reduce_sum_square": lambda x, axes: x.square().sum(axes, keepdim=True),
}


def _reduction(function: Callable[[Tensor, list[int]], Tensor]) -> Callable[..., Tensor]:
    def call(x: Tensor, keep_dims: Tensor, axes: Tensor | None = None) -> Tensor:
        over = list(range(x.dim())) if axes is None else [axis % x.dim() for axis in integers(axes)]
        reduced = function(x, over)
        return reduced if flag(keep_dims) else reduced.squeeze(over)

    return call


OPERATORS.update({name: _reduction(function) for name, function in REDUCTIONS.items()})


@operator("reduce_prod")
def reduce_prod(x: Tensor, keep_dims: Tensor, axes: Tensor | None = None) -> Tensor:
    over = list(range(x.dim())) if axes is None else [axis % x.dim() for axis in integers(axes)]
    reduced = x
    for axis in over:
        reduced = reduced.prod(axis, keepdim=True)
    return reduced if flag(keep_dims) else reduced.squeeze(over)


@operator("reduce_argmax")
def reduce_argmax(x: Tensor, axis: Tensor, keep_dims: Tensor) -> Tensor:
    return x.argmax(integer(axis), keepdim=flag(keep_dims))


@operator("reduce_argmin")
def reduce_argmin(x: Tensor, axis: Tensor, keep_dims: Tensor) -> Tensor:
    return x.argmin(integer(axis), keepdim=flag(keep_dims))


def _per_channel(value: Tensor, x: Tensor) -> Tensor:
    return value.reshape(-1, *[1] * (x.dim() - 2))


def _affine(x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    scaled = x if gamma is None else x * gamma
    return scaled if beta is None else scaled + beta


def _standard(x: Tensor, axes: list[int], epsilon: Tensor) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(axes, keepdim=True) + epsilon)


@operator("batch_norm")
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    epsilon: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
) -> Tensor:
    normal = (x - _per_channel(mean, x)) / torch.sqrt(_per_channel(variance, x) + epsilon)
    return _affine(
        normal, None if gamma is None else _per_channel(gamma, x), None if beta is None else _per_channel(beta, x)
    )


@operator("instance_norm")
def instance_norm(x: Tensor, epsilon: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None) -> Tensor:
    normal = _standard(x, list(range(2, x.dim())), epsilon)
    return _affine(
        normal, None if gamma is None else _per_channel(gamma, x), None if beta is None else _per_channel(beta, x)
    )


@operator("layer_norm")
def layer_norm(
    x: Tensor, axes: Tensor, epsilon: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None
) -> Tensor:
    over = sorted(axis % x.dim() for axis in integers(axes))
    shape = [size if axis in over else 1 for axis, size in enumerate(x.shape)]
    return _affine(
        _standard(x, over, epsilon),
        None if gamma is None else gamma.reshape(shape),
        None if beta is None else beta.reshape(shape),
    )


@operator("l2_norm")
def l2_norm(x: Tensor, epsilon: Tensor) -> Tensor:
    return x / torch.sqrt(x.square().sum((-3, -2, -1), keepdim=True) + epsilon)


@operator("cumsum")
def cumsum(x: Tensor, axis: Tensor, exclusive: Tensor, reverse: Tensor) -> Tensor:
    along = integer(axis)
    data = x.flip(along) if flag(reverse) else x
    total = data.cumsum(along)
    if flag(exclusive):
        total = total - data
    return total.flip(along) if flag(reverse) else total
