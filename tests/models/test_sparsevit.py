from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from deploy_kit.capture import capture
from deploy_kit.errors import UserError
from deploy_kit.fusion import Policy, fuse_graph
from deploy_kit.fusion.policy import folds
from deploy_kit.graph import Graph, aten
from deploy_kit.models import create_model, get_architecture, load_checkpoint
from deploy_kit.models.layers import randomize_
from deploy_kit.models.sparsevit import RATIOS, Ratios, SparseBlock, SparseViT, sparsevit_tiny
from deploy_kit.statistics import count
from tests.golden.golden import Golden
from tests.models.faithful import (
    activations,
    check_deploys,
    golden_layout,
    layout,
    relative,
    run,
    shape_arithmetic,
    stored_error,
)

DENSE: Ratios = ((0.0,) * 2, (0.0,) * 2, (0.0,) * 6, (0.0,) * 2)
GOLDEN = Golden.load("sparsevit_tiny")


@cache
def official() -> dict[str, Tensor]:
    return GOLDEN.state_dict()


def build(size: tuple[int, int], ratios: Ratios = RATIOS) -> SparseViT:
    model = sparsevit_tiny(input_size=size, pruning_ratios=ratios).eval()
    randomize_(model, seed=0)
    return model.double()


@pytest.mark.parametrize("case", [0, 1], ids=["dense", "pruned"])
def test_computes_the_four_maps_of_the_published_implementation(case: int) -> None:
    ratios = tuple(map(tuple, GOLDEN.meta["cases"][case]["pruning_ratios"]))
    assert ratios == (DENSE, RATIOS)[case]
    inputs, expected = list(GOLDEN.cases())[case]
    model = build((448, 448), ratios)
    load_checkpoint(model, official())
    for found, wanted in zip(run(model, *inputs), expected, strict=True):
        assert stored_error(found, wanted) <= 1e-9


def test_has_the_keys_shapes_and_types_of_official_checkpoints_but_for_their_index_tables() -> None:
    expected = golden_layout("sparsevit_tiny", without=("relative_position_index",))
    assert layout(create_model("sparsevit_tiny", input_size=224)) == expected


def test_loads_from_the_checkpoint_of_a_detector() -> None:
    model = create_model("sparsevit_tiny", input_size=224)
    detector = {f"backbone.{key}": value for key, value in official().items()}
    load_checkpoint(model, {"state_dict": {**detector, "neck.fpn.weight": torch.zeros(3)}})
    assert all(value.equal(official()[key]) for key, value in model.state_dict().items())


@pytest.fixture(scope="module")
def pruned() -> Graph:
    return capture(sparsevit_tiny(input_size=(224, 224)).eval(), (torch.zeros(1, 3, 224, 224),))


def test_multiplies_less_than_swin_tiny_without_its_classifier(pruned: Graph) -> None:
    assert count(pruned).macs == 3_723_310_080


@pytest.mark.slow
def test_without_pruning_it_multiplies_as_much() -> None:
    with torch.device("meta"):
        dense = capture(sparsevit_tiny(input_size=(224, 224), pruning_ratios=DENSE), (torch.zeros(1, 3, 224, 224),))
    assert count(dense).macs == pytest.approx(4.49e9, rel=0.01)


def test_each_block_keeps_the_number_of_windows_that_its_ratio_and_the_image_give() -> None:
    blocks = [[block.keep for block in stage.blocks] for stage in build((448, 448)).stages]
    assert blocks == [[179, 179], [64, 64], [14, 14, 12, 12, 12, 12], [4, 4]]


@pytest.mark.parametrize("shift", [0, 3])
def test_the_least_active_windows_pass_through(shift: int) -> None:
    block = SparseBlock(32, (28, 21), shift, 0.7, nn.GELU)
    randomize_(block, seed=0)
    x = torch.randn(2, 28, 21, 32) * torch.rand(2, 28, 21, 1)
    activity = x.abs().mean(3, keepdim=True)
    with torch.no_grad():
        pruned, dense = block(x, block.rank(activity)), block(x)
    norms = block.cut(activity).flatten(1).norm(dim=1).reshape(2, 12)
    assert block.keep == 3
    kept = norms >= norms.sort(1, descending=True).values[:, 2:3]
    expected = torch.where(kept.reshape(24, 1, 1), block.cut(dense), block.cut(x))
    torch.testing.assert_close(block.cut(pruned), expected)


