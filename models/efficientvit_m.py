"""EfficientViT of Microsoft: sandwich layout, and attention whose heads are cascaded groups of channels.

Source: Liu et al., "EfficientViT: Memory Efficient Vision Transformer with Cascaded Group Attention", CVPR 2023
(https://arxiv.org/abs/2305.07027), as published in code (https://github.com/microsoft/Cream). Module names
follow the official checkpoints. Everything is channels-first, windows included.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy_kit.models.layers import ACTIVATIONS
from deploy_kit.models.levit_layers import (
    BiasedAttention,
    ConvNorm,
    NormLinear,
    Residual,
    Rule,
    Size,
    attend,
    conv_stem,
    convert_biases,
    rename,
    subsampled,
)
from deploy_kit.models.registry import Published, register

KEY_DIM = 16
WINDOW = 7


@dataclass(frozen=True)
class EfficientViTConfig:
    """One size; ``dims``, ``depths`` and ``heads`` have an entry a stage, ``kernels`` one a head."""

    dims: tuple[int, int, int]
    depths: tuple[int, int, int]
    heads: tuple[int, int, int]
    kernels: tuple[int, int, int, int]


CONFIGS = {
    "efficientvit_m0": EfficientViTConfig((64, 128, 192), (1, 2, 3), (4, 4, 4), (5, 5, 5, 5)),
    "efficientvit_m1": EfficientViTConfig((128, 144, 192), (1, 2, 3), (2, 3, 3), (7, 5, 3, 3)),
    "efficientvit_m2": EfficientViTConfig((128, 192, 224), (1, 2, 3), (4, 3, 2), (7, 5, 3, 3)),
    "efficientvit_m3": EfficientViTConfig((128, 240, 320), (1, 2, 3), (4, 3, 4), (5, 5, 5, 5)),
    "efficientvit_m4": EfficientViTConfig((128, 256, 384), (1, 2, 3), (4, 4, 4), (7, 5, 3, 3)),
    "efficientvit_m5": EfficientViTConfig((192, 288, 384), (1, 3, 4), (3, 3, 4), (7, 5, 3, 3)),
}

Activation = Callable[[], nn.Module]


class FeedForward(nn.Module):
    """Two pointwise convolutions with BatchNorm, twice as wide between: ``[B, dim, H, W]`` in and out."""

    def __init__(self, dim: int, activation: Activation):
        super().__init__()
        self.pw1 = ConvNorm(dim, 2 * dim)
        self.act = activation()
        self.pw2 = ConvNorm(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.pw2(self.act(self.pw1(x)))


class CascadedGroupAttention(BiasedAttention):
    """Each head attends in its own group of channels, to which the head before it adds its output.

    ``[B, dim, h, w] -> [B, dim, h, w]``, where h and w are ``resolution``.
    """

    def __init__(self, dim: int, heads: int, kernels: tuple[int, ...], resolution: Size, activation: Activation):
        super().__init__(heads, resolution)
        self.scale = KEY_DIM**-0.5
        self.value_dim = dim // heads
        self.qkvs = nn.ModuleList(ConvNorm(dim // heads, 2 * KEY_DIM + self.value_dim) for _ in range(heads))
        self.dws = nn.ModuleList(ConvNorm(KEY_DIM, KEY_DIM, kernel, groups=KEY_DIM) for kernel in kernels[:heads])
        self.proj = nn.Sequential(activation(), ConvNorm(dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias()
        outputs: list[Tensor] = []
        for head, (project, local) in enumerate(zip(self.qkvs, self.dws)):
            group = x[:, head * self.value_dim : (head + 1) * self.value_dim]
            group = group + outputs[-1] if outputs else group
            q, k, v = project(group).split((KEY_DIM, KEY_DIM, self.value_dim), 1)
            q, k, v = local(q).flatten(2), k.flatten(2), v.flatten(2)
            attended = attend(q, k, v, self.scale, bias[head])
            outputs.append(attended.reshape(-1, self.value_dim, *self.resolution))
        return self.proj(torch.cat(outputs, 1))


class WindowAttention(nn.Module):
    """Cascaded group attention in each window of at most 7 x 7 tokens: ``[B, dim, H, W]`` in and out.

    H and W are ``resolution``; zeros fill up the last windows of each axis, and are attended to like tokens.
    """

    def __init__(self, dim: int, heads: int, kernels: tuple[int, ...], resolution: Size, activation: Activation):
        super().__init__()
        self.dim = dim
        self.resolution = resolution
        self.window = (min(WINDOW, resolution[0]), min(WINDOW, resolution[1]))
        self.counts = tuple(math.ceil(side / window) for side, window in zip(resolution, self.window))
        self.attn = CascadedGroupAttention(dim, heads, kernels, self.window, activation)

    def forward(self, x: Tensor) -> Tensor:
        if self.counts == (1, 1):
            return self.attn(x)
        (height, width), (rows, columns) = self.window, self.counts
        bottom, right = rows * height - self.resolution[0], columns * width - self.resolution[1]
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom))
        x = self.attn(self._cut(x))
        return self._join(x)[:, :, : self.resolution[0], : self.resolution[1]]

    def _cut(self, x: Tensor) -> Tensor:
        """``[B, dim, rows * h, columns * w] -> [B * rows * columns, dim, h, w]``, with rank 4 throughout."""
        (height, width), (rows, columns) = self.window, self.counts
        x = x.reshape(-1, height, columns, width).transpose(1, 2)
        x = x.reshape(-1, self.dim, rows * columns, height * width).transpose(1, 2)
        return x.reshape(-1, self.dim, height, width)

    def _join(self, x: Tensor) -> Tensor:
        """The inverse of `_cut`."""
        (height, width), (rows, columns) = self.window, self.counts
        x = x.reshape(-1, rows * columns, self.dim, height * width).transpose(1, 2)
        x = x.reshape(-1, columns, height, width).transpose(1, 2)
        return x.reshape(-1, self.dim, rows * height, columns * width)


def depthwise(dim: int) -> Residual:
    """A residual around a depthwise 3x3 convolution with BatchNorm."""
    return Residual(ConvNorm(dim, dim, 3, groups=dim))


class SandwichBlock(nn.Module):
    """Depthwise convolution and feed-forward before and after one attention: ``[B, dim, H, W]`` in and out."""

    def __init__(self, dim: int, heads: int, kernels: tuple[int, ...], resolution: Size, activation: Activation):
        super().__init__()
        self.dw0 = depthwise(dim)
        self.ffn0 = Residual(FeedForward(dim, activation))
        self.mixer = Residual(WindowAttention(dim, heads, kernels, resolution, activation))
        self.dw1 = depthwise(dim)
        self.ffn1 = Residual(FeedForward(dim, activation))

    def forward(self, x: Tensor) -> Tensor:
        return self.ffn1(self.dw1(self.mixer(self.ffn0(self.dw0(x)))))


class SqueezeExcite(nn.Module):
    """Scale each channel by a function of all channels' averages: ``[B, dim, H, W]`` in and out."""

    def __init__(self, dim: int, hidden: int, activation: Activation):
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.act = activation()
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(self.act(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()


class PatchMerging(nn.Module):
    """Inverted residual bottleneck without residual: ``[B, Ci, H, W] -> [B, Co, H/2, W/2]``, rounded up."""

    def __init__(self, dim_in: int, dim_out: int, activation: Activation):
        super().__init__()
        hidden = 4 * dim_in
        self.conv1 = ConvNorm(dim_in, hidden)
        self.act = activation()
        self.conv2 = ConvNorm(hidden, hidden, 3, 2, groups=hidden)
        self.se = SqueezeExcite(hidden, hidden // 4, activation)
        self.conv3 = ConvNorm(hidden, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv2(self.act(self.conv1(x))))
        return self.conv3(self.se(x))


class EfficientViT(nn.Module):
    """Stem, three stages of sandwich blocks with subsampling between, average, classifier.

    ``[B, 3, H, W] -> [B, classes]``, where H and W are ``input_size``, multiples of 16.
    """

    def __init__(self, config: EfficientViTConfig, input_size: Size, num_classes: int, activation: Activation):
        super().__init__()
        self.patch_embed = conv_stem(config.dims[0], activation)
        resolution = (input_size[0] // 16, input_size[1] // 16)
        before = config.dims[0]
        for stage, dim in enumerate(config.dims):
            blocks: list[nn.Module] = []
            if stage > 0:
                resolution = subsampled(resolution)
                blocks.append(nn.Sequential(depthwise(before), Residual(FeedForward(before, activation))))
                blocks.append(PatchMerging(before, dim, activation))
                blocks.append(nn.Sequential(depthwise(dim), Residual(FeedForward(dim, activation))))
            for _ in range(config.depths[stage]):
                blocks.append(SandwichBlock(dim, config.heads[stage], config.kernels, resolution, activation))
            self.add_module(f"blocks{stage + 1}", nn.Sequential(*blocks))
            before = dim
        self.head = NormLinear(before, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        for stage in range(1, 4):
            x = self.get_submodule(f"blocks{stage}")(x)
        return self.head(x.mean((2, 3)))

    def from_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The official checkpoint, or timm's, without its index tables, its biases resized where the images are."""
        return convert_biases(self, rename(state, TIMM))


TIMM: tuple[Rule, ...] = (
    (r"^patch_embed\.conv(\d)", lambda found: f"patch_embed.{2 * int(found[1]) - 2}"),
    (r"^stages\.0\.blocks", "blocks1"),
    (r"^stages\.(\d)\.blocks\.(\d)", lambda found: f"blocks{int(found[1]) + 1}.{int(found[2]) + 3}"),
    (r"^stages\.(\d)\.downsample", lambda found: f"blocks{int(found[1]) + 1}"),
    (r"\.res1\.", ".0."),
    (r"\.patchmerge\.", ".1."),
    (r"\.res2\.", ".2."),
    (r"\.conv\.", ".c."),
    (r"^head\.linear", "head.l"),
)
"""timm's keys and the official ones."""


PAPER = "https://arxiv.org/abs/2305.07027"
SIZE = (224, 224)


def _build(name: str, num_classes: int, activation: str, input_size: Size) -> EfficientViT:
    return EfficientViT(CONFIGS[name], input_size, num_classes, ACTIVATIONS[activation])


@register(timm="efficientvit_m0.r224_in1k", size_multiple=16, published=Published(PAPER, top1=63.2, macs=79e6))
def efficientvit_m0(num_classes: int = 1000, activation: str = "relu", input_size: Size = SIZE) -> EfficientViT:
    """EfficientViT-M0 (Microsoft), 2.3 M parameters."""
    return _build("efficientvit_m0", num_classes, activation, input_size)


@register(timm="efficientvit_m1.r224_in1k", size_multiple=16, published=Published(PAPER, top1=68.4, macs=167e6))
def efficientvit_m1(num_classes: int = 1000, activation: str = "relu", input_size: Size = SIZE) -> EfficientViT:
    """EfficientViT-M1 (Microsoft), 3.0 M parameters."""
    return _build("efficientvit_m1", num_classes, activation, input_size)


@register(timm="efficientvit_m2.r224_in1k", size_multiple=16, published=Published(PAPER, top1=70.8, macs=201e6))
def efficientvit_m2(num_classes: int = 1000, activation: str = "relu", input_size: Size = SIZE) -> EfficientViT:
    """EfficientViT-M2 (Microsoft), 4.2 M parameters."""
    return _build("efficientvit_m2", num_classes, activation, input_size)


@register(timm="efficientvit_m3.r224_in1k", size_multiple=16, published=Published(PAPER, top1=73.4, macs=263e6))
def efficientvit_m3(num_classes: int = 1000, activation: str = "relu", input_size: Size = SIZE) -> EfficientViT:
    """EfficientViT-M3 (Microsoft), 6.9 M parameters."""
    return _build("efficientvit_m3", num_classes, activation, input_size)


@register(timm="efficientvit_m4.r224_in1k", size_multiple=16, published=Published(PAPER, top1=74.3, macs=299e6))
def efficientvit_m4(num_classes: int = 1000, activation: str = "relu", input_size: Size = SIZE) -> EfficientViT:
    """EfficientViT-M4 (Microsoft), 8.8 M parameters."""
    return _build("efficientvit_m4", num_classes, activation, input_size)


@register(timm="efficientvit_m5.r224_in1k", size_multiple=16, published=Published(PAPER, top1=77.1, macs=522e6))
def efficientvit_m5(num_classes: int = 1000, activation: str = "relu", input_size: Size = SIZE) -> EfficientViT:
    """EfficientViT-M5 (Microsoft), 12.5 M parameters."""
    return _build("efficientvit_m5", num_classes, activation, input_size)
