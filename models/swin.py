"""Swin Transformer: attention in windows that shift by half a window from block to block.

Source: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021
(https://arxiv.org/abs/2103.14030), as published in code (https://github.com/microsoft/Swin-Transformer).
Module names follow the official checkpoints. Images and windows stay channels-last between the stem and the
classifier, and no tensor has more than four axes; masks and biases are constants of the graph.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy_kit.errors import UserError
from deploy_kit.models.layers import ACTIVATIONS, ChannelMLP
from deploy_kit.models.registry import Published, register

Size = tuple[int, int]
Activation = Callable[[], nn.Module]

PATCH = 4
WINDOW = 7
HEAD_DIM = 32
MLP_RATIO = 4
REDUCTION = 32
"""How many pixels of an image stand beside one another in a token of the last stage."""
MASKED = -100.0
"""What is added to the score of two tokens that share a window but are no neighbours, as the authors do."""


@dataclass(frozen=True)
class SwinConfig:
    """One size: channels of the first stage, which double from stage to stage, and blocks of each stage."""

    dim: int
    depths: tuple[int, int, int, int]


CONFIGS = {
    "swin_tiny": SwinConfig(96, (2, 2, 6, 2)),
    "swin_small": SwinConfig(96, (2, 2, 18, 2)),
    "swin_base": SwinConfig(128, (2, 2, 18, 2)),
}


def cut(x: Tensor, window: int) -> Tensor:
    """An image's windows, row by row: ``[B, H, W, dim] -> [B * windows, window * window, dim]``.

    The pixels of a window's row are one long axis until the windows are apart, so that four axes do.
    """
    width, dim = x.shape[2:]
    rows = x.reshape(-1, window, width // window, window * dim)
    return rows.transpose(1, 2).reshape(-1, window * window, dim)


def join(windows: Tensor, resolution: Size, window: int) -> Tensor:
    """The inverse of `cut`: ``[B * windows, window * window, dim] -> [B, H, W, dim]``."""
    height, width = resolution
    rows = windows.reshape(-1, width // window, window, window * windows.shape[2])
    return rows.transpose(1, 2).reshape(-1, height, width, windows.shape[2])


def roll(x: Tensor, shift: int) -> Tensor:
    """``torch.roll`` of an image's rows and columns by ``shift``: ``[B, H, W, dim]`` in and out."""
    x = torch.cat((x[:, -shift:], x[:, :-shift]), 1)
    return torch.cat((x[:, :, -shift:], x[:, :, :-shift]), 2)


def relative_position_index(window: int) -> Tensor:
    """Which row of the table of biases stands between two tokens of a window: ``[tokens, tokens]``."""
    side = torch.arange(window)
    offset = side[:, None] - side + window - 1
    index = offset[:, None, :, None] * (2 * window - 1) + offset[None, :, None, :]
    return index.reshape(window * window, window * window)


def shift_mask(resolution: Size, window: int, shift: int) -> Tensor:
    """What keeps tokens apart that only the shift brought together: ``[windows, tokens, tokens]`` of 0 and -100."""
    height, width = (
        (torch.arange(side) >= side - window).int() + (torch.arange(side) >= side - shift).int() for side in resolution
    )
    region = cut((3 * height[:, None] + width)[None, :, :, None], window)
    return torch.where(region == region.transpose(1, 2), 0.0, MASKED)


class WindowAttention(nn.Module):
    """Multi-head attention in each window: ``[B * windows, tokens, dim]`` in and out.

    ``mask`` is `shift_mask`, or None where windows were not shifted. Biases are looked up from the parameter at
    every call, so that they cannot go stale; in a graph both are constants, and folded into one.
    """

    relative_position_index: Tensor
    mask: Tensor | None

    def __init__(self, dim: int, heads: int, window: int, mask: Tensor | None):
        super().__init__()
        self.heads = heads
        self.window = window
        self.scale = (dim // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.register_buffer("relative_position_index", relative_position_index(window), persistent=False)
        self.register_buffer("mask", mask, persistent=False)

    def bias(self) -> Tensor:
        """What is added to the scores: ``[heads, tokens, tokens]``, or with a mask ``[windows, heads, ...]``."""
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        return bias if self.mask is None else bias + self.mask[:, None]

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=2))
        weights = self.add_bias((q * self.scale) @ k.transpose(2, 3)).softmax(3)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))

    def add_bias(self, scores: Tensor) -> Tensor:
        """Scores with bias and mask: ``[B * windows, heads, tokens, tokens]`` in and out."""
        if self.mask is None:
            return scores + self.bias()
        bias = self.bias().flatten(0, 1)
        return (scores.reshape(-1, *bias.shape) + bias).reshape(-1, *scores.shape[1:])


