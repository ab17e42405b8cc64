"""EfficientFormer: pooling blocks on images in four stages, attention blocks on tokens at the end of the last.

Source: Li et al., "EfficientFormer: Vision Transformers at MobileNet Speed", NeurIPS 2022
(https://arxiv.org/abs/2206.01191), as published in code (https://github.com/snap-research/EfficientFormer).
Module names follow the official checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy_kit.models.layers import ACTIVATIONS, ChannelMLP
from deploy_kit.models.levit_layers import BiasedAttention, Rule, Size, average_heads, convert_biases, rename
from deploy_kit.models.registry import Latency, Published, register

HEADS, KEY_DIM, VALUE_DIM = 8, 32, 128


@dataclass(frozen=True)
class EfficientFormerConfig:
    """One size; each tuple has an entry a stage. The last ``attentions`` blocks of the last stage attend."""

    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    attentions: int


CONFIGS = {
    "efficientformer_l1": EfficientFormerConfig((48, 96, 224, 448), (3, 2, 6, 4), 1),
    "efficientformer_l3": EfficientFormerConfig((64, 128, 320, 512), (4, 4, 12, 6), 4),
    "efficientformer_l7": EfficientFormerConfig((96, 192, 384, 768), (6, 6, 18, 8), 8),
}

Activation = Callable[[], nn.Module]


class ConvNormMLP(nn.Module):
    """Two pointwise convolutions with BatchNorm, four times as wide between: ``[B, dim, H, W]`` in and out."""

    def __init__(self, dim: int, activation: Activation):
        super().__init__()
        self.fc1 = nn.Conv2d(dim, 4 * dim, 1)
        self.norm1 = nn.BatchNorm2d(4 * dim)
        self.act = activation()
        self.fc2 = nn.Conv2d(4 * dim, dim, 1)
        self.norm2 = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm2(self.fc2(self.act(self.norm1(self.fc1(x)))))


class Pooling(nn.Module):
    """How the average of the 3 x 3 neighbours inside the image differs from the pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) - x


class MB4D(nn.Module):
    """Pooling and a convolutional MLP, each with layer scale and residual: ``[B, dim, H, W]`` in and out."""

    def __init__(self, dim: int, activation: Activation):
        super().__init__()
        self.layer_scale_1 = nn.Parameter(torch.full((dim,), 1e-5))
        self.layer_scale_2 = nn.Parameter(torch.full((dim,), 1e-5))
        self.token_mixer = Pooling()
        self.mlp = ConvNormMLP(dim, activation)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.layer_scale_1[:, None, None] * self.token_mixer(x)
        return x + self.layer_scale_2[:, None, None] * self.mlp(x)


