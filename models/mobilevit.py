"""MobileViT: inverted residuals, and transformers among the pixels at one place of their patches.

Source: Mehta and Rastegari, "MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision
Transformer", ICLR 2022 (https://arxiv.org/abs/2110.02178), as published in code
(https://github.com/apple/ml-cvnets). Module names follow the official checkpoints, so that they
load as they are.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy_kit.models.layers import ACTIVATIONS
from deploy_kit.models.registry import Published, register
from deploy_kit.preprocessing import Preprocessing

HEADS = 4
TRANSFORMER_DEPTHS = (2, 4, 3)
CLASSIFIER_EXPANSION = 4


@dataclass(frozen=True)
class MobileViTConfig:
    """One size: channels of the stem and the five layers, widths of the last three layers' transformers.

    ``expansion`` is of the inverted residuals.
    """

    stem: int
    channels: tuple[int, int, int, int, int]
    transformer_dims: tuple[int, int, int]
    expansion: int


CONFIGS = {
    "mobilevit_xxs": MobileViTConfig(16, (16, 24, 48, 64, 80), (64, 80, 96), expansion=2),
    "mobilevit_xs": MobileViTConfig(16, (32, 48, 64, 80, 96), (96, 120, 144), expansion=4),
    "mobilevit_s": MobileViTConfig(16, (32, 64, 96, 128, 160), (144, 192, 240), expansion=4),
}


class ConvLayer(nn.Module):
    """Convolution without bias, then BatchNorm and an activation where there are any: ``[B, Ci, H, W]``."""

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        kernel: int,
        activation: Callable[[], nn.Module] | None = None,
        stride: int = 1,
        groups: int = 1,
        norm: bool = True,
    ):
        super().__init__()
        self.block = nn.Sequential()
        self.block.add_module("conv", nn.Conv2d(dim_in, dim_out, kernel, stride, kernel // 2, 1, groups, bias=False))
        if norm:
            self.block.add_module("norm", nn.BatchNorm2d(dim_out))
        if activation is not None:
            self.block.add_module("act", activation())

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class InvertedResidual(nn.Module):
    """Pointwise, depthwise and pointwise convolution; a residual where the shape stays: ``[B, Ci, H, W]``."""

    def __init__(self, dim_in: int, dim_out: int, stride: int, expansion: int, activation: Callable[[], nn.Module]):
        super().__init__()
        hidden = dim_in * expansion
        self.residual = stride == 1 and dim_in == dim_out
        layers = {
            "exp_1x1": ConvLayer(dim_in, hidden, 1, activation),
            "conv_3x3": ConvLayer(hidden, hidden, 3, activation, stride, groups=hidden),
            "red_1x1": ConvLayer(hidden, dim_out, 1),
        }
        self.block = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.residual else self.block(x)


def softmax(scores: Tensor) -> Tensor:
    """Softmax over the last axis, in float32 whatever the rest is in, as the official code has it."""
    return scores.softmax(-1) if scores.dtype == torch.float32 else scores.float().softmax(-1).to(scores.dtype)


class Attention(nn.Module):
    """Multi-head self-attention: ``[B, N, dim] -> [B, N, dim]``; the joint projection is [q|k|v][head][channel]."""

    def __init__(self, dim: int):
        super().__init__()
        self.scale = (dim // HEADS) ** -0.5
        self.qkv_proj = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in self.qkv_proj(x).chunk(3, dim=2))
        weights = softmax((q * self.scale) @ k.transpose(2, 3))
        return self.out_proj((weights @ v).transpose(1, 2).flatten(2))


class TransformerEncoder(nn.Module):
    """Attention and an MLP, each with LayerNorm before and a residual: ``[B, N, dim] -> [B, N, dim]``."""

    def __init__(self, dim: int, activation: Callable[[], nn.Module]):
        super().__init__()
        self.pre_norm_mha = nn.Sequential(nn.LayerNorm(dim), Attention(dim))
        # The numbers are those of the official checkpoints, which count dropouts.
        mlp = {"0": nn.LayerNorm(dim), "1": nn.Linear(dim, 2 * dim), "2": activation(), "4": nn.Linear(2 * dim, dim)}
        self.pre_norm_ffn = nn.Sequential(OrderedDict(mlp))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pre_norm_mha(x)
        return x + self.pre_norm_ffn(x)


def unfold(x: Tensor) -> Tensor:
    """The pixels at each of the four places of 2x2 patches as a batch: ``[B, C, H, W] -> [4B, HW/4, C]``.

    The places are top left, bottom left, top right, bottom right; H and W are even. Rows that alternate are the halves
    of rows of twice the length, and likewise for columns: no tensor has more than four axes, and no slice a step.
    """
    channels, height, width = x.shape[1:]
    rows = x.permute(0, 2, 3, 1).reshape(1, -1, 2 * width, channels)
    rows = torch.cat([rows[:, :, :width], rows[:, :, width:]])
    columns = rows.reshape(2, -1, width // 2, 2 * channels)
    places = torch.cat([columns[..., :channels], columns[..., channels:]])
    return places.reshape(-1, height * width // 4, channels)


def fold(x: Tensor, height: int, width: int) -> Tensor:
    """The opposite of `unfold`: ``[4B, HW/4, C] -> [B, C, H, W]``."""
    channels = x.shape[2]
    places = x.reshape(4, -1, width // 2, channels)
    rows = torch.cat([places[:2], places[2:]], dim=3).reshape(2, -1, width, channels)
    return torch.cat([rows[:1], rows[1:]], dim=2).reshape(-1, height, width, channels).permute(0, 3, 1, 2)


def _even(side: int) -> int:
    return side + side % 2


class MobileViTBlock(nn.Module):
    """Convolutions, transformers over the image, and both joined: ``[B, dim, H, W] -> [B, dim, H, W]``.

    Odd sides are stretched to even ones for the transformers, and back.
    """

    def __init__(self, dim: int, transformer_dim: int, depth: int, activation: Callable[[], nn.Module]):
        super().__init__()
        self.local_rep = nn.Sequential()
        self.local_rep.add_module("conv_3x3", ConvLayer(dim, dim, 3, activation))
        self.local_rep.add_module("conv_1x1", ConvLayer(dim, transformer_dim, 1, norm=False))
        encoders = [TransformerEncoder(transformer_dim, activation) for _ in range(depth)]
        self.global_rep = nn.Sequential(*encoders, nn.LayerNorm(transformer_dim))
        self.conv_proj = ConvLayer(transformer_dim, dim, 1, activation)
        self.fusion = ConvLayer(2 * dim, dim, 3, activation)

    def forward(self, x: Tensor) -> Tensor:
        features = self.local_rep(x)
        size, even = x.shape[2:], (_even(x.shape[2]), _even(x.shape[3]))
        if even != tuple(size):
            features = F.interpolate(features, even, mode="bilinear", align_corners=False)
        features = fold(self.global_rep(unfold(features)), *even)
        if even != tuple(size):
            features = F.interpolate(features, size, mode="bilinear", align_corners=False)
        return self.fusion(torch.cat([x, self.conv_proj(features)], dim=1))


class MobileViT(nn.Module):
    """Stem, five layers, global average, classifier: ``[B, 3, H, W] -> [B, classes]``.

    H and W may be any; the stem and all layers but the first halve them, rounded up.
    """

    def __init__(self, config: MobileViTConfig, num_classes: int, activation: Callable[[], nn.Module]):
        super().__init__()
        first, second, *with_transformers = config.channels
        residual = (config.expansion, activation)
        self.conv_1 = ConvLayer(3, config.stem, 3, activation, stride=2)
        self.layer_1 = nn.Sequential(InvertedResidual(config.stem, first, 1, *residual))
        self.layer_2 = nn.Sequential(
            InvertedResidual(first, second, 2, *residual),
            *[InvertedResidual(second, second, 1, *residual) for _ in range(2)],
        )
        dim_in = second
        for i, (dim, transformer_dim, depth) in enumerate(
            zip(with_transformers, config.transformer_dims, TRANSFORMER_DEPTHS), 3
        ):
            down = InvertedResidual(dim_in, dim, 2, *residual)
            self.add_module(f"layer_{i}", nn.Sequential(down, MobileViTBlock(dim, transformer_dim, depth, activation)))
            dim_in = dim
        self.conv_1x1_exp = ConvLayer(dim_in, CLASSIFIER_EXPANSION * dim_in, 1, activation)
        self.classifier = nn.Sequential()
        self.classifier.add_module("fc", nn.Linear(CLASSIFIER_EXPANSION * dim_in, num_classes))

    @staticmethod
    def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The official layout of a checkpoint in timm's, whose function is the same; any other as it is."""
        return {_official_key(key): value for key, value in state.items()} if "stem.conv.weight" in state else state

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_1(x)
        for layer in range(1, 6):
            x = self.get_submodule(f"layer_{layer}")(x)
        return self.classifier(self.conv_1x1_exp(x).mean((2, 3)))