class SwinBlock(nn.Module):
    """Window attention, shifted or not, and an MLP, each with its residual: ``[B, H, W, dim]`` in and out.

    H and W are ``resolution``, multiples of ``window``.
    """

    def __init__(self, dim: int, resolution: Size, window: int, shift: int, activation: Activation):
        super().__init__()
        self.resolution = resolution
        self.window = window
        self.shift = shift
        mask = shift_mask(resolution, window, shift) if shift else None
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, dim // HEAD_DIM, window, mask)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = ChannelMLP(dim, MLP_RATIO * dim, activation)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Tensor) -> Tensor:
        if not self.shift:
            return join(self.attn(cut(x, self.window)), self.resolution, self.window)
        x = join(self.attn(cut(roll(x, -self.shift), self.window)), self.resolution, self.window)
        return roll(x, self.shift)


class PatchMerging(nn.Module):
    """Each 2 x 2 tokens as one, LayerNorm, and half of the channels: ``[B, H, W, dim] -> [B, H/2, W/2, 2 * dim]``.

    Checkpoints order the joint channels by column, row and channel. Rows before columns need one permutation of
    the image in place of four strided slices, so the parameters are brought into that order instead.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        pairs = x.reshape(-1, 2, width // 2, 2 * self.dim).transpose(1, 2)
        x = pairs.reshape(-1, height // 2, width // 2, 4 * self.dim)
        gain, shift = self.rows_first(self.norm.weight), self.rows_first(self.norm.bias)
        x = F.layer_norm(x, (4 * self.dim,), gain, shift, self.norm.eps)
        return F.linear(x, self.rows_first(self.reduction.weight))

    def rows_first(self, parameter: Tensor) -> Tensor:
        """A parameter whose last axis is ordered by row, column and channel of the token that it is for."""
        return parameter.unflatten(-1, (2, 2, self.dim)).transpose(-3, -2).flatten(-3)


class Stage(nn.Module):
    """Blocks, of which every second one is shifted, and the way to the next stage, where there is one.

    A stage that is no larger than one window along an axis has that as its window and shifts nothing.
    """

    def __init__(self, dim: int, depth: int, resolution: Size, window: int, last: bool, activation: Activation):
        super().__init__()
        shift = window // 2 if min(resolution) > window else 0
        self.blocks = nn.Sequential(
            *[SwinBlock(dim, resolution, window, shift if block % 2 else 0, activation) for block in range(depth)]
        )
        if not last:
            self.downsample = PatchMerging(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        return self.downsample(x) if hasattr(self, "downsample") else x


class PatchEmbed(nn.Module):
    """Non-overlapping convolution, then LayerNorm over channels: ``[B, 3, H, W] -> [B, H/4, W/4, dim]``."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


def window_for(input_size: Size) -> int:
    """The side of the windows for images of ``input_size``, as the authors choose it.

    It is 7 where that divides every stage, and a thirty-second of a square image's side otherwise, such as 12 for
    their models of 384 pixels.

    Raises:
        UserError: neither is possible.
    """
    if all(side % (WINDOW * REDUCTION) == 0 for side in input_size):
        return WINDOW
    if input_size[0] != input_size[1] or input_size[0] % REDUCTION:
        raise UserError(
            f"Swin Transformer cannot take {input_size[0]}x{input_size[1]} images",
            fix=f"choose a square whose side is a multiple of {REDUCTION}, such as 384x384, or a height and width "
            f"that are multiples of {WINDOW * REDUCTION}, such as 224x448",
        )
    return input_size[0] // REDUCTION


