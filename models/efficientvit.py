"""EfficientViT (MIT): convolutions and ReLU linear attention at several scales; classification and segmentation.

Source: Cai et al., "EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense
Prediction", ICCV 2023 (https://arxiv.org/abs/2205.14756), as published in code
(https://github.com/mit-han-lab/efficientvit). Module names follow the official checkpoints, so that
they load as they are. Microsoft's EfficientViT is another architecture.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy_kit.models.layers import ACTIVATIONS
from deploy_kit.models.registry import ROUNDED, Latency, Published, register
from deploy_kit.preprocessing import Preprocessing

Activation = Callable[[], nn.Module]
Size = tuple[int, int]
CITYSCAPES, ADE20K = (1024, 2048), (512, 512)
EPSILON = 1e-15
"""Added to the sums of scores that a query's are divided by, which may all be 0."""


@dataclass(frozen=True)
class BackboneConfig:
    """One backbone: width and depth of the stem and the four stages, width of an attention head, the norms' epsilon.

    ``kinds`` says what each is made of: ``ds`` a depthwise separable convolution, ``res`` two convolutions, ``mb``
    an inverted residual, ``fmb`` one whose expansion and spatial convolution are one, ``att`` attention and an
    inverted residual; ``expansions`` are those of their residual blocks.
    """

    widths: tuple[int, int, int, int, int]
    depths: tuple[int, int, int, int, int]
    head_dim: int = 32
    kinds: tuple[str, ...] = ("ds", "mb", "mb", "att", "att")
    expansions: tuple[int, ...] = (1, 4, 4, 4, 4)
    eps: float = 1e-5

    @property
    def large(self) -> bool:
        """Whether it is of the L series, which writes its stem as a stage and expands more where it downsamples."""
        return self.kinds[0] == "res"


def _large(widths: tuple[int, int, int, int, int], depths: tuple[int, int, int, int, int]) -> BackboneConfig:
    return BackboneConfig(widths, depths, 32, ("res", "fmb", "fmb", "mb", "att"), (1, 4, 4, 4, 6), 1e-7)


BACKBONES = {
    "b0": BackboneConfig((8, 16, 32, 64, 128), (1, 2, 2, 2, 2), head_dim=16),
    "b1": BackboneConfig((16, 32, 64, 128, 256), (1, 2, 3, 3, 4), head_dim=16),
    "b2": BackboneConfig((24, 48, 96, 192, 384), (1, 3, 4, 4, 6)),
    "b3": BackboneConfig((32, 64, 128, 256, 512), (1, 4, 6, 6, 9)),
    "l1": _large((32, 64, 128, 256, 512), (1, 1, 1, 6, 6)),
    "l2": _large((32, 64, 128, 256, 512), (1, 2, 2, 8, 8)),
    "l3": _large((64, 128, 256, 512, 1024), (1, 2, 2, 8, 8)),
}

CLASSIFIERS = {
    "b0": (1024, 1280),
    "b1": (1536, 1600),
    "b2": (2304, 2560),
    "b3": (2304, 2560),
    "l1": (3072, 3200),
    "l2": (3072, 3200),
    "l3": (6144, 6400),
}
"""The two hidden widths of each classification head."""


@dataclass(frozen=True)
class SegmentationConfig:
    """One segmentation head: width, residual blocks and what they are, and the expansion before the classifier."""

    backbone: str
    width: int
    depth: int
    kind: str = "mb"
    expansion: int = 4
    final_expansion: int | None = None


