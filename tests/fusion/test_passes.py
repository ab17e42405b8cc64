from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from deploy_kit.capture import capture
from deploy_kit.errors import UserError
from deploy_kit.fusion import PASSES, Policy, fuse_graph
from deploy_kit.fusion.policy import Choice
from deploy_kit.graph import Graph, aten
from deploy_kit.models.layers import randomize_
from tests.fusion.support import Shapes, noise, relative_error

EVERYTHING = Policy(tuple(Choice(name, "") for name in PASSES))
FOLDS = (
    "affine_into_neighbours",
    "identity_into_depthwise",
    "attention_scale_into_query",
    "average_pool_to_slice",
    "slice_before_layer_norm",
    "slice_into_pointwise_conv",
    "layer_norm_affine_into_linear",
    "compose_permutations",
)
"""The passes that leave less to do; the others write the same in a form that a target prefers."""


class Permute(nn.Module):
    def __init__(self, *order: int):
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order)


class Strided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, ::2, ::2]


class Residual(nn.Module):
    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Scale(nn.Module):
    def __init__(self, dim: int, shift: float = 0.0):
        super().__init__()
        self.gain, self.shift = nn.Parameter(torch.ones(dim, 1, 1)), shift

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.shift) * self.gain


class Branches(nn.Module):
    def __init__(self, *branches: nn.Module):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return sum(branch(x) for branch in self.branches)


class ShiftedWindows(nn.Module):
    """The body of a block of Swin: its windows of 2 by 4, rolled, in a padded image."""

    def __init__(self, dim: int, shift: int):
        super().__init__()
        self.body, self.shift = nn.Linear(dim, dim), shift

    def forward(self, x: Tensor) -> Tensor:
        batch, dim, h, w = x.shape
        x = nn.functional.pad(x.permute(0, 2, 3, 1), (0, 0, 0, -w % 4, 0, -h % 2))
        rows, columns = x.shape[1] // 2, x.shape[2] // 4
        x = x.roll((-self.shift, -self.shift), (1, 2)).view(batch, rows, 2, columns, 4, dim)
        x = self.body(x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 2, 4, dim).view(-1, 8, dim))
        x = x.view(-1, 2, 4, dim).view(batch, rows, columns, 2, 4, dim).permute(0, 1, 3, 2, 4, 5)
        x = x.contiguous().view(batch, 2 * rows, 4 * columns, dim).roll((self.shift, self.shift), (1, 2))
        return x[:, :h, :w, :].permute(0, 3, 1, 2)


class Shuffled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


class Twice(nn.Module):
    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * 1 + self.body(nn.functional.dropout(x, 0.5, self.training)).sigmoid()


class ChannelsLast(nn.Sequential):
    def __init__(self, *body: nn.Module):
        super().__init__(Permute(0, 2, 3, 1), *body, Permute(0, 3, 1, 2))


class Attention(nn.Module):
    def __init__(self, dim: int, fused: bool):
        super().__init__()
        self.qkv, self.fused = nn.Linear(dim, 3 * dim), fused

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, -1)
        if self.fused:
            y = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(1, 2) * 0.3).softmax(-1) @ v
        return y.transpose(1, 2).reshape(x.shape)