def test_a_stage_ranks_its_windows_once_for_both_shifts() -> None:
    """By what enters the first block that prunes, even if an earlier one does not."""
    stage = build((224, 224), (*DENSE[:2], (0.0, 0.5, 0.5, 0.5, 0.5, 0.5), DENSE[3])).stages[2]
    seen: list[Tensor] = []
    for block in stage.blocks:
        block.rank = lambda activity, rank=block.rank: seen.append(activity) or rank(activity)
    x = torch.randn(1, 14, 14, 384, dtype=torch.float64)
    with torch.no_grad():
        stage(x)
        first = stage.blocks[0](x).abs().mean(3, keepdim=True)
    assert len(seen) == 2
    assert all(activity.equal(first) for activity in seen)


def test_a_ratio_that_leaves_no_window_leaves_the_map_alone() -> None:
    model = build((64, 64), ((0.0, 0.0), (0.0, 0.0), (0.0,) * 6, (0.9, 0.9)))
    x = torch.randn(1, 2, 2, 768, dtype=torch.float64)
    assert model.stages[3](x)[0] is x


def test_images_of_a_batch_are_pruned_each_by_itself() -> None:
    model = build((96, 160))
    x = torch.randn(3, 3, 96, 160, dtype=torch.float64)
    together, alone = run(model, x), run(model, x[2:])
    assert [tuple(y.shape[1:]) for y in alone] == [(96, 24, 40), (192, 12, 20), (384, 6, 10), (768, 3, 5)]
    assert all(relative(y[2:], z) < 1e-12 for y, z in zip(together, alone))


def test_without_pruning_its_graph_has_four_axes_at_most_and_no_integers() -> None:
    model = sparsevit_tiny(input_size=(64, 64), pruning_ratios=DENSE).eval()
    check_deploys(_Joined(model), (64, 64))


def test_with_pruning_the_only_integers_of_its_graph_are_the_numbers_of_windows(pruned: Graph) -> None:
    graph, _ = fuse_graph(pruned, Policy(folds("exact")))
    assert count(graph).largest_rank == 4
    assert len(list(graph.calls(aten.topk.default))) == 2 * 2 * 2
    assert not list(graph.calls(aten.arange.default))
    of_windows = {"topk.default", "slice.Tensor", "flatten.using_ints", "add.Tensor", "<built-in function getitem>"}
    assert {call.removeprefix("aten.") for call in shape_arithmetic(graph)} == of_windows


class _Joined(nn.Module):
    """One output in place of four, for checks of classifiers."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([y.mean((2, 3)) for y in self.model(x)], 1)


def test_has_no_classifier_and_refuses_other_sizes() -> None:
    with pytest.raises(UserError, match="sparsevit_tiny has no classifier"):
        create_model("sparsevit_tiny", num_classes=7)
    with pytest.raises(UserError, match="cannot take 224x240") as error:
        create_model("sparsevit_tiny", input_size=(224, 240))
    assert "multiples of 32" in error.value.fix


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        (((0.3, 0.3), *DENSE[1:3]), "do not fit"),
        (((0.3, 1.0), *DENSE[1:]), "share"),
        (((-0.1, 0.0), *DENSE[1:]), "share"),
    ],
)
def test_refuses_ratios_that_are_none(ratios: Ratios, message: str) -> None:
    with pytest.raises(UserError, match=message):
        sparsevit_tiny(pruning_ratios=ratios)


@pytest.mark.parametrize(("activation", "layer"), [(None, nn.GELU), ("relu", nn.ReLU)])
def test_has_the_chosen_activation_in_every_mlp(activation: str | None, layer: type[nn.Module]) -> None:
    assert activations(create_model("sparsevit_tiny", activation=activation)) == {layer: 12}


def test_reports_what_the_authors_report() -> None:
    published = get_architecture("sparsevit_tiny").published
    assert "mAP" in (published.quality or "")
    assert published.latency is not None
