from __future__ import annotations

import pytest
import torch
from torch import nn

from deploy_kit.models import create_model
from deploy_kit.models.mobilevit import fold, unfold
from deploy_kit.statistics import count
from tests.models.faithful import golden_error, golden_layout, graph_of, layout, macs, parameters, shape_arithmetic

PARAMETERS = {"mobilevit_xxs": 1_272_024, "mobilevit_xs": 2_317_848, "mobilevit_s": 5_578_632}
MACS = {"mobilevit_xxs": 407e6, "mobilevit_xs": 1_026e6, "mobilevit_s": 2_001e6}


def test_computes_what_the_published_implementation_computes() -> None:
    assert golden_error("mobilevit_xxs") <= 1e-9


def test_has_the_keys_shapes_and_types_of_official_checkpoints() -> None:
    assert layout(create_model("mobilevit_xxs")) == golden_layout("mobilevit_xxs")


@pytest.mark.parametrize("name", PARAMETERS)
def test_has_the_published_number_of_parameters(name: str) -> None:
    assert parameters(name) == PARAMETERS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilevit_xs", "mobilevit_s"])
def test_has_the_multiply_accumulates_of_the_published_code(name: str) -> None:
    assert macs(name) == pytest.approx(MACS[name], rel=0.01)


def test_its_graph_has_four_axes_at_most_and_no_shape_arithmetic() -> None:
    graph = graph_of("mobilevit_xxs")
    statistics = count(graph)
    assert statistics.largest_rank == 4
    assert shape_arithmetic(graph) == []
    assert "to" not in statistics.operators  # softmax in float32 costs no cast in a float32 model
    assert statistics.macs == pytest.approx(MACS["mobilevit_xxs"], rel=0.01)


def test_so_it_does_with_a_free_batch_and_odd_sides() -> None:
    graph = graph_of("mobilevit_xxs", input_size=(72, 104), dynamic_batch=True)
    assert count(graph).largest_rank == 4
    assert shape_arithmetic(graph) == []


def test_unfolding_gathers_the_pixels_at_one_place_of_their_patches() -> None:
    x = torch.randn(3, 5, 4, 6)
    expected = [x[:, :, i::2, j::2].flatten(2).transpose(1, 2) for j in (0, 1) for i in (0, 1)]
    assert unfold(x).equal(torch.cat(expected))
    assert fold(unfold(x), 4, 6).equal(x)


@pytest.mark.parametrize("size", [(1, 1), (72, 104), (224, 160)])
def test_takes_images_of_any_size(size: tuple[int, int]) -> None:
    model = create_model("mobilevit_xxs", input_size=size, num_classes=7)
    with torch.no_grad():
        assert model(torch.zeros(2, 3, *size)).shape == (2, 7)


@pytest.mark.parametrize(("activation", "layer"), [(None, nn.SiLU), ("relu", nn.ReLU), ("gelu", nn.GELU)])
def test_has_the_chosen_activation_everywhere(activation: str | None, layer: type[nn.Module]) -> None:
    modules = [type(module) for module in create_model("mobilevit_xxs", activation=activation).modules()]
    assert modules.count(layer) == 34
    assert layer is nn.SiLU or nn.SiLU not in modules
