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
from deploy_kit.models.registry import ROUNDED, Published, register
from deploy_kit.preprocessing import Preprocessing

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
        """A state in the layout of DeiT's authors, of timm, or of ViT's own authors (JAX).

        The positions of a square image are interpolated bicubically to this model's, as DeiT's authors do.
        """
        state = from_jax(state) if "Transformer/posembed_input/pos_embedding" in state else state
        found = state.get("pos_embed")
        if found is None or found.dim() != 3 or found.shape == self.pos_embed.shape:
            return state
        token, patches = found[:, :1], found[:, 1:]
        side = math.isqrt(patches.shape[1])
        if side * side != patches.shape[1] or side == 0:
            return state
        plane = patches.transpose(1, 2).unflatten(2, (side, side))
        resized = F.interpolate(plane, self.grid, mode="bicubic").flatten(2).transpose(1, 2)
        return {**state, "pos_embed": torch.cat((token, resized), 1)}


JAX: tuple[tuple[str, str], ...] = (
    ("embedding/", "patch_embed.proj/"),
    ("Transformer/posembed_input/pos_embedding", "pos_embed"),
    ("Transformer/encoder_norm/", "norm/"),
    ("Transformer/encoderblock_", "blocks."),
    ("/LayerNorm_0/", ".norm1/"),
    ("/LayerNorm_2/", ".norm2/"),
    ("/MultiHeadDotProductAttention_1/out/", ".attn.proj/"),
    ("/MultiHeadDotProductAttention_1/", ".attn."),
    ("/MlpBlock_3/Dense_0/", ".mlp.fc1/"),
    ("/MlpBlock_3/Dense_1/", ".mlp.fc2/"),
    ("/scale", ".weight"),
    ("/kernel", ".weight"),
    ("/bias", ".bias"),
)
"""Parts of the keys of ViT's own checkpoints (https://github.com/google-research/vision_transformer), and of these."""


def from_jax(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint of ViT's authors in the layout of this file.

    There kernels are [in, out], those of attention [in, heads, channels] and [heads, channels, out], and that of the
    patches [H, W, in, out]; query, key and value are apart.
    """
    named = {}
    for key, value in state.items():
        for theirs, ours in JAX:
            key = key.replace(theirs, ours)
        named["cls_token" if key == "cls" else key] = _from_jax_layout(key, value)
    joint = {key.replace(".attn.query.", ".attn.qkv."): key for key in named if ".attn.query." in key}
    for key, query in joint.items():
        parts = [query, query.replace(".query.", ".key."), query.replace(".query.", ".value.")]
        if all(part in named for part in parts):
            named[key] = torch.cat([named.pop(part) for part in parts])
    return named


def _from_jax_layout(key: str, value: Tensor) -> Tensor:
    if key.endswith("proj.weight") and value.dim() == 4:
        return value.permute(3, 2, 0, 1)
    if key.endswith(".attn.proj.weight"):
        return value.flatten(0, -2).T
    if key.endswith(".weight") and value.dim() > 1:
        return value.flatten(1).T
    return value.flatten() if ".attn." in key else value


VIT = "https://arxiv.org/abs/2010.11929"
DEIT = "https://arxiv.org/abs/2012.12877"
SIZE = (224, 224)
IMAGES = Preprocessing(resize=256, crop=SIZE, mean=(0.5,) * 3, std=(0.5,) * 3)
"""What ViT's authors give it; DeiT's authors give it the usual images."""


def _build(name: str, num_classes: int, activation: str, input_size: Size) -> VisionTransformer:
    return VisionTransformer(CONFIGS[name], input_size, num_classes, ACTIVATIONS[activation])


@register(
    timm="vit_base_patch16_224.orig_in21k_ft_in1k",
    preprocessing=IMAGES,
    size_multiple=PATCH,
    published=Published(VIT, quality="top-1 77.9% at 384x384, trained on ImageNet-1k", macs=17.6e9),
)
def vit_base(num_classes: int = 1000, activation: str = "gelu", input_size: Size = SIZE) -> VisionTransformer:
    """ViT-B/16, 86.6 M parameters."""
    return _build("vit_base", num_classes, activation, input_size)


@register(
    timm="deit_tiny_patch16_224.fb_in1k",
    size_multiple=PATCH,
    published=Published(DEIT, top1=72.2, macs=1.3e9, macs_note=ROUNDED),
)
def deit_tiny(num_classes: int = 1000, activation: str = "gelu", input_size: Size = SIZE) -> VisionTransformer:
    """DeiT-Ti, 5.7 M parameters."""
    return _build("deit_tiny", num_classes, activation, input_size)


@register(timm="deit_small_patch16_224.fb_in1k", size_multiple=PATCH, published=Published(DEIT, top1=79.8, macs=4.6e9))
def deit_small(num_classes: int = 1000, activation: str = "gelu", input_size: Size = SIZE) -> VisionTransformer:
    """DeiT-S, 22.1 M parameters."""
    return _build("deit_small", num_classes, activation, input_size)


@register(timm="deit_base_patch16_224.fb_in1k", size_multiple=PATCH, published=Published(DEIT, top1=81.8, macs=17.6e9))
def deit_base(num_classes: int = 1000, activation: str = "gelu", input_size: Size = SIZE) -> VisionTransformer:
    """DeiT-B, 86.6 M parameters."""
    return _build("deit_base", num_classes, activation, input_size)