class SwinTransformer(nn.Module):
    """Patch embedding, four stages, LayerNorm, average, classifier: ``[B, 3, H, W] -> [B, classes]``.

    H and W are ``input_size``.
    """

    def __init__(self, config: SwinConfig, input_size: Size, num_classes: int, activation: Activation):
        super().__init__()
        window = window_for(input_size)
        dims = [config.dim << stage for stage in range(4)]
        self.patch_embed = PatchEmbed(config.dim)
        self.layers = nn.Sequential()
        for stage, (dim, depth) in enumerate(zip(dims, config.depths)):
            resolution = (input_size[0] // PATCH >> stage, input_size[1] // PATCH >> stage)
            self.layers.append(Stage(dim, depth, resolution, window, stage == 3, activation))
        self.norm = nn.LayerNorm(dims[-1])
        self.head = nn.Linear(dims[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.patch_embed(x))
        return self.head(self.norm(x).mean((1, 2)))

    def from_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state in the authors' layout, or in timm's, without its index tables and masks.

        Biases that were learned for another window are interpolated bicubically, as the authors do.
        """
        return convert_biases(self, _from_timm(state), "attn_mask")


def _from_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm counts the way from one stage to the next to the latter, and names the classifier ``head.fc``."""
    if "head.fc.weight" not in state:
        return state

    def official(key: str) -> str:
        key = key.replace("head.fc.", "head.")
        return re.sub(r"^layers\.(\d)\.downsample", lambda match: f"layers.{int(match[1]) - 1}.downsample", key)

    return {official(key): value for key, value in state.items()}


def convert_biases(model: nn.Module, state: dict[str, Tensor], mask_name: str) -> dict[str, Tensor]:
    """``state`` without index tables and masks, its biases resized to the windows of ``model``.

    The index tables are compared with `relative_position_index`; masks, called ``mask_name`` beside an
    attention, with `shift_mask` where they are of the model's own size.

    Raises:
        UserError: a table orders the biases in another way, or a mask hides other tokens.
    """
    state = dict(state)
    for name, module in model.named_modules():
        if not isinstance(module, WindowAttention):
            continue
        table = f"{name}.relative_position_bias_table"
        if table in state and state[table].dim() == 2:
            side = math.isqrt(state[table].shape[0])
            index = f"{name}.relative_position_index"
            _check_constant(index, state.pop(index, None), relative_position_index((side + 1) // 2))
            state[table] = _resize(state[table], side, 2 * module.window - 1)
        mask = f"{name.removesuffix('attn')}{mask_name}"
        found = state.pop(mask, None)
        if module.mask is not None and found is not None and found.shape == module.mask.shape:
            _check_constant(mask, found, module.mask)
    return state


def _check_constant(key: str, found: Tensor | None, expected: Tensor) -> None:
    if found is not None and not torch.equal(found.to(expected.dtype), expected):
        raise UserError(
            f"the checkpoint's {key!r} is not the constant that the published models have",
            fix="take a checkpoint of the published architecture",
        )


def _resize(table: Tensor, side: int, new: int) -> Tensor:
    if side == new or side * side != table.shape[0]:
        return table
    plane = table.T.reshape(1, -1, side, side)
    return F.interpolate(plane, (new, new), mode="bicubic").flatten(2)[0].T


PAPER = "https://arxiv.org/abs/2103.14030"
SIZE = (224, 224)


def _build(name: str, num_classes: int, activation: str, input_size: Size) -> SwinTransformer:
    return SwinTransformer(CONFIGS[name], input_size, num_classes, ACTIVATIONS[activation])


@register(
    timm="swin_tiny_patch4_window7_224.ms_in1k", size_multiple=32, published=Published(PAPER, top1=81.2, macs=4.5e9)
)
def swin_tiny(num_classes: int = 1000, activation: str = "gelu", input_size: Size = SIZE) -> SwinTransformer:
    """Swin-T, 28.3 M parameters."""
    return _build("swin_tiny", num_classes, activation, input_size)


@register(
    timm="swin_small_patch4_window7_224.ms_in1k", size_multiple=32, published=Published(PAPER, top1=83.2, macs=8.7e9)
)
def swin_small(num_classes: int = 1000, activation: str = "gelu", input_size: Size = SIZE) -> SwinTransformer:
    """Swin-S, 49.6 M parameters."""
    return _build("swin_small", num_classes, activation, input_size)


@register(
    timm="swin_base_patch4_window7_224.ms_in1k", size_multiple=32, published=Published(PAPER, top1=83.5, macs=15.4e9)
)
def swin_base(num_classes: int = 1000, activation: str = "gelu", input_size: Size = SIZE) -> SwinTransformer:
    """Swin-B, 87.8 M parameters."""
    return _build("swin_base", num_classes, activation, input_size)