class Flat(nn.Module):
    """From an image to its tokens: ``[B, dim, H, W] -> [B, H * W, dim]``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


class Attention(BiasedAttention):
    """Attention with values four times as wide as keys: ``[B, tokens, dim] -> [B, tokens, dim]``."""

    def __init__(self, dim: int, resolution: Size):
        super().__init__(HEADS, resolution)
        self.scale = KEY_DIM**-0.5
        self.qkv = nn.Linear(dim, HEADS * (2 * KEY_DIM + VALUE_DIM))
        self.proj = nn.Linear(HEADS * VALUE_DIM, dim)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.resolution[0] * self.resolution[1]
        qkv = self.qkv(x).reshape(-1, tokens, HEADS, 2 * KEY_DIM + VALUE_DIM).transpose(1, 2)
        q, k, v = qkv.split((KEY_DIM, KEY_DIM, VALUE_DIM), 3)
        weights = ((q @ k.transpose(2, 3)) * self.scale + self.bias()).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(-1, tokens, HEADS * VALUE_DIM))


class MB3D(nn.Module):
    """Attention and an MLP, each with LayerNorm, layer scale and residual: ``[B, tokens, dim]`` in and out."""

    def __init__(self, dim: int, resolution: Size, activation: Activation):
        super().__init__()
        self.layer_scale_1 = nn.Parameter(torch.full((dim,), 1e-5))
        self.layer_scale_2 = nn.Parameter(torch.full((dim,), 1e-5))
        self.norm1 = nn.LayerNorm(dim)
        self.token_mixer = Attention(dim, resolution)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = ChannelMLP(dim, 4 * dim, activation)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.layer_scale_1 * self.token_mixer(self.norm1(x))
        return x + self.layer_scale_2 * self.mlp(self.norm2(x))


class Embedding(nn.Module):
    """Subsampling between stages, a convolution with BatchNorm: ``[B, Ci, H, W] -> [B, Co, H/2, W/2]``."""

    def __init__(self, dim_in: int, dim_out: int):
        super().__init__()
        self.proj = nn.Conv2d(dim_in, dim_out, 3, 2, 1)
        self.norm = nn.BatchNorm2d(dim_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x))


def stem(dim: int, activation: Activation) -> nn.Sequential:
    """Two convolutions with BatchNorm and activation: ``[B, 3, H, W] -> [B, dim, H/4, W/4]``."""
    half = dim // 2
    first = (nn.Conv2d(3, half, 3, 2, 1), nn.BatchNorm2d(half), activation())
    return nn.Sequential(*first, nn.Conv2d(half, dim, 3, 2, 1), nn.BatchNorm2d(dim), activation())


class EfficientFormer(nn.Module):
    """Stem, four stages with subsampling between, LayerNorm, average, two classifiers.

    ``[B, 3, H, W] -> [B, classes]``, where H and W are ``input_size``, multiples of 32. The second classifier
    learned from a teacher by distillation; the result is the average of both. The stem has ReLU,
    whatever the blocks have.
    """

    def __init__(self, config: EfficientFormerConfig, input_size: Size, num_classes: int, activation: Activation):
        super().__init__()
        self.patch_embed = stem(config.dims[0], nn.ReLU)
        resolution = (input_size[0] // 32, input_size[1] // 32)
        network: list[nn.Module] = []
        for stage, (dim, depth) in enumerate(zip(config.dims, config.depths)):
            attentions = config.attentions if stage == 3 else 0
            if stage > 0:
                network.append(Embedding(config.dims[stage - 1], dim))
            blocks: list[nn.Module] = [MB4D(dim, activation) for _ in range(depth - attentions)]
            if attentions:
                blocks += [Flat(), *(MB3D(dim, resolution, activation) for _ in range(attentions))]
            network.append(nn.Sequential(*blocks))
        self.network = nn.Sequential(*network)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)
        self.dist_head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.network(self.patch_embed(x))).mean(1)
        return average_heads(x, self.head, self.dist_head)

    def from_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The official checkpoint, or timm's, without its index tables, its biases resized where the images are."""
        return convert_biases(self, rename(state, TIMM))


TIMM: tuple[Rule, ...] = (
    (r"^stem\.(conv|norm)(\d)", lambda found: f"patch_embed.{3 * int(found[2]) - 3 + (found[1] == 'norm')}"),
    (r"^stages\.(\d)\.downsample\.conv", lambda found: f"network.{2 * int(found[1]) - 1}.proj"),
    (r"^stages\.(\d)\.downsample", lambda found: f"network.{2 * int(found[1]) - 1}"),
    (r"^stages\.(\d)\.blocks", lambda found: f"network.{2 * int(found[1])}"),
    (r"\.ls(\d)\.gamma", r".layer_scale_\1"),
    (r"^head_dist", "dist_head"),
)
"""timm's keys and the official ones."""


PAPER = "https://arxiv.org/abs/2206.01191"
PHONE = ("iPhone 12 Neural Engine", "CoreML", PAPER)
SIZE = (224, 224)


def _build(name: str, num_classes: int, activation: str, input_size: Size) -> EfficientFormer:
    return EfficientFormer(CONFIGS[name], input_size, num_classes, ACTIVATIONS[activation])


@register(
    timm="efficientformer_l1.snap_dist_in1k",
    size_multiple=32,
    published=Published(PAPER, top1=79.2, macs=1.29e9, latency=Latency(1.6, *PHONE)),
)
def efficientformer_l1(num_classes: int = 1000, activation: str = "gelu", input_size: Size = SIZE) -> EfficientFormer:
    """EfficientFormer-L1, 12.3 M parameters."""
    return _build("efficientformer_l1", num_classes, activation, input_size)


@register(
    timm="efficientformer_l3.snap_dist_in1k",
    size_multiple=32,
    published=Published(PAPER, top1=82.4, macs=3.91e9, latency=Latency(3.0, *PHONE)),
)
def efficientformer_l3(num_classes: int = 1000, activation: str = "gelu", input_size: Size = SIZE) -> EfficientFormer:
    """EfficientFormer-L3, 31.4 M parameters."""
    return _build("efficientformer_l3", num_classes, activation, input_size)


@register(
    timm="efficientformer_l7.snap_dist_in1k",
    size_multiple=32,
    published=Published(PAPER, top1=83.3, macs=10.12e9, latency=Latency(7.0, *PHONE)),
)
def efficientformer_l7(num_classes: int = 1000, activation: str = "gelu", input_size: Size = SIZE) -> EfficientFormer:
    """EfficientFormer-L7, 82.2 M parameters."""
    return _build("efficientformer_l7", num_classes, activation, input_size)
