from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from deploy_kit.capture import capture
from deploy_kit.errors import UserError
from deploy_kit.graph import Graph, is_call, operand
from deploy_kit.models import create_model, get_architecture, load_checkpoint
from deploy_kit.models.flatformer import draw_pillars, group_pillars
from deploy_kit.statistics import count
from tests.golden.golden import Golden
from tests.models.faithful import activations, golden_layout, layout, run, stored_error

GROUP = 144


@pytest.fixture(scope="module")
def graph() -> Graph:
    return capture(create_model("flatformer"), draw_pillars(0, (4 * GROUP,)))


def cloud(pillars: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features and coordinates of a seeded cloud."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randperm(468 * 468, generator=generator)[:pillars]
    zeros = torch.zeros_like(places)
    features = torch.randn(pillars, 128, generator=generator, dtype=torch.float64)
    return features, torch.stack([zeros, zeros, places // 468, places % 468], 1)


def encode(features: Tensor, coordinates: Tensor, capacity: int) -> Tensor:
    return run(create_model("flatformer").double(), *group_pillars(features, coordinates, capacity))[: len(features)]


@pytest.mark.parametrize("spare", [0, 2 * GROUP])
def test_computes_what_the_published_implementation_computes(spare: int) -> None:
    golden = Golden.load("flatformer")
    model = create_model("flatformer")
    load_checkpoint(model, golden.state_dict())
    model.double()
    for (features, coordinates), (expected,) in golden.cases():
        capacity = -(-len(features) // GROUP) * GROUP + spare
        output = run(model, *group_pillars(features, coordinates, capacity))[: len(features)]
        assert stored_error(output, expected) <= 1e-9


def test_has_the_keys_shapes_and_types_of_official_checkpoints() -> None:
    assert layout(create_model("flatformer")) == golden_layout("flatformer")


def test_the_order_of_the_pillars_changes_only_the_order_of_the_rows() -> None:
    features, coordinates = cloud(200)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        encode(features[order], coordinates[order], 2 * GROUP), encode(features, coordinates, 2 * GROUP)[order]
    )


@pytest.mark.parametrize("pillars", [0, 1, 10, 143, 144, 145])
def test_takes_any_number_of_pillars_up_to_the_capacity(pillars: int) -> None:
    features, coordinates = cloud(pillars)
    inputs = group_pillars(features, coordinates, 2 * GROUP)
    assert [tuple(x.shape) for x in inputs] == [(2 * GROUP, 128)] * 2 + [(2 * GROUP,)] * 6
    assert all(x.dtype == torch.int64 and x.min() >= 0 and x.max() < 2 * GROUP for x in inputs[2:])
    assert inputs[2].unique().numel() == max(pillars, 1)  # nothing is read but the pillars, and all of them
    small, large = (encode(features, coordinates, capacity) for capacity in (2 * GROUP, 3 * GROUP))
    assert small.isfinite().all()
    torch.testing.assert_close(small, large)


def test_where_there_are_too_few_for_a_group_each_is_there_equally_often() -> None:
    features, coordinates = cloud(12)  # 144 is 12 times 12, so going round gives no pillar more weight
    first = group_pillars(features, coordinates, GROUP)[2]
    assert first.bincount().tolist() == [12] * 12


def test_refuses_pillars_that_it_would_encode_wrongly() -> None:
    features, coordinates = cloud(GROUP + 1)
    with pytest.raises(UserError, match="145 pillars do not fit into a model for 144") as caught:
        group_pillars(features, coordinates, GROUP)
    assert "--input-size 288" in str(caught.value.fix)
    for row, column, reason in ((0, 3, "outside of the grid"), (0, 0, "several point clouds")):
        wrong = coordinates.clone()
        wrong[row, column] = 468
        with pytest.raises(UserError, match=reason):
            group_pillars(features, wrong, 2 * GROUP)
    with pytest.raises(UserError, match="several pillars are in one place"):
        group_pillars(features, coordinates[:1].expand(GROUP + 1, -1), 2 * GROUP)
    with pytest.raises(UserError, match="not what FlatFormer takes"):
        group_pillars(features, coordinates[:, 2:], 2 * GROUP)
    with pytest.raises(UserError, match="no multiple of 144"):
        group_pillars(features, coordinates, 200)


def test_the_graph_is_gathers_and_attention_in_groups_of_rank_4_at_most(graph: Graph) -> None:
    counted = count(graph)
    assert counted.largest_rank == 4
    gathers = [node for node in graph.nodes if is_call(node, torch.ops.aten.index_select.default)]
    assert len(gathers) == 4 + 8 + 1  # of positions, before each layer, and back to the pillars
    inputs = {node for node in graph.nodes if node.op == "placeholder"}
    assert all(operand(node, 2) in inputs for node in gathers)
    integers = [node for node in graph.nodes if node.op == "call_function" and not node.meta["val"].is_floating_point()]
    assert integers == []
    pillars, dim = 4 * GROUP, 128
    assert counted.macs == 8 * pillars * (4 * dim**2 + 2 * 2 * dim**2 + 2 * GROUP * dim)


def test_positions_are_inputs_so_that_a_graph_knows_no_grid(graph: Graph) -> None:
    inputs = draw_pillars(1, (4 * GROUP,))
    expected = run(create_model("flatformer"), *inputs)
    torch.testing.assert_close(run(graph.module, *inputs), expected)
    moved = run(graph.module, inputs[0], torch.zeros_like(inputs[1]), *inputs[2:])
    assert (moved - expected).abs().max() > 1e-3


def test_drawn_clouds_differ_in_size_and_are_the_same_for_one_seed() -> None:
    sizes = {draw_pillars(seed, (GROUP * 2,))[2].unique().numel() for seed in range(4)}
    assert max(sizes) == 2 * GROUP
    assert min(sizes) < GROUP
    assert len(sizes) == 4
    assert all(a.equal(b) for a, b in zip(draw_pillars(5, (GROUP,)), draw_pillars(5, (GROUP,))))


def test_another_activation_and_what_it_does_not_take() -> None:
    assert activations(create_model("flatformer", activation="relu", input_size=GROUP)) == {nn.ReLU: 8}
    with pytest.raises(UserError, match="flatformer cannot take 100 pillars") as caught:
        create_model("flatformer", input_size=100)
    assert "a multiple of 144" in str(caught.value.fix)
    with pytest.raises(UserError, match="flatformer has no classifier"):
        create_model("flatformer", num_classes=10)
    assert get_architecture("flatformer").num_classes is None
