"""SparseViT: a Swin Transformer that computes only the windows that are most active.

Source: Chen et al., "SparseViT: Revisiting Activation Sparsity for Efficient High-Resolution Vision Transformer",
CVPR 2023 (https://arxiv.org/abs/2303.17605), as published in code (https://github.com/mit-han-lab/sparsevit), where
it is the backbone of a detector. Module names follow the official checkpoints. How many windows a block keeps is
a number of the graph, given by pruning ratios and image size; which ones, it computes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy_kit.errors import UserError
from deploy_kit.models.layers import ACTIVATIONS
from deploy_kit.models.registry import Latency, Published, register
from deploy_kit.models.swin import (
    HEAD_DIM,
    MLP_RATIO,
    PATCH,
    REDUCTION,
    WINDOW,
    Activation,
    PatchMerging,
    Size,
    WindowAttention,
    convert_biases,
    cut,
    join,
    roll,
    shift_mask,
)

Ratios = tuple[tuple[float, ...], ...]
"""The share of windows that each block of each stage leaves out."""


@dataclass(frozen=True)
class SparseViTConfig:
    """The dense backbone: channels of the first stage, which double from stage to stage, and blocks of each."""

    dim: int
    depths: tuple[int, int, int, int]


CONFIGS = {"sparsevit_tiny": SparseViTConfig(96, (2, 2, 6, 2))}

RATIOS: Ratios = ((0.3, 0.3), (0.0, 0.0), (0.1, 0.1, 0.2, 0.2, 0.2, 0.2), (0.0, 0.0))
"""Those of the authors' first model, which they found by search."""


class Ranking:
    """The windows of each image from the most active to the least.

    They are sorted and sorted back, and never written into others, which fewer runtimes can do. Windows are counted
    through all images, so that each is one row to copy.
    """

    def __init__(self, activity: Tensor):
        """``activity`` is ``[B, windows]``."""
        windows = activity.shape[1]
        order = activity.topk(windows, 1).indices
        inverse = order.to(activity.dtype).topk(windows, 1, largest=False).indices
        before = (torch.arange(activity.shape[0], device=activity.device) * windows)[:, None]
        self.windows = windows
        self.order = order
        self.rows, self.places = (order + before).flatten(), (inverse + before).flatten()

    def first(self, count: int) -> Tensor:
        """The numbers of the ``count`` most active windows within their image: ``[B * count]``."""
        return self.order[:, :count].flatten()

    def sort(self, windows: Tensor) -> Tensor:
        """``[B * windows, tokens, dim] -> [B, windows, tokens * dim]``, the most active first."""
        rows = windows.flatten(1).index_select(0, self.rows)
        return rows.reshape(-1, self.windows, rows.shape[1])

    def restore(self, ranked: Tensor) -> Tensor:
        """The inverse of `sort`, of a shape ``[B * windows, tokens * dim]``."""
        return ranked.flatten(0, 1).index_select(0, self.places)


class SparseAttention(WindowAttention):
    """Window attention in some windows: ``[B * kept, tokens, dim]`` in and out.

    ``kept`` are their numbers within their image, since each window of an image has a mask of its own.
    """

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=2))
        scores = (q * self.scale) @ k.transpose(2, 3)
        weights = (self.add_bias(scores) if kept is None else scores + self.bias_of(kept)).softmax(3)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))

    def bias_of(self, kept: Tensor) -> Tensor:
        """Bias and mask of some windows: ``[heads, tokens, tokens]`` without masks, ``[B * kept, ...]`` with them."""
        return self.bias() if self.mask is None else self.bias().index_select(0, kept)


