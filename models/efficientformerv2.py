"""EfficientFormerV2: convolutional blocks, attention with talking heads in two stages, attention that subsamples.

Source: Li et al., "Rethinking Vision Transformers for MobileNet Size and Speed", ICCV 2023
(https://arxiv.org/abs/2212.08059), as published in code (https://github.com/snap-research/EfficientFormer).
Module names follow the official checkpoints. Everything is channels-first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy_kit.models.efficientformer import Embedding, stem
from deploy_kit.models.layers import ACTIVATIONS
from deploy_kit.models.levit_layers import (
    BiasedAttention,
    Rule,
    Size,
    attend,
    average_heads,
    convert_biases,
    rename,
    subsampled,
)
from deploy_kit.models.registry import ROUNDED, Published, register

HEADS, KEY_DIM, SUBSAMPLE_KEY_DIM = 8, 32, 16
VALUE_RATIO = 4


@dataclass(frozen=True)
class EfficientFormerV2Config:
    """One size: channels of each stage, and how many times wider each block's MLP is between.

    The last ``attentions`` blocks of the last two stages attend.
    """

    dims: tuple[int, int, int, int]
    expansions: tuple[tuple[int, ...], ...]
    attentions: int


CONFIGS = {
    "efficientformerv2_s0": EfficientFormerV2Config(
        (32, 48, 96, 176), ((4,) * 2, (4,) * 2, (4, 3, 3, 3, 4, 4), (4, 3, 3, 4)), 2
    ),
    "efficientformerv2_s1": EfficientFormerV2Config(
        (32, 48, 120, 224), ((4,) * 3, (4,) * 3, (4, 4, 3, 3, 3, 3, 4, 4, 4), (4, 4, 3, 3, 4, 4)), 2
    ),
    "efficientformerv2_s2": EfficientFormerV2Config(
        (32, 64, 144, 288),
        ((4,) * 4, (4,) * 4, (4, 4, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4), (4, 4, 3, 3, 3, 3, 4, 4)),
        4,
    ),
    "efficientformerv2_l": EfficientFormerV2Config(
        (40, 80, 192, 384),
        ((4,) * 5, (4,) * 5, (4, 4, 4, 4, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4), (4, 4, 4, 3, 3, 3, 3, 4, 4, 4)),
        6,
    ),
}

Activation = Callable[[], nn.Module]


class ConvMLP(nn.Module):
    """Pointwise, depthwise and pointwise convolution, each with BatchNorm: ``[B, dim, H, W]`` in and out."""

    def __init__(self, dim: int, hidden: int, activation: Activation):
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.norm1 = nn.BatchNorm2d(hidden)
        self.mid = nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden)
        self.mid_norm = nn.BatchNorm2d(hidden)
        self.act = activation()
        self.fc2 = nn.Conv2d(hidden, dim, 1)
        self.norm2 = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm1(self.fc1(x)))
        x = self.act(self.mid_norm(self.mid(x)))
        return self.norm2(self.fc2(x))


def conv_norm(dim_in: int, dim_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution with bias, then BatchNorm."""
    conv = nn.Conv2d(dim_in, dim_out, kernel, stride, kernel // 2, groups=groups)
    return nn.Sequential(conv, nn.BatchNorm2d(dim_out))


class TalkingHeadAttention(BiasedAttention):
    """Attention whose heads mix their scores before and after the softmax: ``[B, dim, H, W]`` in and out.

    A depthwise convolution of the values is added to what is attended. With a stride of 2 all this happens on
    half the resolution, and is interpolated.
    """

    def __init__(self, dim: int, resolution: Size, stride: int, activation: Activation):
        self.inner = subsampled(resolution) if stride == 2 else resolution
        super().__init__(HEADS, self.inner)
        width = HEADS * VALUE_RATIO * KEY_DIM
        self.outer = resolution
        self.scale = KEY_DIM**-0.5
        if stride == 2:
            self.stride_conv = conv_norm(dim, dim, 3, stride, groups=dim)
        self.q = conv_norm(dim, HEADS * KEY_DIM)
        self.k = conv_norm(dim, HEADS * KEY_DIM)
        self.v = conv_norm(dim, width)
        self.v_local = conv_norm(width, width, 3, groups=width)
        self.talking_head1 = nn.Conv2d(HEADS, HEADS, 1)
        self.talking_head2 = nn.Conv2d(HEADS, HEADS, 1)
        self.proj = nn.Sequential(activation(), *conv_norm(width, dim))

    def forward(self, x: Tensor) -> Tensor:
        if self.inner != self.outer:
            x = self.stride_conv(x)
        v = self.v(x)
        tokens = self.inner[0] * self.inner[1]
        q, k, values = (part.reshape(-1, HEADS, part.shape[1] // HEADS, tokens) for part in (self.q(x), self.k(x), v))
        scores = self.talking_head1((q.transpose(2, 3) @ k) * self.scale + self.bias())
        # Of rank 3: ExecuTorch 1.4.1's XNNPACK takes the softmax over channels where it follows a convolution.
        weights = scores.flatten(1, 2).softmax(-1).unflatten(1, (HEADS, tokens))
        weights = self.talking_head2(weights)
        x = (values @ weights.transpose(2, 3)).reshape(-1, v.shape[1], *self.inner) + self.v_local(v)
        if self.inner != self.outer:
            x = F.interpolate(x, scale_factor=2, mode="bilinear")
        return self.proj(x)


class LocalGlobalQuery(nn.Module):
    """A strided depthwise convolution beside every second pixel, projected: ``[B, Ci, H, W] -> [B, Co, H/2, W/2]``."""

    centre: Tensor

    def __init__(self, dim_in: int, dim_out: int):
        super().__init__()
        self.local = nn.Sequential(nn.Conv2d(dim_in, dim_in, 3, 2, 1, groups=dim_in))
        self.proj = conv_norm(dim_in, dim_out)
        self.register_buffer("centre", F.pad(torch.ones(1, 1, 1, 1), (1, 1, 1, 1)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        local = self.local[0]
        assert isinstance(local, nn.Conv2d)
        # The centre of the kernel lies on every second pixel: adding those is adding 1 to it.
        x = F.conv2d(x, local.weight + self.centre, local.bias, 2, 1, groups=x.shape[1])
        return self.proj(x)


class SubsamplingAttention(BiasedAttention):
    """Attention of a query at every second token in both axes to all: ``[B, Ci, H, W] -> [B, Co, H/2, W/2]``.

    A strided depthwise convolution of the values is added to what is attended.
    """

    def __init__(self, dim_in: int, dim_out: int, resolution: Size, activation: Activation):
        super().__init__(HEADS, resolution, stride=2)
        width = HEADS * VALUE_RATIO * SUBSAMPLE_KEY_DIM
        self.scale = SUBSAMPLE_KEY_DIM**-0.5
        self.q = LocalGlobalQuery(dim_in, HEADS * SUBSAMPLE_KEY_DIM)
        self.k = conv_norm(dim_in, HEADS * SUBSAMPLE_KEY_DIM)
        self.v = conv_norm(dim_in, width)
        self.v_local = conv_norm(width, width, 3, 2, groups=width)
        self.proj = nn.Sequential(activation(), *conv_norm(width, dim_out))

    def forward(self, x: Tensor) -> Tensor:
        height, width = subsampled(self.resolution)
        tokens = self.resolution[0] * self.resolution[1]
        v = self.v(x)
        q = self.q(x).reshape(-1, HEADS, SUBSAMPLE_KEY_DIM, height * width)
        k = self.k(x).reshape(-1, HEADS, SUBSAMPLE_KEY_DIM, tokens)
        values = v.reshape(-1, HEADS, VALUE_RATIO * SUBSAMPLE_KEY_DIM, tokens)
        x = attend(q, k, values, self.scale, self.bias())
        return self.proj(x.reshape(-1, v.shape[1], height, width) + self.v_local(v))


class AttentionEmbedding(nn.Module):
    """Subsampling by attention and by convolution, added: ``[B, Ci, H, W] -> [B, Co, H/2, W/2]``."""

    def __init__(self, dim_in: int, dim_out: int, resolution: Size, activation: Activation):
        super().__init__()
        self.attn = SubsamplingAttention(dim_in, dim_out, resolution, activation)
        self.conv = nn.Conv2d(dim_in, dim_out, 3, 2, 1)
        self.bn = nn.BatchNorm2d(dim_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(x) + self.bn(self.conv(x))


class ConvBlock(nn.Module):
    """An MLP with layer scale and residual: ``[B, dim, H, W]`` in and out."""

    def __init__(self, dim: int, expansion: int, activation: Activation):
        super().__init__()
        self.layer_scale_2 = nn.Parameter(torch.full((dim, 1, 1), 1e-5))
        self.mlp = ConvMLP(dim, expansion * dim, activation)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer_scale_2 * self.mlp(x)


class AttentionBlock(nn.Module):
    """Attention, then an MLP, each with layer scale and residual: ``[B, dim, H, W]`` in and out."""

    def __init__(self, dim: int, expansion: int, resolution: Size, stride: int, activation: Activation):
        super().__init__()
        self.layer_scale_1 = nn.Parameter(torch.full((dim, 1, 1), 1e-5))
        self.layer_scale_2 = nn.Parameter(torch.full((dim, 1, 1), 1e-5))
        self.token_mixer = TalkingHeadAttention(dim, resolution, stride, activation)
        self.mlp = ConvMLP(dim, expansion * dim, activation)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.layer_scale_1 * self.token_mixer(x)
        return x + self.layer_scale_2 * self.mlp(x)


class EfficientFormerV2(nn.Module):
    """Stem, four stages with subsampling between, BatchNorm, average, two classifiers.

    ``[B, 3, H, W] -> [B, classes]``, where H and W are ``input_size``, multiples of 32. The second classifier
    learned from a teacher by distillation; the result is the average of both.
    """

    def __init__(self, config: EfficientFormerV2Config, input_size: Size, num_classes: int, activation: Activation):
        super().__init__()
        self.patch_embed = stem(config.dims[0], activation)
        network: list[nn.Module] = []
        for stage, (dim, expansions) in enumerate(zip(config.dims, config.expansions)):
            before = config.dims[stage - 1]
            resolution = (input_size[0] >> stage + 2, input_size[1] >> stage + 2)
            if stage == 3:
                larger = (input_size[0] // 16, input_size[1] // 16)
                network.append(AttentionEmbedding(before, dim, larger, activation))
            elif stage > 0:
                network.append(Embedding(before, dim))
            convolutional = len(expansions) - (config.attentions if stage >= 2 else 0)
            blocks: list[nn.Module] = [ConvBlock(dim, ratio, activation) for ratio in expansions[:convolutional]]
            stride = 2 if stage == 2 else 1
            for ratio in expansions[convolutional:]:
                blocks.append(AttentionBlock(dim, ratio, resolution, stride, activation))
            network.append(nn.Sequential(*blocks))
        self.network = nn.Sequential(*network)
        self.norm = nn.BatchNorm2d(dim)
        self.head = nn.Linear(dim, num_classes)
        self.dist_head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.network(self.patch_embed(x))).mean((2, 3))
        return average_heads(x, self.head, self.dist_head)

    def from_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The official checkpoint, or timm's, without its index tables, its biases resized where the images are."""
        state = rename(state, TIMM)
        scales = {key for key, value in state.items() if "layer_scale" in key and value.dim() == 1}
        shaped = {key: value[:, None, None] if key in scales else value for key, value in state.items()}
        return convert_biases(self, shaped)


TIMM: tuple[Rule, ...] = (
    (r"^stem\.conv(\d)\.conv", lambda found: f"patch_embed.{3 * int(found[1]) - 3}"),
    (r"^stem\.conv(\d)\.bn", lambda found: f"patch_embed.{3 * int(found[1]) - 2}"),
    (r"^stages\.3\.downsample\.conv", "network.5"),
    (r"^stages\.([12])\.downsample\.conv\.conv", lambda found: f"network.{2 * int(found[1]) - 1}.proj"),
    (r"^stages\.([12])\.downsample\.conv\.bn", lambda found: f"network.{2 * int(found[1]) - 1}.norm"),
    (r"^stages\.3\.downsample\.attn", "network.5.attn"),
    (r"^stages\.(\d)\.blocks", lambda found: f"network.{2 * int(found[1])}"),
    (r"\.mlp\.(fc1|fc2|mid)\.conv", r".mlp.\1"),
    (r"\.mlp\.fc(\d)\.bn", r".mlp.norm\1"),
    (r"\.mlp\.mid\.bn", ".mlp.mid_norm"),
    (r"\.q\.local\.", ".q.local.0."),
    (r"\.(q\.proj|q|k|v|v_local|stride_conv)\.conv\.", r".\1.0."),
    (r"\.(q\.proj|q|k|v|v_local|stride_conv)\.bn\.", r".\1.1."),
    (r"\.proj\.conv\.", ".proj.1."),
    (r"\.proj\.bn\.", ".proj.2."),
    (r"\.ls(\d)\.gamma", r".layer_scale_\1"),
    (r"^head_dist", "dist_head"),
)
"""timm's keys and the official ones."""


PAPER = "https://arxiv.org/abs/2212.08059"
SIZE = (224, 224)


def _build(name: str, num_classes: int, activation: str, input_size: Size) -> EfficientFormerV2:
    return EfficientFormerV2(CONFIGS[name], input_size, num_classes, ACTIVATIONS[activation])


@register(
    timm="efficientformerv2_s0.snap_dist_in1k",
    size_multiple=32,
    published=Published(PAPER, top1=75.7, macs=0.40e9, macs_note=ROUNDED),
)
def efficientformerv2_s0(
    num_classes: int = 1000, activation: str = "gelu", input_size: Size = SIZE
) -> EfficientFormerV2:
    """EfficientFormerV2-S0, 3.6 M parameters."""
    return _build("efficientformerv2_s0", num_classes, activation, input_size)


@register(
    timm="efficientformerv2_s1.snap_dist_in1k", size_multiple=32, published=Published(PAPER, top1=79.0, macs=0.65e9)
)
def efficientformerv2_s1(
    num_classes: int = 1000, activation: str = "gelu", input_size: Size = SIZE
) -> EfficientFormerV2:
    """EfficientFormerV2-S1, 6.2 M parameters."""
    return _build("efficientformerv2_s1", num_classes, activation, input_size)


@register(
    timm="efficientformerv2_s2.snap_dist_in1k", size_multiple=32, published=Published(PAPER, top1=81.6, macs=1.25e9)
)
def efficientformerv2_s2(
    num_classes: int = 1000, activation: str = "gelu", input_size: Size = SIZE
) -> EfficientFormerV2:
    """EfficientFormerV2-S2, 12.7 M parameters."""
    return _build("efficientformerv2_s2", num_classes, activation, input_size)


@register(
    timm="efficientformerv2_l.snap_dist_in1k", size_multiple=32, published=Published(PAPER, top1=83.3, macs=2.55e9)
)
def efficientformerv2_l(
    num_classes: int = 1000, activation: str = "gelu", input_size: Size = SIZE
) -> EfficientFormerV2:
    """EfficientFormerV2-L, 26.3 M parameters."""
    return _build("efficientformerv2_l", num_classes, activation, input_size)
