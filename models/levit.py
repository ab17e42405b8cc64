"""LeViT: a convolutional stem, then attention with biases by offset, which also subsamples between stages.

Source: Graham et al., "LeViT: a Vision Transformer in ConvNet's Clothing for Faster Inference", ICCV 2021
(https://arxiv.org/abs/2104.01136), as published in code (https://github.com/facebookresearch/LeViT). Module
names follow the official checkpoints. The linear layers on tokens are pointwise convolutions here, as in the
authors' own convolutional form: tokens stay an image, and BatchNorm stays beside the convolution that it folds
into.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

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


@dataclass(frozen=True)
class LeViTConfig:
    """One size; each tuple has an entry a stage."""

    dims: tuple[int, int, int]
    heads: tuple[int, int, int]
    depths: tuple[int, int, int]
    key_dim: int


CONFIGS = {
    "levit_128s": LeViTConfig((128, 256, 384), (4, 6, 8), (2, 3, 4), 16),
    "levit_128": LeViTConfig((128, 256, 384), (4, 8, 12), (4, 4, 4), 16),
    "levit_192": LeViTConfig((192, 288, 384), (3, 5, 6), (4, 4, 4), 32),
    "levit_256": LeViTConfig((256, 384, 512), (4, 6, 8), (4, 4, 4), 32),
    "levit_384": LeViTConfig((384, 512, 768), (6, 9, 12), (4, 4, 4), 32),
}

Activation = Callable[[], nn.Module]


class Attention(BiasedAttention):
    """Attention with values twice as wide as keys: ``[B, dim, H, W] -> [B, dim, H, W]``."""

    def __init__(self, dim: int, key_dim: int, heads: int, resolution: Size, activation: Activation):
        super().__init__(heads, resolution)
        self.parts = (key_dim, key_dim, 2 * key_dim)
        self.heads = heads
        self.scale = key_dim**-0.5
        self.qkv = ConvNorm(dim, heads * sum(self.parts))
        self.proj = nn.Sequential(activation(), ConvNorm(heads * self.parts[2], dim))

    def forward(self, x: Tensor) -> Tensor:
        height, width = self.resolution
        qkv = self.qkv(x).reshape(-1, self.heads, sum(self.parts), height * width)
        q, k, v = qkv.split(self.parts, 2)
        x = attend(q, k, v, self.scale, self.bias())
        return self.proj(x.reshape(-1, self.heads * self.parts[2], height, width))


class AttentionSubsample(BiasedAttention):
    """Attention of every second token in both axes to all: ``[B, Ci, H, W] -> [B, Co, H/2, W/2]``, rounded up.

    Values are four times as wide as keys.
    """

    def __init__(self, dim_in: int, dim_out: int, key_dim: int, resolution: Size, activation: Activation):
        heads = dim_in // key_dim
        super().__init__(heads, resolution, stride=2)
        self.parts = (key_dim, 4 * key_dim)
        self.heads = heads
        self.scale = key_dim**-0.5
        self.kv = ConvNorm(dim_in, heads * sum(self.parts))
        self.q = nn.Sequential(nn.Identity(), ConvNorm(dim_in, heads * key_dim, stride=2))
        self.proj = nn.Sequential(activation(), ConvNorm(heads * self.parts[1], dim_out))

    def forward(self, x: Tensor) -> Tensor:
        height, width = self.resolution
        key_dim, value_dim = self.parts
        k, v = self.kv(x).reshape(-1, self.heads, key_dim + value_dim, height * width).split(self.parts, 2)
        height, width = subsampled(self.resolution)
        q = self.q(x).reshape(-1, self.heads, key_dim, height * width)
        x = attend(q, k, v, self.scale, self.bias())
        return self.proj(x.reshape(-1, self.heads * value_dim, height, width))


def feed_forward(dim: int, activation: Activation) -> Residual:
    """A residual around two pointwise convolutions with BatchNorm, twice as wide between."""
    return Residual(nn.Sequential(ConvNorm(dim, 2 * dim), activation(), ConvNorm(2 * dim, dim)))


class LeViT(nn.Module):
    """Stem, three stages of attention and feed-forward with subsampling between, average, two classifiers.

    ``[B, 3, H, W] -> [B, classes]``, where H and W are ``input_size``, multiples of 16. The second classifier
    learned from a teacher by distillation; the result is the average of both.
    """

    def __init__(self, config: LeViTConfig, input_size: Size, num_classes: int, activation: Activation):
        super().__init__()
        self.depths = config.depths
        self.patch_embed = conv_stem(config.dims[0], activation)
        resolution = (input_size[0] // 16, input_size[1] // 16)
        blocks: list[nn.Module] = []
        before = config.dims[0]
        for stage, dim in enumerate(config.dims):
            if stage > 0:
                blocks.append(AttentionSubsample(before, dim, config.key_dim, resolution, activation))
                blocks.append(feed_forward(dim, activation))
                resolution = subsampled(resolution)
            for _ in range(config.depths[stage]):
                attention = Attention(dim, config.key_dim, config.heads[stage], resolution, activation)
                blocks += [Residual(attention), feed_forward(dim, activation)]
            before = dim
        self.blocks = nn.Sequential(*blocks)
        self.head = NormLinear(before, num_classes)
        self.head_dist = NormLinear(before, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.patch_embed(x)).mean((2, 3))
        return (self.head(x) + self.head_dist(x)) / 2

    def from_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Either official form, or timm's: linear weights as pointwise kernels, without index tables.

        Biases are resized where the images are.
        """
        state = rename(state, _from_timm(self.depths))
        kernels = {key for key in state if key.startswith("blocks.") and key.endswith(".c.weight")}
        shaped = {
            key: value[:, :, None, None] if key in kernels and value.dim() == 2 else value
            for key, value in state.items()
        }
        return convert_biases(self, shaped)