TIMM_NAMES = {
    "stem.": "conv_1.block.",
    "final_conv.": "conv_1x1_exp.block.",
    "head.": "classifier.",
    ".bn.": ".norm.",
    ".conv1_1x1.": ".block.exp_1x1.block.",
    ".conv2_kxk.": ".block.conv_3x3.block.",
    ".conv3_1x1.": ".block.red_1x1.block.",
    ".conv_kxk.": ".local_rep.conv_3x3.block.",
    ".conv_1x1.": ".local_rep.conv_1x1.block.conv.",
    ".conv_proj.": ".conv_proj.block.",
    ".conv_fusion.": ".fusion.block.",
    ".transformer.": ".global_rep.",
    ".norm1.": ".pre_norm_mha.0.",
    ".attn.qkv.": ".pre_norm_mha.1.qkv_proj.",
    ".attn.proj.": ".pre_norm_mha.1.out_proj.",
    ".norm2.": ".pre_norm_ffn.0.",
    ".mlp.fc1.": ".pre_norm_ffn.1.",
    ".mlp.fc2.": ".pre_norm_ffn.4.",
}
"""Parts of the keys of timm's checkpoints, and of the official ones."""


def _official_key(key: str) -> str:
    """The official name of an entry of timm's checkpoints."""
    stage = re.match(r"stages\.(\d)\.", key)
    if stage is not None:
        number = int(stage[1]) + 1
        key = f"layer_{number}.{key[stage.end() :]}"
        if number > 2:  # the norm behind the transformers is counted as one more of them
            key = key.replace(".1.norm.", f".1.global_rep.{TRANSFORMER_DEPTHS[number - 3]}.")
    for timm, official in TIMM_NAMES.items():
        key = key.replace(timm, official, 1)
    return key