SEGMENTATIONS = {
    "efficientvit_seg_b0_cityscapes": SegmentationConfig("b0", 32, 1, final_expansion=4),
    "efficientvit_seg_b1_cityscapes": SegmentationConfig("b1", 64, 3, final_expansion=4),
    "efficientvit_seg_b2_cityscapes": SegmentationConfig("b2", 96, 3, final_expansion=4),
    "efficientvit_seg_b3_cityscapes": SegmentationConfig("b3", 128, 3, final_expansion=4),
    "efficientvit_seg_l1_cityscapes": SegmentationConfig("l1", 256, 3, "fmb", expansion=1),
    "efficientvit_seg_l2_cityscapes": SegmentationConfig("l2", 256, 5, "fmb", expansion=1),
    "efficientvit_seg_b1_ade20k": SegmentationConfig("b1", 64, 3),
    "efficientvit_seg_b2_ade20k": SegmentationConfig("b2", 96, 3),
    "efficientvit_seg_b3_ade20k": SegmentationConfig("b3", 128, 3),
    "efficientvit_seg_l1_ade20k": SegmentationConfig("l1", 128, 3, "fmb", final_expansion=8),
    "efficientvit_seg_l2_ade20k": SegmentationConfig("l2", 128, 3, "fmb", final_expansion=8),
}


class ConvLayer(nn.Module):
    """Convolution, then BatchNorm and an activation where there are any; without BatchNorm it has a bias."""

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        kernel: int = 1,
        activation: Activation | None = None,
        *,
        stride: int = 1,
        groups: int = 1,
        norm: bool = True,
        bias: bool | None = None,
    ):
        super().__init__()
        bias = not norm if bias is None else bias
        self.conv = nn.Conv2d(dim_in, dim_out, kernel, stride, kernel // 2, groups=groups, bias=bias)
        self.norm = nn.BatchNorm2d(dim_out) if norm else nn.Identity()
        self.act = activation() if activation is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class OpSequential(nn.Module):
    """Modules one after another, under the name that the official checkpoints have for such a list."""

    def __init__(self, *modules: nn.Module):
        super().__init__()
        self.op_list = nn.Sequential(*modules)

    def forward(self, x: Tensor) -> Tensor:
        return self.op_list(x)


class Residual(nn.Module):
    """``x + main(x)``."""

    def __init__(self, main: nn.Module):
        super().__init__()
        self.main = main

    def forward(self, x: Tensor) -> Tensor:
        return x + self.main(x)


class Down(nn.Module):
    """``main(x)``: a block that has no residual because it halves the image, under the same name as `Residual`."""

    def __init__(self, main: nn.Module):
        super().__init__()
        self.main = main

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)