class SparseBlock(nn.Module):
    """Attention and an MLP in the ``keep`` windows that rank highest: ``[B, H, W, dim]`` in and out.

    The others pass through. H and W are ``resolution``; zeros fill up the last windows of each axis.
    """

    def __init__(self, dim: int, resolution: Size, shift: int, ratio: float, activation: Activation):
        super().__init__()
        self.shift = shift
        self.resolution = resolution
        self.padding = (0, 0, 0, -resolution[1] % WINDOW, 0, -resolution[0] % WINDOW)
        self.padded = (resolution[0] + self.padding[5], resolution[1] + self.padding[3])
        self.windows = self.padded[0] * self.padded[1] // WINDOW**2
        self.keep = int(self.windows * (1 - ratio))
        mask = shift_mask(self.padded, WINDOW, shift) if shift else None
        self.norm1 = nn.LayerNorm(dim)
        self.attn = nn.ModuleDict({"w_msa": SparseAttention(dim, dim // HEAD_DIM, WINDOW, mask)})
        self.norm2 = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, activation)

    def forward(self, x: Tensor, ranking: Ranking | None = None) -> Tensor:
        windows = self.cut(x)
        if ranking is None:
            return self.join(self.compute(windows))
        ranked = ranking.sort(windows)
        chosen = ranked[:, : self.keep].reshape(-1, *windows.shape[1:])
        computed = self.compute(chosen, ranking.first(self.keep)).reshape(-1, self.keep, ranked.shape[2])
        return self.join(ranking.restore(torch.cat((computed, ranked[:, self.keep :]), 1)).reshape(windows.shape))

    def compute(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        """What the block does to windows: ``[windows, tokens, dim]`` in and out."""
        x = x + self.attn["w_msa"](self.norm1(x), kept)
        return x + self.ffn(self.norm2(x))

    def cut(self, x: Tensor) -> Tensor:
        """An image's windows, shifted where the block's are: ``[B, H, W, C] -> [B * windows, tokens, C]``."""
        if any(self.padding):
            x = F.pad(x, self.padding)
        return cut(roll(x, -self.shift) if self.shift else x, WINDOW)

    def join(self, windows: Tensor) -> Tensor:
        """The inverse of `cut`."""
        x = join(windows, self.padded, WINDOW)
        x = roll(x, self.shift) if self.shift else x
        return x[:, : self.resolution[0], : self.resolution[1]] if any(self.padding) else x

    def rank(self, activity: Tensor) -> Ranking:
        """The windows by the norm of what they have of ``activity``, ``[B, H, W, 1]``."""
        return Ranking(self.cut(activity).square().sum((1, 2)).reshape(-1, self.windows))


class FeedForward(nn.Module):
    """Two linear layers with an activation between: ``[..., dim] -> [..., dim]``; the names are MMDetection's."""

    def __init__(self, dim: int, activation: Activation):
        super().__init__()
        widen = nn.Sequential(nn.Linear(dim, MLP_RATIO * dim), activation())
        self.layers = nn.Sequential(widen, nn.Linear(MLP_RATIO * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class UnfoldMerging(PatchMerging):
    """`PatchMerging` whose checkpoints order the joint channels by channel, row and column."""

    def rows_first(self, parameter: Tensor) -> Tensor:
        return parameter.unflatten(-1, (self.dim, 4)).transpose(-2, -1).flatten(-2)


class SparseStage(nn.Module):
    """Blocks, every second one shifted; the feature map that they end with, and that of the next stage.

    ``[B, H, W, dim] -> [B, H, W, dim], [B, H/2, W/2, 2 * dim]``; of the last stage both are the same. Windows are
    ranked by what enters the first block that leaves any out: once as they are, and once shifted.
    """

    def __init__(self, dim: int, resolution: Size, ratios: tuple[float, ...], last: bool, activation: Activation):
        super().__init__()
        shifts = [WINDOW // 2 if block % 2 else 0 for block in range(len(ratios))]
        self.blocks = nn.ModuleList(
            SparseBlock(dim, resolution, shift, ratio, activation) for shift, ratio in zip(shifts, ratios)
        )
        if not last:
            self.downsample = UnfoldMerging(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        activity: Tensor | None = None
        rankings: dict[int, Ranking] = {}
        for block in self.blocks:
            assert isinstance(block, SparseBlock)
            if block.keep == block.windows:
                x = block(x)
                continue
            if activity is None:
                activity = x.abs().mean(3, keepdim=True)
            if block.shift not in rankings:
                rankings[block.shift] = block.rank(activity)
            if block.keep > 0:
                x = block(x, rankings[block.shift])
        return x, self.downsample(x) if hasattr(self, "downsample") else x


class PatchEmbed(nn.Module):
    """Non-overlapping convolution, then LayerNorm over channels: ``[B, 3, H, W] -> [B, H/4, W/4, dim]``."""

    def __init__(self, dim: int):
        super().__init__()
        self.projection = nn.Conv2d(3, dim, PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.projection(x).permute(0, 2, 3, 1))


class SparseViT(nn.Module):
    """The feature maps of four stages, each with LayerNorm: ``[B, 3, H, W] -> 4 x [B, dim, H/4 .. H/32, ...]``.

    H and W are ``input_size``, multiples of 32.
    """

    def __init__(self, config: SparseViTConfig, input_size: Size, ratios: Ratios, activation: Activation):
        super().__init__()
        check_ratios(ratios, config.depths)
        self.patch_embed = PatchEmbed(config.dim)
        self.stages = nn.ModuleList()
        for stage, kept in enumerate(ratios):
            resolution = (input_size[0] // PATCH >> stage, input_size[1] // PATCH >> stage)
            dim = config.dim << stage
            self.stages.append(SparseStage(dim, resolution, kept, stage == 3, activation))
            self.add_module(f"norm{stage}", nn.LayerNorm(dim))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.patch_embed(x)
        maps = []
        for number, stage in enumerate(self.stages):
            features, x = stage(x)
            maps.append(self.get_submodule(f"norm{number}")(features).permute(0, 3, 1, 2))
        return tuple(maps)

    def from_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state in the authors' layout, alone or within a detector's, without its index tables."""
        if any(key.startswith("backbone.") for key in state):
            state = {re.sub("^backbone.", "", key): v for key, v in state.items() if key.startswith("backbone.")}
        return convert_biases(self, state, "attn_mask")


def check_ratios(ratios: Ratios, depths: tuple[int, ...]) -> None:
    """Raise `UserError` unless there is a ratio from 0 to below 1 for each block."""
    if tuple(len(stage) for stage in ratios) != depths:
        raise UserError(
            f"pruning ratios for {[len(stage) for stage in ratios]} blocks do not fit stages of {list(depths)} blocks",
            fix="give one ratio for each block of each stage",
        )
    if any(not 0 <= ratio < 1 for stage in ratios for ratio in stage):
        raise UserError("a pruning ratio is the share of windows left out", fix="choose from 0 to below 1")


PAPER = "https://arxiv.org/abs/2303.17605"
CODE = "https://github.com/mit-han-lab/sparsevit"


@register(
    input_size=(672, 672),
    size_multiple=REDUCTION,
    published=Published(
        PAPER,
        quality="box mAP 42.4, mask mAP 38.5 on COCO with Mask R-CNN",
        latency=Latency(41.3, "RTX A6000, batch of 4", "PyTorch", CODE),
    ),
)
def sparsevit_tiny(
    activation: str = "gelu", input_size: Size = (672, 672), pruning_ratios: Ratios = RATIOS
) -> SparseViT:
    """SparseViT on Swin-T, a backbone with four feature maps, 27.5 M parameters."""
    return SparseViT(CONFIGS["sparsevit_tiny"], input_size, pruning_ratios, ACTIVATIONS[activation])
