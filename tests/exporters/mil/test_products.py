"""Convolutions, matrix products and attention against torch, with every attribute."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F

from deploy_kit.exporters.mil.registry import UnsupportedOperatorError
from tests.exporters.mil.support import check, mb, noise, run, wide


@pytest.mark.parametrize(("stride", "dilation", "groups"), list(itertools.product((1, 2), (1, 2), (1, 3))))
def test_conv_with_strides_dilations_and_groups(stride: int, dilation: int, groups: int) -> None:
    x, weight, bias = noise(2, 6, 11, 9), noise(9, 6 // groups, 3, 2, seed=1), noise(9, seed=2)
    expected = F.conv2d(*wide(x, weight, bias), (stride, 1), (1, 2), dilation, groups)
    check(
        lambda x: mb.conv(
            x=x,
            weight=weight.numpy(),
            bias=bias.numpy(),
            strides=[stride, 1],
            pad_type="custom",
            pad=[1, 1, 2, 2],
            dilations=[dilation, dilation],
            groups=groups,
        ),
        expected,
        x,
        within=1e-5,
    )


def test_conv_pads_each_side_by_itself() -> None:
    x, weight = noise(1, 2, 7, 5), noise(3, 2, 3, 3, seed=1)
    expected = F.conv2d(F.pad(x, (3, 0, 1, 2)).double(), weight.double())
    check(lambda x: mb.conv(x=x, weight=weight.numpy(), pad_type="custom", pad=[1, 2, 3, 0]), expected, x, within=1e-5)


@pytest.mark.parametrize("rank", [1, 3])
def test_conv_of_other_ranks(rank: int) -> None:
    x, weight = noise(1, 2, *[6, 5, 4][:rank]), noise(3, 2, *[3] * rank, seed=1)
    expected = {1: F.conv1d, 3: F.conv3d}[rank](*wide(x, weight))
    check(lambda x: mb.conv(x=x, weight=weight.numpy(), pad_type="valid"), expected, x, within=1e-5)


def test_same_padding_where_it_means_one_thing() -> None:
    x, weight = noise(1, 2, 7, 5), noise(3, 2, 3, 5, seed=1)
    expected = F.conv2d(*wide(x, weight), padding="same")
    check(lambda x: mb.conv(x=x, weight=weight.numpy(), pad_type="same"), expected, x, within=1e-5)
    for kernel, stride in ((2, 1), (3, 2)):
        weight = noise(3, 2, kernel, kernel)
        with pytest.raises(UnsupportedOperatorError, match="pad_type 'same'"):
            run(lambda x, w=weight, s=stride: mb.conv(x=x, weight=w.numpy(), pad_type="same", strides=[s, s]), x)


@pytest.mark.parametrize(
    ("stride", "pad", "extra", "dilation", "groups"),
    [(2, 0, 0, 1, 1), (2, 1, 1, 1, 2), (3, 1, 2, 1, 1), (2, 0, 1, 1, 1), (1, 1, 0, 2, 1), (4, 0, 0, 1, 4)],
)
def test_conv_transpose(stride: int, pad: int, extra: int, dilation: int, groups: int) -> None:
    x, weight, bias = noise(2, 4, 5, 3), noise(4, 2, 3, 3, seed=1), noise(2 * groups, seed=2)
    expected = F.conv_transpose2d(*wide(x, weight, bias), stride, pad, extra, groups, dilation)
    check(
        lambda x: mb.conv_transpose(
            x=x,
            weight=weight.numpy(),
            bias=bias.numpy(),
            strides=[stride] * 2,
            pad_type="custom",
            pad=[pad] * 4,
            dilations=[dilation] * 2,
            groups=groups,
            output_shape=list(expected.shape),
        ),
        expected,
        x,
        within=1e-5,
    )


def test_conv_transpose_without_an_output_shape() -> None:
    x, weight = noise(1, 3, 5), noise(3, 2, 4, seed=1)
    for pad_type, pad, expected in (
        ("valid", None, F.conv_transpose1d(*wide(x, weight), stride=2)),
        ("custom", [1, 1], F.conv_transpose1d(*wide(x, weight), stride=2, padding=1)),
    ):
        extra = {} if pad is None else {"pad": pad}
        check(
            lambda x, t=pad_type, e=extra: mb.conv_transpose(x=x, weight=weight.numpy(), strides=[2], pad_type=t, **e),
            expected,
            x,
            within=1e-5,
        )
    with pytest.raises(UnsupportedOperatorError, match="same"):
        run(lambda x: mb.conv_transpose(x=x, weight=weight.numpy(), strides=[2], pad_type="same"), x)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_linear(shape: tuple[int, ...]) -> None:
    x, weight, bias = noise(*shape), noise(4, 5, seed=1), noise(4, seed=2)
    check(
        lambda x: mb.linear(x=x, weight=weight.numpy(), bias=bias.numpy()),
        F.linear(*wide(x, weight, bias)),
        x,
        within=1e-5,
    )
    check(lambda x: mb.linear(x=x, weight=weight.numpy()), F.linear(*wide(x, weight)), x, within=1e-5)


@pytest.mark.parametrize(("left", "right"), list(itertools.product((False, True), (False, True))))
def test_matmul_with_transposed_operands(left: bool, right: bool) -> None:
    x, y = noise(2, 1, 3, 4), noise(5, 4, 6, seed=1)
    given = x.mT.contiguous() if left else x, y.mT.contiguous() if right else y
    check(lambda x, y: mb.matmul(x=x, y=y, transpose_x=left, transpose_y=right), torch.matmul(*wide(x, y)), *given)


def test_einsum() -> None:
    x, y = noise(2, 3, 4, 5), noise(2, 5, 4, 6, seed=1)
    equation = "nchw,nwhu->nchu"
    check(lambda x, y: mb.einsum(values=(x, y), equation=equation), torch.einsum(equation, *wide(x, y)), x, y)


@pytest.mark.parametrize("masked", ["no", "added", "chosen"])
def test_attention(masked: str) -> None:
    q, k, v, mask = noise(2, 3, 4, 8), noise(2, 3, 5, 8, seed=1), noise(2, 3, 5, 6, seed=2), noise(4, 5, seed=3)

    def build(q, k, v, mask):
        given = {"no": {}, "added": {"attn_mask": mask}, "chosen": {"attn_mask": mb.greater(x=mask, y=-0.5)}}[masked]
        return mb.scaled_dot_product_attention(query=q, key=k, value=v, **given)

    torch_mask = {"no": None, "added": mask.double(), "chosen": mask > -0.5}[masked]
    check(build, F.scaled_dot_product_attention(*wide(q, k, v), torch_mask), q, k, v, mask, ios=18)
