"""Reductions against coremltools' own arithmetic, normalisations against torch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from deploy_kit.exporters.mil.reductions import REDUCTIONS
from tests.exporters.mil.support import check, inferred, mb, noise, wide


@pytest.mark.parametrize("name", [*sorted(REDUCTIONS), "reduce_prod"])
@pytest.mark.parametrize(("axes", "keep"), [([1], True), ([-1, 0], False), (None, False)])
def test_reduction_as_coremltools_computes_it(name: str, axes: list[int] | None, keep: bool) -> None:
    x = noise(2, 3, 4).abs() + 0.1
    over = {} if axes is None else {"axes": axes}

    def build(x):
        return getattr(mb, name)(x=x, keep_dims=keep, **over)

    check(build, inferred(build, x), x, within=1e-5)


@pytest.mark.parametrize(("name", "expected"), [("reduce_argmax", torch.argmax), ("reduce_argmin", torch.argmin)])
def test_where_the_extreme_is(name: str, expected) -> None:
    x = noise(2, 3, 4)
    check(lambda x: getattr(mb, name)(x=x, axis=1, keep_dims=True), expected(x, 1, keepdim=True), x)
    check(lambda x: getattr(mb, name)(x=x), expected(x, -1), x)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm(shape: tuple[int, ...], affine: bool) -> None:
    x, mean, var, gamma, beta = noise(*shape), *(noise(3, seed=seed) for seed in range(1, 5))
    var = var.abs() + 0.1
    expected = F.batch_norm(*wide(x, mean, var), *(wide(gamma, beta) if affine else (None, None)), eps=0.02)
    given = {"gamma": gamma.numpy(), "beta": beta.numpy()} if affine else {}
    check(
        lambda x: mb.batch_norm(x=x, mean=mean.numpy(), variance=var.numpy(), epsilon=0.02, **given),
        expected,
        x,
        within=1e-5,
    )


def test_instance_norm() -> None:
    x, gamma, beta = noise(2, 3, 4, 5), noise(3, seed=1), noise(3, seed=2)
    expected = F.instance_norm(x.double(), weight=gamma.double(), bias=beta.double(), eps=0.02)
    check(lambda x: mb.instance_norm(x=x, gamma=gamma.numpy(), beta=beta.numpy(), epsilon=0.02), expected, x)


@pytest.mark.parametrize("axes", [[-1], [2, 3], [-2, -1]])
def test_layer_norm(axes: list[int]) -> None:
    x = noise(2, 3, 4, 5)
    shape = [x.shape[axis] for axis in axes]
    gamma, beta = noise(*shape, seed=1), noise(*shape, seed=2)
    expected = F.layer_norm(x.double(), shape, gamma.double(), beta.double(), eps=0.02)
    check(lambda x: mb.layer_norm(x=x, axes=axes, gamma=gamma.numpy(), beta=beta.numpy(), epsilon=0.02), expected, x)


def test_layer_norm_over_channels_in_the_middle() -> None:
    x, gamma, beta = noise(2, 3, 4, 5), noise(3, seed=1), noise(3, seed=2)
    moved = F.layer_norm(x.double().permute(0, 2, 3, 1), [3], gamma.double(), beta.double(), eps=1e-5)
    check(
        lambda x: mb.layer_norm(x=x, axes=[1], gamma=gamma.numpy(), beta=beta.numpy(), epsilon=1e-5),
        moved.permute(0, 3, 1, 2),
        x,
    )


def test_l2_norm() -> None:
    x = noise(2, 3, 4, 5)
    check(lambda x: mb.l2_norm(x=x, epsilon=1e-6), inferred(lambda x: mb.l2_norm(x=x, epsilon=1e-6), x), x)


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_cumsum(exclusive: bool, reverse: bool) -> None:
    x = noise(3, 5)
    data = x.double().flip(1) if reverse else x.double()
    total = data.cumsum(1) - (data if exclusive else 0)
    expected = total.flip(1) if reverse else total
    check(lambda x: mb.cumsum(x=x, axis=1, exclusive=exclusive, reverse=reverse), expected, x)
