"""EdgeViT: local aggregation, sparse global attention, local propagation.

Source: Pan et al., "EdgeViTs: Competing Light-weight CNNs on Mobile Devices with Vision
Transformers", ECCV 2022 (https://arxiv.org/abs/2205.03436), as published in code
(https://github.com/saic-fi/edgevit). Module names follow the official checkpoints, so that they
load as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from deploy_kit.models.layers import ACTIVATIONS, ChannelMLP, ConvMLP
from deploy_kit.models.registry import ROUNDED, Latency, Published, Trained, register
from deploy_kit.preprocessing import Preprocessing


@dataclass(frozen=True)
class EdgeViTConfig:
    """One size; each tuple has an entry a stage."""

    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    sampling_rates: tuple[int, int, int, int] = (4, 2, 2, 1)
    mlp_ratio: int = 4


CONFIGS = {
    "edgevit_xxs": EdgeViTConfig((36, 72, 144, 288), (1, 1, 3, 2), (1, 2, 4, 8)),
    "edgevit_xs": EdgeViTConfig((48, 96, 240, 384), (1, 1, 3, 1), (1, 2, 5, 8)),
    "edgevit_s": EdgeViTConfig((48, 96, 240, 384), (1, 2, 5, 3), (1, 2, 5, 8)),
    # Four heads over the last stage's four tokens would meet a bug: OpenVINO 2026.4 computes an attention wrongly on
    # CPUs where it has as many heads as tokens.
    "edgevit_digits": EdgeViTConfig((24, 32, 48, 64), (1, 1, 2, 1), (1, 2, 3, 2)),
}


class PatchEmbed(nn.Module):
    """Non-overlapping convolution, then LayerNorm over channels: ``[B, Ci, H, W] -> [B, Co, H/p, W/p]``."""

    def __init__(self, dim_in: int, dim_out: int, patch: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim_out)
        self.proj = nn.Conv2d(dim_in, dim_out, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class LocalAggregation(nn.Module):
    """Depthwise convolution between two pointwise ones, then a pointwise MLP; BatchNorm before each."""

    def __init__(self, dim: int, hidden: int, activation: Callable[[], nn.Module]):
        super().__init__()
        self.pos_embed = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm1 = nn.BatchNorm2d(dim)
        self.conv1 = nn.Conv2d(dim, dim, 1)
        self.attn = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.conv2 = nn.Conv2d(dim, dim, 1)
        self.norm2 = nn.BatchNorm2d(dim)
        self.mlp = ConvMLP(dim, hidden, activation)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        x = x + self.conv2(self.attn(self.conv1(self.norm1(x))))
        return x + self.mlp(self.norm2(x))


class GlobalSparseAttention(nn.Module):
    """Attention among the top-left tokens of ``rate`` x ``rate`` windows, then local propagation.

    ``[B, H, W, dim] -> [B, H, W, dim]``; a depthwise transposed convolution spreads each attended
    token over its window again.
    """

    def __init__(self, dim: int, heads: int, rate: int):
        super().__init__()
        self.heads = heads
        self.rate = rate
        self.scale = (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        if rate > 1:
            self.LocalProp = nn.ConvTranspose2d(dim, dim, rate, stride=rate, groups=dim)
            self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        if self.rate > 1:
            x = F.avg_pool2d(x.permute(0, 3, 1, 2), 1, self.rate).permute(0, 2, 3, 1)
        batch, height, width, dim = x.shape
        parts = self.qkv(x).flatten(1, 2).chunk(3, dim=2)
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        weights = ((q @ k.transpose(-2, -1)) * self.scale).softmax(-1)
        x = (weights @ v).transpose(1, 2).reshape(batch, height, width, dim)
        if self.rate > 1:
            x = self.norm(self.LocalProp(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return self.proj(x)


class SelfAttention(nn.Module):
    """Position encoding, global sparse attention and an MLP, each with its residual: ``[B, dim, H, W]``."""

    def __init__(self, dim: int, hidden: int, heads: int, rate: int, activation: Callable[[], nn.Module]):
        super().__init__()
        self.pos_embed = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = GlobalSparseAttention(dim, heads, rate)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = ChannelMLP(dim, hidden, activation)

    def forward(self, x: Tensor) -> Tensor:
        x = (x + self.pos_embed(x)).permute(0, 2, 3, 1)
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x.permute(0, 3, 1, 2)


class LGLBlock(nn.Module):
    """Local aggregation (where tokens are sampled), then sparse global attention with local propagation."""

    def __init__(self, dim: int, hidden: int, heads: int, rate: int, activation: Callable[[], nn.Module]):
        super().__init__()
        if rate > 1:
            self.LocalAgg = LocalAggregation(dim, hidden, activation)
        self.SelfAttn = SelfAttention(dim, hidden, heads, rate, activation)

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "LocalAgg"):
            x = self.LocalAgg(x)
        return self.SelfAttn(x)


class EdgeViT(nn.Module):
    """Four stages of LGL blocks, BatchNorm, global average, classifier: ``[B, 3, H, W] -> [B, classes]``.

    H and W are multiples of 32.
    """

    def __init__(self, config: EdgeViTConfig, num_classes: int, activation: Callable[[], nn.Module]):
        super().__init__()
        dim_in = 3
        for stage, dim in enumerate(config.dims):
            self.add_module(f"patch_embed{stage + 1}", PatchEmbed(dim_in, dim, 4 if stage == 0 else 2))
            block = (dim, dim * config.mlp_ratio, config.heads[stage], config.sampling_rates[stage], activation)
            blocks = [LGLBlock(*block) for _ in range(config.depths[stage])]
            self.add_module(f"blocks{stage + 1}", nn.Sequential(*blocks))
            dim_in = dim
        self.norm = nn.BatchNorm2d(dim_in)
        self.head = nn.Linear(dim_in, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for stage in range(1, 5):
            x = self.get_submodule(f"patch_embed{stage}")(x)
            x = self.get_submodule(f"blocks{stage}")(x)
        return self.head(self.norm(x).mean((2, 3)))


def _build(name: str, num_classes: int, activation: str) -> EdgeViT:
    return EdgeViT(CONFIGS[name], num_classes, ACTIVATIONS[activation])


PAPER = "https://arxiv.org/abs/2205.03436"
PHONE = ("Snapdragon 888 CPU", "TorchScript-lite", PAPER)


@register(
    size_multiple=32,
    published=Published(PAPER, top1=74.4, macs=0.6e9, macs_note=ROUNDED, latency=Latency(32.8, *PHONE)),
)
def edgevit_xxs(num_classes: int = 1000, activation: str = "gelu") -> EdgeViT:
    """EdgeViT-XXS, 4.1 M parameters."""
    return _build("edgevit_xxs", num_classes, activation)


@register(size_multiple=32, published=Published(PAPER, top1=77.5, macs=1.1e9, macs_note=ROUNDED))
def edgevit_xs(num_classes: int = 1000, activation: str = "gelu") -> EdgeViT:
    """EdgeViT-XS, 6.8 M parameters."""
    return _build("edgevit_xs", num_classes, activation)


@register(size_multiple=32, published=Published(PAPER, top1=81.0, macs=1.9e9))
def edgevit_s(num_classes: int = 1000, activation: str = "gelu") -> EdgeViT:
    """EdgeViT-S, 13.1 M parameters."""
    return _build("edgevit_s", num_classes, activation)


DIGITS = Trained(
    "edgevit_digits.safetensors",
    sha256="844127443d413853666db07174b16fc40960a73122d28fb69f9f4e4f94ebdc8f",
)
DIGIT_IMAGES = Preprocessing(resize=64, crop=(64, 64), interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)


@register(
    size_multiple=32,
    input_size=(64, 64),
    published=Published(PAPER, top1=99.7, macs=6.9e6),
    trained=DIGITS,
    preprocessing=DIGIT_IMAGES,
)
def edgevit_digits(num_classes: int = 10, activation: str = "gelu") -> EdgeViT:
    """A small EdgeViT for scikit-learn's handwritten digits, trained by ``benchmarks/train_digits.py``."""
    return _build("edgevit_digits", num_classes, activation)