def _build(name: str, num_classes: int, activation: str) -> MobileViT:
    return MobileViT(CONFIGS[name], num_classes, ACTIVATIONS[activation])


IMAGES = Preprocessing(
    color="BGR", resize=288, crop=(256, 256), interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3
)
"""The authors give the pixels as they are, from 0 to 1, blue first."""

PAPER = "https://arxiv.org/abs/2110.02178"


@register(
    timm="mobilevit_xxs.cvnets_in1k",
    preprocessing=IMAGES,
    gain=1.4,
    input_size=(256, 256),
    published=Published(PAPER, top1=69.0),
)
def mobilevit_xxs(num_classes: int = 1000, activation: str = "silu") -> MobileViT:
    """MobileViT-XXS, 1.3 M parameters."""
    return _build("mobilevit_xxs", num_classes, activation)


@register(
    timm="mobilevit_xs.cvnets_in1k",
    preprocessing=IMAGES,
    gain=1.4,
    input_size=(256, 256),
    published=Published(PAPER, top1=74.7),
)
def mobilevit_xs(num_classes: int = 1000, activation: str = "silu") -> MobileViT:
    """MobileViT-XS, 2.3 M parameters."""
    return _build("mobilevit_xs", num_classes, activation)


@register(
    timm="mobilevit_s.cvnets_in1k",
    preprocessing=IMAGES,
    gain=1.4,
    input_size=(256, 256),
    published=Published(PAPER, top1=78.3),
)
def mobilevit_s(num_classes: int = 1000, activation: str = "silu") -> MobileViT:
    """MobileViT-S, 5.6 M parameters."""
    return _build("mobilevit_s", num_classes, activation)