class DSConv(nn.Module):
    """Depthwise and pointwise convolution: ``[B, dim, H, W] -> [B, dim, H, W]``."""

    def __init__(self, dim: int, activation: Activation):
        super().__init__()
        self.depth_conv = ConvLayer(dim, dim, 3, activation, groups=dim)
        self.point_conv = ConvLayer(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.point_conv(self.depth_conv(x))


class ResBlock(nn.Module):
    """Two 3x3 convolutions: ``[B, dim, H, W] -> [B, dim, H, W]``."""

    def __init__(self, dim: int, activation: Activation):
        super().__init__()
        self.conv1 = ConvLayer(dim, dim, 3, activation)
        self.conv2 = ConvLayer(dim, dim, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class MBConv(nn.Module):
    """Pointwise, depthwise and pointwise convolution: ``[B, Ci, H, W] -> [B, Co, H/stride, W/stride]``.

    With ``norms`` false, the first two have a bias in place of BatchNorm.
    """

    def __init__(
        self, dim_in: int, dim_out: int, expansion: int, activation: Activation, stride: int, norms: bool = True
    ):
        super().__init__()
        hidden = dim_in * expansion
        self.inverted_conv = ConvLayer(dim_in, hidden, 1, activation, norm=norms)
        self.depth_conv = ConvLayer(hidden, hidden, 3, activation, stride=stride, groups=hidden, norm=norms)
        self.point_conv = ConvLayer(hidden, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.point_conv(self.depth_conv(self.inverted_conv(x)))


class FusedMBConv(nn.Module):
    """3x3 and pointwise convolution: ``[B, Ci, H, W] -> [B, Co, H/stride, W/stride]``."""

    def __init__(self, dim_in: int, dim_out: int, expansion: int, activation: Activation, stride: int):
        super().__init__()
        self.spatial_conv = ConvLayer(dim_in, dim_in * expansion, 3, activation, stride=stride)
        self.point_conv = ConvLayer(dim_in * expansion, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.point_conv(self.spatial_conv(x))


class LiteMLA(nn.Module):
    """Multi-scale ReLU linear attention: ``[B, dim, H, W] -> [B, dim, H, W]``.

    Queries, keys and values come from each pixel, and once more from the 5x5 around it, for as many heads again. With
    ReLU in place of softmax, values times keys over the image come first, and no score of two pixels is computed; where
    there are no more pixels than ``head_dim``, the scores are fewer. A joint projection is [head][q|k|v][channel].
    """

    def __init__(self, dim: int, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        joint = 3 * dim
        self.qkv = ConvLayer(dim, joint, norm=False, bias=False)
        around = nn.Sequential(
            nn.Conv2d(joint, joint, 5, padding=2, groups=joint, bias=False),
            nn.Conv2d(joint, joint, 1, groups=joint // head_dim, bias=False),
        )
        self.aggreg = nn.ModuleList([around])
        self.proj = ConvLayer(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        dim, height, width = x.shape[1:]
        qkv = self.qkv(x)
        qkv = torch.cat([qkv, self.aggreg[0](qkv)], dim=1)
        qkv = qkv.reshape(-1, 2 * dim // self.head_dim, 3 * self.head_dim, height * width)
        q, k, v = (qkv[:, :, i * self.head_dim : (i + 1) * self.head_dim] for i in range(3))
        attend = self.linear if height * width > self.head_dim else self.quadratic
        return self.proj(attend(F.relu(q), F.relu(k), v).reshape(-1, 2 * dim, height, width))

    def linear(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``v (k^T q) / sum(k^T q)`` as ``(v k^T) q``, with the sum as one more value of 1; ``[B, heads, d, N]``."""
        out = F.pad(v, (0, 0, 0, 1), value=1.0) @ k.transpose(2, 3) @ q
        return out[:, :, : self.head_dim] / (out[:, :, self.head_dim :] + EPSILON)

    def quadratic(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``v (k^T q) / sum(k^T q)`` from left to right; ``[B, heads, d, N]``."""
        scores = k.transpose(2, 3) @ q
        return v @ (scores / (scores.sum(2, keepdim=True) + EPSILON))


class EfficientViTBlock(nn.Module):
    """Linear attention for the context and an inverted residual for what is near: ``[B, dim, H, W]``."""

    def __init__(self, dim: int, head_dim: int, expansion: int, activation: Activation):
        super().__init__()
        self.context_module = Residual(LiteMLA(dim, head_dim))
        self.local_module = Residual(MBConv(dim, dim, expansion, activation, 1, norms=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.local_module(self.context_module(x))


def _stem(config: BackboneConfig, activation: Activation) -> OpSequential:
    """``[B, 3, H, W] -> [B, C, H/2, W/2]``."""
    dim = config.widths[0]
    block = ResBlock if config.large else DSConv
    blocks = [Residual(block(dim, activation)) for _ in range(config.depths[0])]
    return OpSequential(ConvLayer(3, dim, 3, activation, stride=2), *blocks)


def _stage(config: BackboneConfig, stage: int, activation: Activation) -> OpSequential:
    """A block that halves the image, then residual ones: ``[B, Ci, H, W] -> [B, Co, H/2, W/2]``.

    In B, the first block counts where there is no attention. The last two stages have few norms.
    """
    dim_in, dim = config.widths[stage - 1 : stage + 1]
    kind, expansion, depth = config.kinds[stage], config.expansions[stage], config.depths[stage]
    norms = stage < 3
    first = expansion * 4 if config.large else expansion
    if kind == "att":
        down = Down(MBConv(dim_in, dim, first, activation, 2, norms))
        return OpSequential(
            down, *[EfficientViTBlock(dim, config.head_dim, expansion, activation) for _ in range(depth)]
        )
    if kind == "fmb":
        down = Down(FusedMBConv(dim_in, dim, first, activation, 2))
        return OpSequential(down, *[Residual(FusedMBConv(dim, dim, expansion, activation, 1)) for _ in range(depth)])
    down = Down(MBConv(dim_in, dim, first, activation, 2, norms))
    count = depth if config.large else depth - 1
    return OpSequential(down, *[Residual(MBConv(dim, dim, expansion, activation, 1, norms)) for _ in range(count)])


class Backbone(nn.Module):
    """Stem and four stages: ``[B, 3, H, W] ->`` the outputs of the last three, at 1/8, 1/16 and 1/32."""

    def __init__(self, config: BackboneConfig, activation: Activation):
        super().__init__()
        stages = [_stage(config, stage, activation) for stage in range(1, 5)]
        if config.large:
            stages.insert(0, _stem(config, activation))
        else:
            self.input_stem = _stem(config, activation)
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        if hasattr(self, "input_stem"):
            x = self.input_stem(x)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs[-3:]


class LinearLayer(nn.Module):
    """Linear layer without bias, LayerNorm and an activation; or a linear layer with bias alone: ``[B, dim]``."""

    def __init__(self, dim_in: int, dim_out: int, activation: Activation | None = None):
        super().__init__()
        self.linear = nn.Linear(dim_in, dim_out, bias=activation is None)
        self.norm = nn.LayerNorm(dim_out) if activation is not None else nn.Identity()
        self.act = activation() if activation is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.linear(x)))


class GlobalAverage(nn.Module):
    """``[B, C, H, W] -> [B, C]``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class EfficientViT(nn.Module):
    """Backbone, pointwise convolution, global average, two linear layers: ``[B, 3, H, W] -> [B, classes]``.

    H and W may be any; the stem and each stage halve them, rounded up.
    """

    def __init__(self, name: str, num_classes: int, activation: Activation):
        super().__init__()
        config, (first, second) = BACKBONES[name], CLASSIFIERS[name]
        self.backbone = Backbone(config, activation)
        self.head = OpSequential(
            ConvLayer(config.widths[-1], first, 1, activation),
            GlobalAverage(),
            LinearLayer(first, second, activation),
            LinearLayer(second, num_classes),
        )
        _set_norm_eps(self, config.eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x)[-1])


class Upsample(nn.Module):
    """Bicubic enlargement by a whole number: ``[B, C, H, W] -> [B, C, factor H, factor W]``.

    Each axis is multiplied by a constant matrix: few runtimes know bicubic interpolation, and all know a product.
    Images are tokens for it, [B, CH, W]: XNNPACK in PyTorch 1.13 takes the wrong axis of four in channels-last order.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, factor: int, size: Size):
        super().__init__()
        self.factor = factor
        for name, side in zip(("rows", "columns"), size):
            self.register_buffer(name, torch.tensor(bicubic_matrix(side, factor)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.enlarge(self.enlarge(x, self.columns).transpose(2, 3), self.rows).transpose(2, 3)

    def enlarge(self, x: Tensor, matrix: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, C, H, factor W]``; an image of another size than expected has a matrix of its own."""
        if matrix.shape[1] != x.shape[3]:
            matrix = matrix.new_tensor(bicubic_matrix(x.shape[3], self.factor))
        return F.linear(x.flatten(1, 2), matrix).unflatten(1, x.shape[1:3])


@functools.cache
def bicubic_matrix(side: int, factor: int) -> tuple[tuple[float, ...], ...]:
    """``[factor side, side]``: what each pixel of an axis gives to those of the enlarged one, whose edges go on."""
    matrix = []
    for i in range(side * factor):
        position = (i + 0.5) / factor - 0.5
        row = [0.0] * side
        for pixel in range(math.floor(position) - 1, math.floor(position) + 3):
            row[min(max(pixel, 0), side - 1)] += cubic(position - pixel)
        matrix.append(tuple(row))
    return tuple(matrix)


def cubic(distance: float) -> float:
    """The weight of a pixel at this distance in bicubic interpolation, whose parameter is -0.75 in PyTorch."""
    x, a = abs(distance), -0.75
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return ((x - 5) * x + 8) * a * x - 4 * a if x < 2 else 0.0


class SegmentationHead(nn.Module):
    """The last three stages at the size of the largest, summed, residual blocks and a classifier of each pixel.

    ``[B, C2, H/8, W/8], [B, C3, H/16, W/16], [B, C4, H/32, W/32] -> [B, classes, H/8, W/8]``.
    """

    def __init__(
        self,
        config: SegmentationConfig,
        widths: tuple[int, ...],
        num_classes: int,
        activation: Activation,
        input_size: Size,
    ):
        super().__init__()
        (height, width), dim, expansion = input_size, config.width, config.expansion
        self.input_ops = nn.ModuleList(
            [
                OpSequential(ConvLayer(widths[4], dim), Upsample(4, (height // 32, width // 32))),
                OpSequential(ConvLayer(widths[3], dim), Upsample(2, (height // 16, width // 16))),
                ConvLayer(widths[2], dim),
            ]
        )
        block = FusedMBConv if config.kind == "fmb" else MBConv
        self.middle = OpSequential(*[Residual(block(dim, dim, expansion, activation, 1)) for _ in range(config.depth)])
        last: list[nn.Module] = []
        if config.final_expansion is not None:
            last.append(ConvLayer(dim, dim * config.final_expansion, 1, activation))
        last.append(ConvLayer(dim * (config.final_expansion or 1), num_classes, norm=False))
        self.output_ops = nn.ModuleList([OpSequential(*last)])

    def forward(self, stages: list[Tensor]) -> Tensor:
        fourth, third, second = (op(x) for op, x in zip(self.input_ops, reversed(stages)))
        return self.output_ops[0](self.middle(fourth + third + second))


class EfficientViTSeg(nn.Module):
    """Backbone and segmentation head: ``[B, 3, H, W] -> [B, classes, H/8, W/8]``; H and W are multiples of 32.

    The authors' evaluation enlarges the result to the labels' size; that is not part of the model.
    """

    def __init__(self, config: SegmentationConfig, num_classes: int, activation: Activation, input_size: Size):
        super().__init__()
        backbone = BACKBONES[config.backbone]
        self.backbone = Backbone(backbone, activation)
        self.head = SegmentationHead(config, backbone.widths, num_classes, activation, input_size)
        _set_norm_eps(self, backbone.eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


def _set_norm_eps(model: nn.Module, eps: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            module.eps = eps


def _classifier(name: str, num_classes: int, activation: str) -> EfficientViT:
    return EfficientViT(name, num_classes, ACTIVATIONS[activation])


def _segmenter(name: str, num_classes: int, activation: str, input_size: Size) -> EfficientViTSeg:
    return EfficientViTSeg(SEGMENTATIONS[name], num_classes, ACTIVATIONS[activation], input_size)


PAPER = "https://arxiv.org/abs/2205.14756"


def _orin(ms: float, task: str) -> Latency:
    source = f"https://github.com/mit-han-lab/efficientvit, applications/efficientvit_{task}/README.md"
    return Latency(ms, "Jetson AGX Orin", "TensorRT fp16", source)


ENLARGED = "the enlargements are matrix products here, and counted"


def _cityscapes(miou: float, macs: float, ms: float, macs_note: str | None = None) -> Callable[..., Callable]:
    quality = f"mIoU {miou} on Cityscapes"
    published = Published(PAPER, macs=macs, quality=quality, latency=_orin(ms, "seg"), macs_note=macs_note)
    return register(published=published, input_size=CITYSCAPES, size_multiple=32, preprocessing=_whole(CITYSCAPES))


def _ade20k(miou: float, macs: float, ms: float, macs_note: str | None = None) -> Callable[..., Callable]:
    quality = f"mIoU {miou} on ADE20K"
    published = Published(PAPER, macs=macs, quality=quality, latency=_orin(ms, "seg"), macs_note=macs_note)
    return register(published=published, input_size=ADE20K, size_multiple=32, preprocessing=_whole(ADE20K))


def _whole(size: Size) -> Preprocessing:
    """Nothing is cut off from images of this shape, which are what the authors give."""
    return Preprocessing(resize=size[0], crop=size)


@register(gain=1.4, published=Published(PAPER))
def efficientvit_b0(num_classes: int = 1000, activation: str = "hardswish") -> EfficientViT:
    """EfficientViT-B0 (MIT), 3.4 M parameters."""
    return _classifier("b0", num_classes, activation)


@register(gain=1.4, published=Published(PAPER, top1=79.39, macs=0.52e9, latency=_orin(1.48, "cls")))
def efficientvit_b1(num_classes: int = 1000, activation: str = "hardswish") -> EfficientViT:
    """EfficientViT-B1 (MIT), 9.1 M parameters."""
    return _classifier("b1", num_classes, activation)


@register(gain=1.4, published=Published(PAPER, top1=82.1, macs=1.6e9, latency=_orin(2.63, "cls")))
def efficientvit_b2(num_classes: int = 1000, activation: str = "hardswish") -> EfficientViT:
    """EfficientViT-B2 (MIT), 24.3 M parameters."""
    return _classifier("b2", num_classes, activation)


@register(gain=1.4, published=Published(PAPER, top1=83.468, macs=4.0e9, macs_note=ROUNDED, latency=_orin(4.36, "cls")))
def efficientvit_b3(num_classes: int = 1000, activation: str = "hardswish") -> EfficientViT:
    """EfficientViT-B3 (MIT), 48.6 M parameters."""
    return _classifier("b3", num_classes, activation)


@register(published=Published(PAPER, top1=84.484, macs=5.3e9))
def efficientvit_l1(num_classes: int = 1000, activation: str = "gelu_tanh") -> EfficientViT:
    """EfficientViT-L1 (MIT), 52.7 M parameters."""
    return _classifier("l1", num_classes, activation)


@register(published=Published(PAPER, top1=85.05, macs=6.9e9))
def efficientvit_l2(num_classes: int = 1000, activation: str = "gelu_tanh") -> EfficientViT:
    """EfficientViT-L2 (MIT), 63.7 M parameters."""
    return _classifier("l2", num_classes, activation)


@register(published=Published(PAPER, top1=85.814, macs=28e9, macs_note=ROUNDED))
def efficientvit_l3(num_classes: int = 1000, activation: str = "gelu_tanh") -> EfficientViT:
    """EfficientViT-L3 (MIT), 246.0 M parameters."""
    return _classifier("l3", num_classes, activation)


@_cityscapes(75.653, 4.4e9, 9.9, ENLARGED)
def efficientvit_seg_b0_cityscapes(
    num_classes: int = 19, activation: str = "hardswish", input_size: Size = CITYSCAPES
) -> EfficientViTSeg:
    """EfficientViT-Seg-B0 (MIT) for Cityscapes, 0.7 M parameters."""
    return _segmenter("efficientvit_seg_b0_cityscapes", num_classes, activation, input_size)


@_cityscapes(80.547, 25e9, 24.3, ENLARGED)
def efficientvit_seg_b1_cityscapes(
    num_classes: int = 19, activation: str = "hardswish", input_size: Size = CITYSCAPES
) -> EfficientViTSeg:
    """EfficientViT-Seg-B1 (MIT) for Cityscapes, 4.8 M parameters."""
    return _segmenter("efficientvit_seg_b1_cityscapes", num_classes, activation, input_size)


@_cityscapes(82.073, 74e9, 46.5)
def efficientvit_seg_b2_cityscapes(
    num_classes: int = 19, activation: str = "hardswish", input_size: Size = CITYSCAPES
) -> EfficientViTSeg:
    """EfficientViT-Seg-B2 (MIT) for Cityscapes, 15 M parameters."""
    return _segmenter("efficientvit_seg_b2_cityscapes", num_classes, activation, input_size)


@_cityscapes(83.016, 179e9, 81.8)
def efficientvit_seg_b3_cityscapes(
    num_classes: int = 19, activation: str = "hardswish", input_size: Size = CITYSCAPES
) -> EfficientViTSeg:
    """EfficientViT-Seg-B3 (MIT) for Cityscapes, 40 M parameters."""
    return _segmenter("efficientvit_seg_b3_cityscapes", num_classes, activation, input_size)


@_cityscapes(82.716, 282e9, 45.9)
def efficientvit_seg_l1_cityscapes(
    num_classes: int = 19, activation: str = "gelu_tanh", input_size: Size = CITYSCAPES
) -> EfficientViTSeg:
    """EfficientViT-Seg-L1 (MIT) for Cityscapes, 40 M parameters."""
    return _segmenter("efficientvit_seg_l1_cityscapes", num_classes, activation, input_size)


@_cityscapes(83.228, 396e9, 60.0)
def efficientvit_seg_l2_cityscapes(
    num_classes: int = 19, activation: str = "gelu_tanh", input_size: Size = CITYSCAPES
) -> EfficientViTSeg:
    """EfficientViT-Seg-L2 (MIT) for Cityscapes, 53 M parameters."""
    return _segmenter("efficientvit_seg_l2_cityscapes", num_classes, activation, input_size)


@_ade20k(42.84, 3.1e9, 4.0)
def efficientvit_seg_b1_ade20k(
    num_classes: int = 150, activation: str = "hardswish", input_size: Size = ADE20K
) -> EfficientViTSeg:
    """EfficientViT-Seg-B1 (MIT) for ADE20K, 4.8 M parameters."""
    return _segmenter("efficientvit_seg_b1_ade20k", num_classes, activation, input_size)


@_ade20k(45.941, 9.1e9, 7.3)
def efficientvit_seg_b2_ade20k(
    num_classes: int = 150, activation: str = "hardswish", input_size: Size = ADE20K
) -> EfficientViTSeg:
    """EfficientViT-Seg-B2 (MIT) for ADE20K, 15 M parameters."""
    return _segmenter("efficientvit_seg_b2_ade20k", num_classes, activation, input_size)


@_ade20k(49.013, 22e9, 12.5)
def efficientvit_seg_b3_ade20k(
    num_classes: int = 150, activation: str = "hardswish", input_size: Size = ADE20K
) -> EfficientViTSeg:
    """EfficientViT-Seg-B3 (MIT) for ADE20K, 39 M parameters."""
    return _segmenter("efficientvit_seg_b3_ade20k", num_classes, activation, input_size)


@_ade20k(49.191, 36e9, 7.2, ROUNDED)
def efficientvit_seg_l1_ade20k(
    num_classes: int = 150, activation: str = "gelu_tanh", input_size: Size = ADE20K
) -> EfficientViTSeg:
    """EfficientViT-Seg-L1 (MIT) for ADE20K, 40 M parameters."""
    return _segmenter("efficientvit_seg_l1_ade20k", num_classes, activation, input_size)


@_ade20k(50.702, 45e9, 9.0)
def efficientvit_seg_l2_ade20k(
    num_classes: int = 150, activation: str = "gelu_tanh", input_size: Size = ADE20K
) -> EfficientViTSeg:
    """EfficientViT-Seg-L2 (MIT) for ADE20K, 51 M parameters."""
    return _segmenter("efficientvit_seg_l2_ade20k", num_classes, activation, input_size)
