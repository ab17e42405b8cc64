"""FlatFormer: attention among groups of equally many pillars of a point cloud, at shapes that never change.

Source: Liu et al., "FlatFormer: Flattened Window Attention for Efficient Point Cloud Transformer", CVPR 2023
(https://arxiv.org/abs/2301.08739), as published in code (https://github.com/mit-han-lab/flatformer). Module
names follow the official checkpoints of its encoder, so that they load as they are. Making pillars of points, and
a bird's-eye view of the encoded pillars, stay outside.

A cloud has as many pillars as it has, and a graph has one shape. `group_pillars` bridges them on the host: it
pads the pillars to a capacity, sorts them by windows in the four orders of a block, and says as index tensors
which pillar stands where. The graph only gathers, attends within groups, and gathers again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy_kit.errors import UserError
from deploy_kit.models.layers import ACTIVATIONS
from deploy_kit.models.registry import Published, register


@dataclass(frozen=True)
class FlatFormerConfig:
    """The encoder, and the grid of pillars that its windows divide; lengths in pillars."""

    dim: int = 128
    heads: int = 8
    blocks: int = 2
    mlp_ratio: int = 2
    group: int = 144
    window: int = 13
    grid: int = 468
    temperature: float = 10000.0


CONFIG = FlatFormerConfig()

ORDERS = ((0, False), (CONFIG.window // 2, False), (0, True), (CONFIG.window // 2, True))
"""How the four layers of a block sort: by how much windows are shifted, and whether y comes before x."""


def group_pillars(features: Tensor, coordinates: Tensor, capacity: int) -> tuple[Tensor, ...]:
    """Everything that the graph takes for one point cloud; the host's part of FlatFormer.

    Args:
        features: of N pillars, float [N, 128]; N is at most ``capacity``, and may be 0.
        coordinates: where the pillars are, integers [N, 4]: batch (one cloud, so one number), z, y, x. No two pillars
            share a place.
        capacity: the most pillars that the graph has room for, a multiple of 144.

    Returns:
        ``features`` and ``positions`` [capacity, 128], and six int64 index tensors [capacity]: from the pillars to the
        first order, from each of the four orders to the next (from the last to the first), and from the last to the
        pillars. The first N rows of the graph's output are the encoded pillars; the rest mean nothing.

    The last group is filled with pillars of the group before it, as the authors do, or where there is none by going
    round the pillars that there are; groups after it repeat these.

    Raises:
        UserError: more pillars than the capacity, or places outside of the grid, taken twice or in several clouds.
    """
    _check(features, coordinates, capacity)
    count = len(features)
    encoded = position_encoding(coordinates).to(features.dtype)
    padding = (0, 0, 0, capacity - count)
    if count == 0:
        nowhere = torch.zeros(capacity, dtype=torch.int64)
        return (F.pad(features, padding), F.pad(encoded, padding), *[nowhere] * 6)
    ranks = torch.arange(capacity)
    period = min(count, CONFIG.group)
    ranks[count:] = count - period + torch.arange(capacity - count) % period
    orders = [sort_pillars(coordinates, shift, transposed) for shift, transposed in ORDERS]
    places = [torch.empty_like(order).scatter_(0, order, torch.arange(count)) for order in orders]
    steps = [places[index][orders[(index + 1) % 4][ranks]] for index in range(4)]
    last = F.pad(places[-1], (0, capacity - count))
    return F.pad(features, padding), F.pad(encoded, padding), orders[0][ranks], *steps, last


def _check(features: Tensor, coordinates: Tensor, capacity: int) -> None:
    count, side = len(features), CONFIG.grid
    if features.dim() != 2 or features.shape[1] != CONFIG.dim or coordinates.shape != (count, 4):
        raise UserError(
            f"pillars of shapes {list(features.shape)} and {list(coordinates.shape)} are not what FlatFormer takes",
            fix=f"pass features [N, {CONFIG.dim}] and coordinates [N, 4]: batch, z, y, x",
        )
    if capacity <= 0 or capacity % CONFIG.group:
        raise UserError(f"a capacity of {capacity} pillars is no multiple of {CONFIG.group}")
    if count > capacity:
        raise UserError(
            f"{count} pillars do not fit into a model for {capacity}",
            fix=f"export it with --input-size {-(-count // CONFIG.group) * CONFIG.group}, or leave some out",
        )
    if count == 0:
        return
    if len(coordinates[:, 0].unique()) > 1:
        raise UserError("the pillars are of several point clouds", fix="run the model once for each")
    places = coordinates[:, 2:].long()
    if places.min() < 0 or places.max() >= side:
        raise UserError(f"some pillars are outside of the grid of {side} by {side}", fix="leave them out")
    if len((places[:, 0] * side + places[:, 1]).unique()) < count:
        raise UserError("several pillars are in one place", fix="make one pillar of all the points of a place")


def sort_pillars(coordinates: Tensor, shift: int, transposed: bool) -> Tensor:
    """The order of the pillars [N] in which windows, and pillars within windows, follow each other to and fro.

    Windows go along x, row by row of windows, each row in the other direction than the one before; so do the
    pillars of a window, and those of a row of windows that runs backwards run backwards too. ``transposed`` swaps
    x and y.
    """
    x, y = coordinates[:, 3].long() + shift, coordinates[:, 2].long() + shift
    if transposed:
        x, y = y, x
    side = CONFIG.window
    row, column, across, along = y // side, x // side, x % side, y % side
    window = row * (2 * (CONFIG.grid // side + 1)) + _forth(row) * column
    within = across * (2 * side) + _forth(across) * along
    return (window * (2 * side) ** 2 + _forth(row) * within).argsort()


def _forth(index: Tensor) -> Tensor:
    """1 where the index is even, -1 where it is odd."""
    return 1 - 2 * (index % 2)


def position_encoding(coordinates: Tensor) -> Tensor:
    """Sines and cosines of x, then of y: ``[N, 4] -> [N, dim]``, in float32 as the authors compute them."""
    half = CONFIG.dim // 2
    wavelengths = CONFIG.temperature ** (2 * torch.arange(half // 2) / half)
    angles = coordinates[:, [3, 2]].float()[:, :, None] / wavelengths
    return torch.stack([angles.sin(), angles.cos()], -1).reshape(len(coordinates), CONFIG.dim)


class MultiheadAttention(nn.Module):
    """Attention with positions in queries and keys only: ``[G, N, dim] -> [G, N, dim]``.

    Its parameters are those of ``nn.MultiheadAttention``.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * dim))
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        groups, count, dim = x.shape
        located = x + positions
        q, k, v = (
            F.linear(given, self.in_proj_weight[start : start + dim], self.in_proj_bias[start : start + dim])
            .reshape(groups, count, self.heads, dim // self.heads)
            .permute(0, 2, 1, 3)
            for given, start in ((located, 0), (located, dim), (x, 2 * dim))
        )
        weights = ((q @ k.transpose(-2, -1)) * self.scale).softmax(-1)
        return self.out_proj((weights @ v).transpose(1, 2).reshape(groups, count, dim))


class GroupAttention(nn.Module):
    """The official module around the attention, which made the groups."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.attn = MultiheadAttention(dim, heads)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        return self.attn(x, positions)


class Layer(nn.Module):
    """Attention within groups and an MLP, LayerNorm after each residual: ``[G, N, dim] -> [G, N, dim]``."""

    def __init__(self, dim: int, heads: int, hidden: int, activation: Callable[[], nn.Module]):
        super().__init__()
        self.attn = GroupAttention(dim, heads)
        self.fc1 = nn.Linear(dim, hidden)
        self.act = activation()
        self.fc2 = nn.Linear(hidden, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        x = self.norm1(x + self.attn(x, positions))
        return self.norm2(x + self.fc2(self.act(self.fc1(x))))


class Block(nn.Module):
    """Four layers, one for each order of the pillars."""

    def __init__(self, config: FlatFormerConfig, activation: Callable[[], nn.Module]):
        super().__init__()
        layer = (config.dim, config.heads, config.dim * config.mlp_ratio, activation)
        self.block = nn.ModuleList(Layer(*layer) for _ in ORDERS)


class FlatFormer(nn.Module):
    """The encoder on what `group_pillars` returns, for any capacity: ``[capacity, dim] -> [capacity, dim]``."""

    def __init__(self, config: FlatFormerConfig, activation: Callable[[], nn.Module]):
        super().__init__()
        self.shape = (-1, config.group, config.dim)
        self.block_list = nn.ModuleList(Block(config, activation) for _ in range(config.blocks))

    def forward(
        self,
        features: Tensor,
        positions: Tensor,
        to_first: Tensor,
        first_to_second: Tensor,
        second_to_third: Tensor,
        third_to_fourth: Tensor,
        fourth_to_first: Tensor,
        from_fourth: Tensor,
    ) -> Tensor:
        steps = (to_first, first_to_second, second_to_third, third_to_fourth)
        located = []
        for step in steps:
            positions = positions.index_select(0, step)
            located.append(positions.reshape(self.shape))
        x = features
        for number, block in enumerate(self.block_list):
            for index, layer in enumerate(block.get_submodule("block").children()):
                step = steps[index] if index or not number else fourth_to_first
                x = layer(x.index_select(0, step).reshape(self.shape), located[index]).reshape(features.shape)
        return x.index_select(0, from_fourth)


def draw_pillars(seed: int, size: tuple[int, ...]) -> tuple[Tensor, ...]:
    """What `group_pillars` returns for a seeded cloud of noise: full for the first of four seeds, then down to ten."""
    capacity = size[0]
    generator = torch.Generator().manual_seed(seed)
    count = min((capacity, capacity * 5 // 7, capacity // 3, 10)[seed % 4], CONFIG.grid**2)
    places = torch.randperm(CONFIG.grid**2, generator=generator)[:count]
    columns = (torch.zeros_like(places), torch.zeros_like(places), places // CONFIG.grid, places % CONFIG.grid)
    features = torch.randn(count, CONFIG.dim, generator=generator)
    return group_pillars(features, torch.stack(columns, 1), capacity)


@register(
    published=Published(
        "https://arxiv.org/abs/2301.08739", quality="L2 mAPH 67.2 on Waymo, 1 sweep, with the authors' detector"
    ),
    input_size=(64 * CONFIG.group,),
    size_multiple=CONFIG.group,
    draw=draw_pillars,
    takes="pillars",
)
def flatformer(activation: str = "gelu") -> FlatFormer:
    """FlatFormer's encoder of point clouds, 1.1 M parameters."""
    return FlatFormer(CONFIG, ACTIVATIONS[activation])
