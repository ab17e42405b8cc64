"""PoolFormer: a transformer whose token mixer is average pooling.

Source: Yu et al., "MetaFormer Is Actually What You Need for Vision", CVPR 2022
(https://arxiv.org/abs/2111.11418), as published in code (https://github.com/sail-sg/poolformer).
Module names follow the official checkpoints, so that they load as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy_kit.models.layers import ACTIVATIONS, ConvMLP
from deploy_kit.models.registry import Published, register


@dataclass(frozen=True)
class PoolFormerConfig:
    """One size; each tuple has an entry a stage."""

    depths: tuple[int, int, int, int]
    dims: tuple[int, int, int, int]
    mlp_ratio: int = 4


SMALL, MEDIUM = (64, 128, 320, 512), (96, 192, 384, 768)

CONFIGS = {
    "poolformer_s12": PoolFormerConfig((2, 2, 6, 2), SMALL),
    "poolformer_s24": PoolFormerConfig((4, 4, 12, 4), SMALL),
    "poolformer_s36": PoolFormerConfig((6, 6, 18, 6), SMALL),
    "poolformer_m36": PoolFormerConfig((6, 6, 18, 6), MEDIUM),
    "poolformer_m48": PoolFormerConfig((8, 8, 24, 8), MEDIUM),
}


class PatchEmbed(nn.Module):
    """Overlapping convolution without a norm: ``[B, Ci, H, W] -> [B, Co, H/stride, W/stride]``."""

    def __init__(self, dim_in: int, dim_out: int, kernel: int, stride: int, padding: int):
        super().__init__()
        self.proj = nn.Conv2d(dim_in, dim_out, kernel, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class PoolFormerBlock(nn.Module):
    """Pooling, then an MLP, each with a norm before, a scale a channel and a residual: ``[B, dim, H, W]``.

    The pooling averages the pixels of a 3x3 window that lie in the image, and takes the pixel itself off: the
    residual gives it back.
    """

    def __init__(self, dim: int, hidden: int, activation: Callable[[], nn.Module]):
        super().__init__()
        self.norm1 = nn.GroupNorm(1, dim)
        self.norm2 = nn.GroupNorm(1, dim)
        self.mlp = ConvMLP(dim, hidden, activation)
        self.layer_scale_1 = nn.Parameter(torch.ones(dim))
        self.layer_scale_2 = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        mixed = F.avg_pool2d(normed, 3, stride=1, padding=1, count_include_pad=False) - normed
        x = x + self.layer_scale_1[:, None, None] * mixed
        return x + self.layer_scale_2[:, None, None] * self.mlp(self.norm2(x))


class PoolFormer(nn.Module):
    """Four stages of pooling blocks, GroupNorm, global average, classifier: ``[B, 3, H, W] -> [B, classes]``.

    H and W may be any from 3 on; each stage halves them, the first quarters, rounded up.
    """

    def __init__(self, config: PoolFormerConfig, num_classes: int, activation: Callable[[], nn.Module]):
        super().__init__()
        self.patch_embed = PatchEmbed(3, config.dims[0], 7, 4, 2)
        self.network = nn.Sequential()
        for stage, (depth, dim) in enumerate(zip(config.depths, config.dims)):
            if stage > 0:
                self.network.append(PatchEmbed(config.dims[stage - 1], dim, 3, 2, 1))
            block = (dim, dim * config.mlp_ratio, activation)
            self.network.append(nn.Sequential(*[PoolFormerBlock(*block) for _ in range(depth)]))
        self.norm = nn.GroupNorm(1, config.dims[-1])
        self.head = nn.Linear(config.dims[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.network(self.patch_embed(x))
        return self.head(self.norm(x).mean((2, 3)))


def _build(name: str, num_classes: int, activation: str) -> PoolFormer:
    return PoolFormer(CONFIGS[name], num_classes, ACTIVATIONS[activation])


PAPER = "https://arxiv.org/abs/2111.11418"


@register(least_size=3, published=Published(PAPER, top1=77.2, macs=1.8e9))
def poolformer_s12(num_classes: int = 1000, activation: str = "gelu") -> PoolFormer:
    """PoolFormer-S12, 11.9 M parameters."""
    return _build("poolformer_s12", num_classes, activation)


@register(least_size=3, published=Published(PAPER, top1=80.3, macs=3.4e9))
def poolformer_s24(num_classes: int = 1000, activation: str = "gelu") -> PoolFormer:
    """PoolFormer-S24, 21.4 M parameters."""
    return _build("poolformer_s24", num_classes, activation)


@register(least_size=3, published=Published(PAPER, top1=81.4, macs=5.0e9))
def poolformer_s36(num_classes: int = 1000, activation: str = "gelu") -> PoolFormer:
    """PoolFormer-S36, 30.9 M parameters."""
    return _build("poolformer_s36", num_classes, activation)


@register(least_size=3, published=Published(PAPER, top1=82.1, macs=8.8e9))
def poolformer_m36(num_classes: int = 1000, activation: str = "gelu") -> PoolFormer:
    """PoolFormer-M36, 56.2 M parameters."""
    return _build("poolformer_m36", num_classes, activation)


@register(least_size=3, published=Published(PAPER, top1=82.5, macs=11.6e9))
def poolformer_m48(num_classes: int = 1000, activation: str = "gelu") -> PoolFormer:
    """PoolFormer-M48, 73.5 M parameters."""
    return _build("poolformer_m48", num_classes, activation)