def _from_timm(depths: tuple[int, int, int]) -> tuple[Rule, ...]:
    """timm's keys and the official ones, which count attentions and feed-forwards through all stages."""
    firsts = (0, 2 * depths[0] + 2, 2 * (depths[0] + depths[1]) + 4)

    def block(found: re.Match[str]) -> str:
        place = firsts[int(found[1])] + 2 * int(found[2])
        return f"blocks.{place}.m" if found[3] == "attn" else f"blocks.{place + 1}.m"

    def subsampling(found: re.Match[str]) -> str:
        place = firsts[int(found[1])] - 2
        return f"blocks.{place}" if found[2] == "attn_downsample" else f"blocks.{place + 1}.m"

    return (
        (r"^stem\.conv(\d)", lambda found: f"patch_embed.{2 * int(found[1]) - 2}"),
        (r"^stages\.(\d)\.blocks\.(\d+)\.(attn|mlp)", block),
        (r"^stages\.(\d)\.downsample\.(attn_downsample|mlp)", subsampling),
        (r"\.(q|proj)\.ln\.", r".\1.1."),
        (r"\.ln1\.", ".0."),
        (r"\.ln2\.", ".2."),
        (r"^(head|head_dist)\.linear", r"\1.l"),
        (r"\.linear\.", ".c."),
    )


PAPER = "https://arxiv.org/abs/2104.01136"
SIZE = (224, 224)


def _build(name: str, num_classes: int, activation: str, input_size: Size) -> LeViT:
    return LeViT(CONFIGS[name], input_size, num_classes, ACTIVATIONS[activation])


@register(timm="levit_128s.fb_dist_in1k", size_multiple=16, published=Published(PAPER, top1=76.6, macs=305e6))
def levit_128s(num_classes: int = 1000, activation: str = "hardswish", input_size: Size = SIZE) -> LeViT:
    """LeViT-128S, 7.8 M parameters."""
    return _build("levit_128s", num_classes, activation, input_size)


@register(timm="levit_128.fb_dist_in1k", size_multiple=16, published=Published(PAPER, top1=78.6, macs=405e6))
def levit_128(num_classes: int = 1000, activation: str = "hardswish", input_size: Size = SIZE) -> LeViT:
    """LeViT-128, 9.2 M parameters."""
    return _build("levit_128", num_classes, activation, input_size)


@register(timm="levit_192.fb_dist_in1k", size_multiple=16, published=Published(PAPER, top1=80.0, macs=657e6))
def levit_192(num_classes: int = 1000, activation: str = "hardswish", input_size: Size = SIZE) -> LeViT:
    """LeViT-192, 10.9 M parameters."""
    return _build("levit_192", num_classes, activation, input_size)


@register(timm="levit_256.fb_dist_in1k", size_multiple=16, published=Published(PAPER, top1=81.6, macs=1.127e9))
def levit_256(num_classes: int = 1000, activation: str = "hardswish", input_size: Size = SIZE) -> LeViT:
    """LeViT-256, 18.9 M parameters."""
    return _build("levit_256", num_classes, activation, input_size)


@register(timm="levit_384.fb_dist_in1k", size_multiple=16, published=Published(PAPER, top1=82.6, macs=2.352e9))
def levit_384(num_classes: int = 1000, activation: str = "hardswish", input_size: Size = SIZE) -> LeViT:
    """LeViT-384, 39.1 M parameters."""
    return _build("levit_384", num_classes, activation, input_size)
