"""ViT and DeiT: attention among all patches of an image and a class token.

Sources: Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", ICLR 2021
(https://arxiv.org/abs/2010.11929), and Touvron et al., "Training data-efficient image transformers & distillation
through attention", ICML 2021 (https://arxiv.org/abs/2012.12877), which trains the same architecture, as published
in code (https://github.com/facebookresearch/deit). Module names follow the official checkpoints of DeiT, and those
of ViT in PyTorch, so that they load as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy_kit.models.layers import ACTIVATIONS, ChannelMLP
from deploy_kit.models.registry import Published, register

Size = tuple[int, int]
Activation = Callable[[], nn.Module]

PATCH = 16
MLP_RATIO = 4
EPS = 1e-6


@dataclass(frozen=True)
class ViTConfig:
    """One size; all blocks are alike."""

    dim: int
    heads: int
    depth: int = 12


CONFIGS = {
    "vit_base": ViTConfig(768, 12),
    "deit_tiny": ViTConfig(192, 3),
    "deit_small": ViTConfig(384, 6),
    "deit_base": ViTConfig(768, 12),
}


class PatchEmbed(nn.Module):
    """Non-overlapping convolution: ``[B, 3, H, W] -> [B, H/16 * W/16, dim]``, row by row."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, PATCH, stride=PATCH)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention: ``[B, tokens, dim]`` in and out; the joint projection is [q|k|v][head][channel]."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=2))
        weights = ((q * self.scale) @ k.transpose(2, 3)).softmax(3)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and an MLP, each with LayerNorm before and a residual: ``[B, tokens, dim]`` in and out."""

    def __init__(self, config: ViTConfig, activation: Activation):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=EPS)
        self.attn = Attention(config.dim, config.heads)
        self.norm2 = nn.LayerNorm(config.dim, eps=EPS)
        self.mlp = ChannelMLP(config.dim, MLP_RATIO * config.dim, activation)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches and a class token with their positions, blocks, LayerNorm, and a classifier on the class token.

    ``[B, 3, H, W] -> [B, classes]``, where H and W are ``input_size``, multiples of 16.
    """

    def __init__(self, config: ViTConfig, input_size: Size, num_classes: int, activation: Activation):
        super().__init__()
        self.grid = (input_size[0] // PATCH, input_size[1] // PATCH)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + math.prod(self.grid), config.dim))
        self.patch_embed = PatchEmbed(config.dim)
        self.blocks = nn.Sequential(*[Block(config, activation) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(config.dim, eps=EPS)
        self.head = nn.Linear(config.dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(self.patch_embed(x), (0, 0, 1, 0)) + self.positions()
        return self.head(self.norm(self.blocks(x)[:, :1].flatten(1)))  # XNNPACK slices, and does not select

    def positions(self) -> Tensor:
        """What is added to the patches after a token of zeros: ``[1, tokens, dim]``.

        The class token is in it. It is the same for every image, so that a graph holds one constant, and no
        expansion to the batch.
        """
        return torch.cat((self.cls_token + self.pos_embed[:, :1], self.pos_embed[:, 1:]), 1)

    def from_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """``state`` with the positions of a square image interpolated bicubically to this model's, as DeiT's
        authors do."""
        if "pos_embed" not in state or state["pos_embed"].shape == self.pos_embed.shape:
            return state
        token, patches = state["pos_embed"][:, :1], state["pos_embed"][:, 1:]
        side = math.isqrt(patches.shape[1])
        if side * side != patches.shape[1]:
            return state
        plane = patches.transpose(1, 2).unflatten(2, (side, side))
        resized = F.interpolate(plane, self.grid, mode="bicubic").flatten(2).transpose(1, 2)
        return {**state, "pos_embed": torch.cat((token, resized), 1)}


VIT = "https://arxiv.org/abs/2010.11929"
DEIT = "https://arxiv.org/abs/2012.12877"
SIZE = (224, 224)


def _build(name: str, num_classes: int, activation: str, input_size: Size) -> VisionTransformer:
    return VisionTransformer(CONFIGS[name], input_size, num_classes, ACTIVATIONS[activation])


@register(
    size_multiple=PATCH, published=Published(VIT, quality="top-1 77.9% at 384x384, trained on ImageNet-1k", macs=17.6e9)
)
def vit_base(num_classes: int = 1000, activation: str = "gelu", input_size: Size = SIZE) -> VisionTransformer:
    """ViT-B/16, 86.6 M parameters."""
    return _build("vit_base", num_classes, activation, input_size)


@register(size_multiple=PATCH, published=Published(DEIT, top1=72.2, macs=1.3e9))
def deit_tiny(num_classes: int = 1000, activation: str = "gelu", input_size: Size = SIZE) -> VisionTransformer:
    """DeiT-Ti, 5.7 M parameters."""
    return _build("deit_tiny", num_classes, activation, input_size)


@register(size_multiple=PATCH, published=Published(DEIT, top1=79.8, macs=4.6e9))
def deit_small(num_classes: int = 1000, activation: str = "gelu", input_size: Size = SIZE) -> VisionTransformer:
    """DeiT-S, 22.1 M parameters."""
    return _build("deit_small", num_classes, activation, input_size)


@register(size_multiple=PATCH, published=Published(DEIT, top1=81.8, macs=17.6e9))
def deit_base(num_classes: int = 1000, activation: str = "gelu", input_size: Size = SIZE) -> VisionTransformer:
    """DeiT-B, 86.6 M parameters."""
    return _build("deit_base", num_classes, activation, input_size)