def random_model(seed: int, dim: int = 4, layers: int = 8) -> nn.Module:
    """A random stack over ``[B, 4, H, W]`` of the kinds of layer that the passes rewrite."""
    choose = random.Random(seed)
    kinds = [
        lambda: nn.BatchNorm2d(dim),
        lambda: nn.BatchNorm2d(dim),
        lambda: nn.Conv2d(dim, dim, choose.choice([1, 3]), padding=choose.choice([0, 1]), bias=choose.random() < 0.5),
        lambda: nn.Conv2d(dim, dim, 3, padding=1, groups=choose.choice([1, 2, 4])),
        lambda: nn.ConvTranspose2d(dim, dim, 2, stride=2, groups=choose.choice([1, 2, 4])),
        lambda: nn.ReLU(inplace=choose.random() < 0.5),
        lambda: nn.AvgPool2d(1, choose.choice([1, 2])),
        lambda: Strided(),
        lambda: ChannelsLast(nn.LayerNorm(dim)),
        lambda: ChannelsLast(nn.Linear(dim, dim)),
        lambda: ChannelsLast(nn.RMSNorm(dim), nn.Linear(dim, dim)),
        lambda: nn.Sequential(Permute(0, 1, 3, 2), Permute(0, 3, 2, 1), nn.LayerNorm(dim), Permute(0, 3, 2, 1)),
        lambda: Residual(nn.Conv2d(dim, dim, 3, padding=1, groups=choose.choice([1, dim]))),
        lambda: Residual(nn.Sequential(nn.BatchNorm2d(dim), nn.Conv2d(dim, dim, 1))),
        lambda: Residual(nn.BatchNorm2d(dim)),
        lambda: Scale(dim, choose.choice([0.0, 0.5])),
        lambda: nn.ZeroPad2d(choose.choice([(1, 1, 1, 1), (1, 1, 0, 0), (0, 1, 0, 1)])),
        lambda: nn.AvgPool2d(3, 1, 1),
        lambda: nn.Sequential(nn.Conv2d(dim, 2 * dim, 1), nn.Conv2d(2 * dim, dim, 1)),
        lambda: Branches(
            *(nn.Conv2d(dim, dim, side, padding=side // 2, groups=choose.choice([1, dim])) for side in (3, 1)),
            choose.choice([nn.Identity(), nn.BatchNorm2d(dim), nn.ReLU()]),
        ),
        lambda: Residual(Attention(dim, fused=choose.random() < 0.5)),
        lambda: ShiftedWindows(dim, shift=choose.choice([0, 1])),
        lambda: Shuffled(),
        lambda: Twice(choose.choice([nn.BatchNorm2d(dim), nn.Conv2d(dim, dim, 1), ShiftedWindows(dim, 0)])),
    ]
    body = [choose.choice(kinds)() for _ in range(layers)]
    if choose.random() < 0.3:
        body.insert(choose.randrange(layers), body[choose.randrange(layers)])
    head = [nn.BatchNorm2d(dim), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(dim, 3)]
    model = nn.Sequential(*body, *head[choose.choice([0, 1, 4]) :])
    randomize_(model, seed)
    return model.double().eval()


@pytest.mark.parametrize("seed", range(40))
def test_all_passes_together_are_exact_for_random_models(seed: int) -> None:
    model, x = random_model(seed), noise(2, 4, 9, 8, seed=seed)
    fused, _ = fuse_graph(capture(model, (x,), dynamic_batch=seed % 2 == 0), EVERYTHING)
    with torch.no_grad():
        assert relative_error(Shapes(fused.module).run(x), model(x)) <= 1e-12


@pytest.fixture(scope="module")
def fused(edgevit_xxs_graph: Graph) -> tuple[Graph, list]:
    return fuse_graph(edgevit_xxs_graph, Policy(tuple(Choice(name, "") for name in FOLDS)))


def test_edgevit_stays_the_same(
    fused: tuple[Graph, list], edgevit_xxs: nn.Module, edgevit_xxs_graph: Graph, image: Tensor
) -> None:
    with torch.no_grad():
        expected = edgevit_xxs(image)
        assert relative_error(fused[0].module(image), expected) <= 1e-12
        assert relative_error(fuse_graph(edgevit_xxs_graph, EVERYTHING)[0].module(image), expected) <= 1e-12


def test_edgevit_has_no_batch_norm_pooling_or_scale_left(fused: tuple[Graph, list]) -> None:
    graph, _ = fused
    assert not list(graph.calls(aten.batch_norm.default, aten.avg_pool2d.default, aten.mul.Tensor))


def test_edgevit_gets_every_rewrite_that_its_blocks_allow(edgevit_xxs_graph: Graph, fused: tuple[Graph, list]) -> None:
    blocks, sampled = 7, 5
    norms = len(list(edgevit_xxs_graph.calls(aten.batch_norm.default)))
    made = Counter(rewrite.pass_name for rewrite in fused[1])
    expected = {
        "affine_into_neighbours": norms,
        "identity_into_depthwise": blocks + sampled,
        "attention_scale_into_query": blocks,
        "average_pool_to_slice": sampled,
        "slice_before_layer_norm": 2 * sampled,
        "layer_norm_affine_into_linear": 2 * blocks + sampled,
    }
    assert {name: made[name] for name in expected} == expected


def test_fusing_leaves_the_captured_graph_alone(edgevit_xxs_graph: Graph, image: Tensor) -> None:
    before = str(edgevit_xxs_graph.module.graph)
    names = {name for name, _ in edgevit_xxs_graph.module.named_parameters()}
    fuse_graph(edgevit_xxs_graph, EVERYTHING)
    assert str(edgevit_xxs_graph.module.graph) == before
    assert {name for name, _ in edgevit_xxs_graph.module.named_parameters()} == names


def test_fusing_twice_finds_nothing_new(fused: tuple[Graph, list]) -> None:
    assert fuse_graph(fused[0], Policy(tuple(Choice(name, "") for name in FOLDS)))[1] == []


def test_a_policy_runs_its_passes_alone_and_in_order(edgevit_xxs_graph: Graph) -> None:
    policy = Policy((Choice("average_pool_to_slice", ""), Choice("affine_into_neighbours", "")))
    _, rewrites = fuse_graph(edgevit_xxs_graph, policy)
    assert list(dict.fromkeys(rewrite.pass_name for rewrite in rewrites)) == policy.names


def test_a_policy_without_passes_changes_nothing(edgevit_xxs_graph: Graph) -> None:
    fused, rewrites = fuse_graph(edgevit_xxs_graph, Policy(()))
    assert rewrites == []
    assert str(fused.module.graph) == str(edgevit_xxs_graph.module.graph)


def test_an_unknown_pass_is_refused_with_the_nearest_name(edgevit_xxs_graph: Graph) -> None:
    with pytest.raises(UserError, match="affine_in_neighbours") as error:
        fuse_graph(edgevit_xxs_graph, Policy((Choice("affine_in_neighbours", ""),)))
    assert "affine_into_neighbours" in error.value.fix


@pytest.mark.parametrize("name", PASSES)
def test_every_pass_states_its_identity(name: str) -> None:
    assert "=" in PASSES[name].identity.splitlines()[0]
