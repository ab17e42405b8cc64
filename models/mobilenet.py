"""MobileNetV2 and V3: the convolutional networks that transformers for phones compete with.

Sources: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018
(https://arxiv.org/abs/1801.04381), and Howard et al., "Searching for MobileNetV3", ICCV 2019
(https://arxiv.org/abs/1905.02244). Module names follow torchvision's checkpoints, so that they load as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from deploy_kit.models.layers import ACTIVATIONS
from deploy_kit.models.registry import Latency, Published, register
from deploy_kit.preprocessing import Preprocessing

Activation = Callable[[], nn.Module]

V2_EPS, V3_EPS = 1e-5, 1e-3

V2_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Table 2 of the paper: expansion, channels, blocks, stride of the first block."""

V2_WIDTHS = {"mobilenet_v2": 1.0, "mobilenet_v2_140": 1.4}


@dataclass(frozen=True)
class Bottleneck:
    """One row of V3's tables 1 and 2: kernel, channels inside and out, squeeze-and-excite, hard-swish, stride."""

    kernel: int
    hidden: int
    dim: int
    excite: bool
    swish: bool
    stride: int


@dataclass(frozen=True)
class MobileNetV3Config:
    """One size: its bottlenecks, and the channels of the two layers before the classifier."""

    bottlenecks: tuple[Bottleneck, ...]
    last_dim: int
    hidden: int


CONFIGS = {
    "mobilenet_v3_large": MobileNetV3Config(
        (
            Bottleneck(3, 16, 16, False, False, 1),
            Bottleneck(3, 64, 24, False, False, 2),
            Bottleneck(3, 72, 24, False, False, 1),
            Bottleneck(5, 72, 40, True, False, 2),
            Bottleneck(5, 120, 40, True, False, 1),
            Bottleneck(5, 120, 40, True, False, 1),
            Bottleneck(3, 240, 80, False, True, 2),
            Bottleneck(3, 200, 80, False, True, 1),
            Bottleneck(3, 184, 80, False, True, 1),
            Bottleneck(3, 184, 80, False, True, 1),
            Bottleneck(3, 480, 112, True, True, 1),
            Bottleneck(3, 672, 112, True, True, 1),
            Bottleneck(5, 672, 160, True, True, 2),
            Bottleneck(5, 960, 160, True, True, 1),
            Bottleneck(5, 960, 160, True, True, 1),
        ),
        last_dim=960,
        hidden=1280,
    ),
    "mobilenet_v3_small": MobileNetV3Config(
        (
            Bottleneck(3, 16, 16, True, False, 2),
            Bottleneck(3, 72, 24, False, False, 2),
            Bottleneck(3, 88, 24, False, False, 1),
            Bottleneck(5, 96, 40, True, True, 2),
            Bottleneck(5, 240, 40, True, True, 1),
            Bottleneck(5, 240, 40, True, True, 1),
            Bottleneck(5, 120, 48, True, True, 1),
            Bottleneck(5, 144, 48, True, True, 1),
            Bottleneck(5, 288, 96, True, True, 2),
            Bottleneck(5, 576, 96, True, True, 1),
            Bottleneck(5, 576, 96, True, True, 1),
        ),
        last_dim=576,
        hidden=1024,
    ),
}


def multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8 that takes no more than a tenth of ``channels`` away, at least 8."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def conv_norm(
    dim_in: int,
    dim_out: int,
    kernel: int,
    eps: float,
    activation: Activation | None,
    stride: int = 1,
    groups: int = 1,
) -> nn.Sequential:
    """Convolution without bias, BatchNorm and an activation, where there is one: ``[B, Ci, H, W]``."""
    conv = nn.Conv2d(dim_in, dim_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    layers = [conv, nn.BatchNorm2d(dim_out, eps=eps)]
    return nn.Sequential(*layers) if activation is None else nn.Sequential(*layers, activation())


class InvertedResidual(nn.Module):
    """V2's block: widen, depthwise convolution, narrow; a residual where the shape stays: ``[B, Ci, H, W]``."""

    def __init__(self, dim_in: int, dim_out: int, stride: int, expansion: int, activation: Activation):
        super().__init__()
        hidden = dim_in * expansion
        self.residual = stride == 1 and dim_in == dim_out
        self.conv = nn.Sequential()
        if expansion > 1:
            self.conv.append(conv_norm(dim_in, hidden, 1, V2_EPS, activation))
        self.conv.append(conv_norm(hidden, hidden, 3, V2_EPS, activation, stride, groups=hidden))
        self.conv.extend(conv_norm(hidden, dim_out, 1, V2_EPS, None))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Stem, seven stages of inverted residuals, average, classifier: ``[B, 3, H, W] -> [B, classes]``.

    H and W may be any; the stem and four of the stages halve them, rounded up.
    """

    def __init__(self, width: float, num_classes: int, activation: Activation):
        super().__init__()
        dim_in, last = multiple_of_8(32 * width), multiple_of_8(1280 * max(1.0, width))
        self.features = nn.Sequential(conv_norm(3, dim_in, 3, V2_EPS, activation, stride=2))
        for expansion, channels, depth, stride in V2_STAGES:
            dim = multiple_of_8(channels * width)
            for block in range(depth):
                step = stride if block == 0 else 1
                self.features.append(InvertedResidual(dim_in, dim, step, expansion, activation))
                dim_in = dim
        self.features.append(conv_norm(dim_in, last, 1, V2_EPS, activation))
        self.classifier = nn.Sequential()
        self.classifier.add_module("1", nn.Linear(last, num_classes))  # 0 is a dropout in official checkpoints

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))

    def from_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state with timm's names, which are of stages and of what a layer does, under these."""
        if "conv_stem.weight" not in state:
            return state
        first_blocks = [1 + sum(stage[2] for stage in V2_STAGES[:i]) for i in range(len(V2_STAGES))]
        return {_from_timm(key, first_blocks): value for key, value in state.items()}


_TIMM_OUTER = {
    "conv_stem": "features.0.0",
    "bn1": "features.0.1",
    "conv_head": "features.18.0",
    "bn2": "features.18.1",
    "classifier": "classifier.1",
}
_TIMM_FIRST_BLOCK = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"}
_TIMM_BLOCK = {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1", "conv_pwl": "2", "bn3": "3"}


def _from_timm(key: str, first_blocks: Sequence[int]) -> str:
    module, _, leaf = key.rpartition(".")
    in_block = re.fullmatch(r"blocks\.([0-6])\.(\d)\.(\w+)", module)
    if in_block is None:
        return f"{_TIMM_OUTER.get(module, module)}.{leaf}"
    names = _TIMM_FIRST_BLOCK if in_block[1] == "0" else _TIMM_BLOCK
    block = first_blocks[int(in_block[1])] + int(in_block[2])
    return f"features.{block}.conv.{names.get(in_block[3], in_block[3])}.{leaf}"


class SqueezeExcite(nn.Module):
    """Scale each channel by a function of all channels' averages: ``[B, dim, H, W]`` in and out."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.activation = nn.ReLU()
        self.fc2 = nn.Conv2d(hidden, dim, 1)
        self.scale_activation = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale_activation(self.fc2(self.activation(self.fc1(x.mean((2, 3), keepdim=True)))))


class ExcitedResidual(nn.Module):
    """V3's block: an inverted residual that may scale the channels inside: ``[B, Ci, H, W]``."""

    def __init__(self, dim_in: int, row: Bottleneck, activation: Activation):
        super().__init__()
        inner = activation if row.swish else nn.ReLU
        self.residual = row.stride == 1 and dim_in == row.dim
        self.block = nn.Sequential()
        if row.hidden != dim_in:
            self.block.append(conv_norm(dim_in, row.hidden, 1, V3_EPS, inner))
        self.block.append(conv_norm(row.hidden, row.hidden, row.kernel, V3_EPS, inner, row.stride, row.hidden))
        if row.excite:
            self.block.append(SqueezeExcite(row.hidden, multiple_of_8(row.hidden // 4)))
        self.block.append(conv_norm(row.hidden, row.dim, 1, V3_EPS, None))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.residual else self.block(x)


class MobileNetV3(nn.Module):
    """Stem, bottlenecks, pointwise convolution, average, two linear layers: ``[B, 3, H, W] -> [B, classes]``.

    H and W may be any. ``activation`` stands where the authors have hard-swish; their ReLUs stay.
    """

    def __init__(self, config: MobileNetV3Config, num_classes: int, activation: Activation):
        super().__init__()
        dim = config.bottlenecks[0].dim
        self.features = nn.Sequential(conv_norm(3, dim, 3, V3_EPS, activation, stride=2))
        for row in config.bottlenecks:
            self.features.append(ExcitedResidual(dim, row, activation))
            dim = row.dim
        self.features.append(conv_norm(dim, config.last_dim, 1, V3_EPS, activation))
        self.classifier = nn.Sequential(nn.Linear(config.last_dim, config.hidden), activation())
        self.classifier.add_module("3", nn.Linear(config.hidden, num_classes))  # 2 is a dropout there

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


V2 = "https://arxiv.org/abs/1801.04381"
V3 = "https://arxiv.org/abs/1905.02244"
EFFICIENTFORMER = "https://arxiv.org/abs/2206.01191"
IMAGES = Preprocessing(resize=256, crop=(224, 224), interpolation="bilinear")


@register(
    timm="mobilenetv2_100.ra_in1k", preprocessing=IMAGES, gain=1.4, published=Published(V2, top1=72.0, macs=300e6)
)
def mobilenet_v2(num_classes: int = 1000, activation: str = "relu6") -> MobileNetV2:
    """MobileNetV2, 3.5 M parameters."""
    return MobileNetV2(V2_WIDTHS["mobilenet_v2"], num_classes, ACTIVATIONS[activation])


@register(
    timm="mobilenetv2_140.ra_in1k",
    preprocessing=IMAGES,
    gain=1.4,
    published=Published(
        V2, top1=74.7, macs=585e6, latency=Latency(1.6, "iPhone 12", "CoreML", f"{EFFICIENTFORMER}, abstract")
    ),
)
def mobilenet_v2_140(num_classes: int = 1000, activation: str = "relu6") -> MobileNetV2:
    """MobileNetV2 with 1.4 times the channels, 6.1 M parameters."""
    return MobileNetV2(V2_WIDTHS["mobilenet_v2_140"], num_classes, ACTIVATIONS[activation])


@register(
    preprocessing=IMAGES,
    gain=1.4,
    published=Published(V3, top1=75.2, macs=219e6, macs_note="torchvision, whose layers these are, says 217 M"),
)
def mobilenet_v3_large(num_classes: int = 1000, activation: str = "hardswish") -> MobileNetV3:
    """MobileNetV3-Large, 5.5 M parameters."""
    return MobileNetV3(CONFIGS["mobilenet_v3_large"], num_classes, ACTIVATIONS[activation])


@register(preprocessing=IMAGES, gain=1.4, published=Published(V3, top1=67.4, macs=56e6))
def mobilenet_v3_small(num_classes: int = 1000, activation: str = "hardswish") -> MobileNetV3:
    """MobileNetV3-Small, 2.5 M parameters."""
    return MobileNetV3(CONFIGS["mobilenet_v3_small"], num_classes, ACTIVATIONS[activation])
