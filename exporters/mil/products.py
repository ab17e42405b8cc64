"""MIL's sums of products: convolutions, linear layers, matrix products, attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from deploy_kit.exporters.mil.registry import UnsupportedOperatorError, flag, integer, integers, operator

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def paddings(pad_type: str, pad: Tensor | None, kernel: list[int], strides: list[int]) -> list[int]:
    """Elements before and after each spatial axis: ``[before_0, after_0, before_1, ...]``.

    Args:
        kernel: sizes, dilation included.

    ``same`` is described in two ways that agree only for odd kernels at stride 1; others are refused.
    """
    if pad_type == "valid":
        return [0] * (2 * len(kernel))
    if pad_type == "custom" and pad is not None:
        return integers(pad)
    if pad_type in ("same", "same_lower") and all(k % 2 for k in kernel) and all(s == 1 for s in strides):
        return [k // 2 for k in kernel for _ in range(2)]
    raise UnsupportedOperatorError(f"pad_type {pad_type!r} with a kernel of {kernel} and strides of {strides}")


def torch_order(pad: list[int]) -> list[int]:
    """MIL's paddings, first axis first, in the order of ``torch.nn.functional.pad``, last axis first."""
    pairs = list(zip(pad[::2], pad[1::2]))
    return [side for pair in reversed(pairs) for side in pair]


@operator("conv")
def conv(
    x: Tensor,
    weight: Tensor,
    strides: Tensor,
    pad_type: str,
    dilations: Tensor,
    groups: Tensor,
    pad: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    spread = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], integers(dilations))]
    padded = F.pad(x, torch_order(paddings(pad_type, pad, spread, integers(strides))))
    function = _CONVOLUTIONS[x.dim() - 2]
    return function(
        padded, weight, bias, stride=integers(strides), dilation=integers(dilations), groups=integer(groups)
    )


@operator("conv_transpose")
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    strides: Tensor,
    pad_type: str,
    dilations: Tensor,
    groups: Tensor,
    pad: Tensor | None = None,
    output_shape: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """The whole product, cut by ``pad`` on both sides, or to ``output_shape`` after the padding before it."""
    if pad_type not in ("valid", "custom"):
        raise UnsupportedOperatorError(f"conv_transpose with pad_type {pad_type!r}")
    function = _TRANSPOSED[x.dim() - 2]
    whole = function(x, weight, stride=integers(strides), dilation=integers(dilations), groups=integer(groups))
    cut = integers(pad) if pad_type == "custom" and pad is not None else [0] * (2 * (x.dim() - 2))
    shape = None if output_shape is None else integers(output_shape)[2:]
    for index, (before, after) in enumerate(zip(cut[::2], cut[1::2])):
        axis = index + 2
        size = whole.shape[axis] - before - after if shape is None else shape[index]
        missing = max(0, before + size - whole.shape[axis])
        ends = [0, 0] * (whole.dim() - 1 - axis) + [0, missing]
        whole = F.pad(whole, ends).narrow(axis, before, size)
    return whole if bias is None else whole + bias.reshape(-1, *[1] * (x.dim() - 2))


@operator("linear")
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight, bias)


@operator("matmul")
def matmul(x: Tensor, y: Tensor, transpose_x: Tensor | None = None, transpose_y: Tensor | None = None) -> Tensor:
    if flag(transpose_x) and x.dim() > 1:
        x = x.transpose(-1, -2)
    if flag(transpose_y) and y.dim() > 1:
        y = y.transpose(-1, -2)
    return torch.matmul(x, y)


@operator("einsum")
def einsum(values: list[Tensor], equation: str) -> Tensor:
    return torch.einsum(equation, *values)


@operator("scaled_dot_product_attention")
def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.softmax(scores, -1) @ value
