"""What LeViT's descendants, EfficientViT (Microsoft) and EfficientFormer, took over from it.

Attention with a learned bias for each offset between two tokens, and convolutions and classifiers with
BatchNorm. Names of submodules and parameters are those of the official checkpoints.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy_kit.errors import UserError

Size = tuple[int, int]
"""Height and width, in pixels or tokens."""


def subsampled(resolution: Size) -> Size:
    """The size of a map of which every second row and column is kept."""
    return (resolution[0] + 1) // 2, (resolution[1] + 1) // 2


class ConvNorm(nn.Sequential):
    """Convolution without bias, then BatchNorm: ``[B, Ci, H, W] -> [B, Co, H/stride, W/stride]``, rounded up."""

    def __init__(self, dim_in: int, dim_out: int, kernel: int = 1, stride: int = 1, groups: int = 1):
        super().__init__()
        self.c = nn.Conv2d(dim_in, dim_out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(dim_out)


def conv_stem(dim: int, activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Four strided convolutions with activations between, each wider: ``[B, 3, H, W] -> [B, dim, H/16, W/16]``."""
    layers: list[nn.Module] = []
    for dim_in, dim_out in itertools.pairwise((3, dim // 8, dim // 4, dim // 2, dim)):
        layers += [ConvNorm(dim_in, dim_out, 3, 2), activation()]
    return nn.Sequential(*layers[:-1])


class NormLinear(nn.Sequential):
    """BatchNorm, then the classifier: ``[B, dim] -> [B, classes]``."""

    def __init__(self, dim: int, num_classes: int):
        super().__init__()
        self.bn = nn.BatchNorm1d(dim)
        self.l = nn.Linear(dim, num_classes)


class Residual(nn.Module):
    """``x + m(x)``."""

    def __init__(self, m: nn.Module):
        super().__init__()
        self.m = m

    def forward(self, x: Tensor) -> Tensor:
        return x + self.m(x)


def average_heads(x: Tensor, first: nn.Linear, second: nn.Linear) -> Tensor:
    """The average of two classifiers, ``[B, dim] -> [B, classes]``, as the one classifier that it is.

    In a graph its weight is a constant, and folded.
    """
    return F.linear(x, (first.weight + second.weight) / 2, (first.bias + second.bias) / 2)


def offset_index(resolution: Size, stride: int = 1) -> Tensor:
    """Which bias stands between a query and a key: ``[queries, keys]`` of ``|dy| * width + |dx|``.

    Keys are all tokens of a map of ``resolution``, row by row; queries are every ``stride``-th in both axes.
    """
    height, width = resolution
    rows, columns = (torch.arange(side) for side in resolution)
    dy = (rows[::stride, None] - rows).abs()
    dx = (columns[::stride, None] - columns).abs()
    index = dy[:, None, :, None] * width + dx[None, :, None, :]
    return index.reshape(-1, height * width)


class BiasedAttention(nn.Module):
    """The biases of an attention: one for each head and offset, learned for maps of one size.

    They are looked up from the parameter at every call, so that they cannot go stale; in a graph both are
    constants, and folded into one.
    """

    attention_bias_idxs: Tensor

    def __init__(self, heads: int, resolution: Size, stride: int = 1):
        super().__init__()
        self.resolution = resolution
        self.stride = stride
        self.attention_biases = nn.Parameter(torch.zeros(heads, math.prod(resolution)))
        self.register_buffer("attention_bias_idxs", offset_index(resolution, stride), persistent=False)

    def bias(self) -> Tensor:
        """``[heads, queries, keys]``, to be added to the scores."""
        return self.attention_biases[:, self.attention_bias_idxs]


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor) -> Tensor:
    """Attention on ``[..., channels, tokens]``, of which the result has v's channels and q's tokens."""
    weights = ((q.transpose(-2, -1) @ k) * scale + bias).softmax(-1)
    return v @ weights.transpose(-2, -1)


Rule = tuple[str, str | Callable[[re.Match[str]], str]]
"""A pattern in a key, and what to write for it, as `re.sub` takes them."""


def rename(state: dict[str, Tensor], rules: Iterable[Rule]) -> dict[str, Tensor]:
    """A ``state`` in timm's layout with the official keys: every rule in order; any other state as it is."""
    if not any(key.startswith("stages.") for key in state):
        return state
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def convert_biases(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """An official ``state`` with the biases that ``model`` has.

    The index tables in it are what `offset_index` computes: they are compared with that and left out. Biases
    that were learned for another size of image are interpolated, bicubically in the plane of offsets, as
    EfficientViT's authors do.

    Raises:
        UserError: a table orders the biases in another way.
    """
    state = dict(state)
    for name, module in model.named_modules():
        if isinstance(module, BiasedAttention):
            biases, index = f"{name}.attention_biases", f"{name}.attention_bias_idxs"
            if biases in state:
                learned_for = math.isqrt(state[biases].shape[-1])
                _check_index(index, state.pop(index, None), offset_index((learned_for, learned_for), module.stride))
                state[biases] = _resize(state[biases], learned_for, module)
    return state


def _check_index(key: str, found: Tensor | None, expected: Tensor) -> None:
    if found is not None and not found.equal(expected):
        raise UserError(
            f"the checkpoint's {key!r} is not the table of offsets that the published models have",
            fix="take a checkpoint of the published architecture",
        )


def _resize(biases: Tensor, side: int, module: BiasedAttention) -> Tensor:
    if biases.shape == module.attention_biases.shape or biases.shape[-1] != side * side:
        return biases
    plane = biases.reshape(1, -1, side, side)
    return F.interpolate(plane, module.resolution, mode="bicubic").flatten(2)[0]
