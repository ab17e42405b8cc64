from __future__ import annotations

import pytest
import torch
from torch import nn

from deploy_kit.errors import ExportError
from deploy_kit.graph import Graph
from deploy_kit.precision import lower
from deploy_kit.precision.int8 import measure
from deploy_kit.precision.scheme import Scheme
from deploy_kit.precision.sensitivity import Loss, fewest_in_float, measure_losses
from tests.precision.support import captured


class Fragile(nn.Module):
    """``bad`` reads a value with one huge element and cancels it again; int8 has no digits left for the others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bad, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        huge = torch.cat([y[:, :7], y[:, 7:] * 300], 1)
        return self.last(self.bad(huge))


@pytest.fixture(scope="module")
def fragile() -> Graph:
    torch.manual_seed(0)
    model = Fragile()
    with torch.no_grad():
        model.bad.weight[:, 7] = 0
    return captured(model, 4, 8)


def test_the_module_that_loses_most_comes_first(fragile: Graph) -> None:
    losses = measure_losses(fragile, Scheme(), measure(fragile, Scheme()))
    assert losses[0].module == "bad"
    assert {loss.module for loss in losses} == {"first", "bad", "last"}
    assert losses[0].snr_db < losses[1].snr_db - 10


def test_auto_mixed_keeps_that_module_alone(fragile: Graph) -> None:
    assert lower(fragile, "int8", Scheme()).details["int8"]["simulated_snr_db"] < 15
    mixed = lower(fragile, "int8", Scheme(), auto_mixed=True)
    assert mixed.details["int8"]["kept_in_fp32"] == ["bad"]
    assert mixed.details["int8"]["simulated_snr_db"] > 16
    assert "bad" in mixed.notes[0]


def test_auto_mixed_keeps_nothing_where_nothing_is_needed() -> None:
    graph = captured(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), 4, 8)
    assert lower(graph, "int8", Scheme(), auto_mixed=True).details["int8"]["kept_in_fp32"] == []


def test_a_model_without_layers_cannot_be_int8() -> None:
    with pytest.raises(ExportError, match="no convolution or linear"):
        lower(captured(nn.ReLU(), 4, 8), "int8", Scheme())


@pytest.mark.parametrize("needed", [{"a"}, {"c"}, {"a", "d"}, {"b", "c", "e"}, set("abcde"), set()])
def test_the_fewest_modules_are_found(needed: set[str]) -> None:
    losses = [Loss(module, float(index)) for index, module in enumerate("abcde")]
    found = fewest_in_float(losses, lambda kept: needed <= set(kept))
    assert found is not None
    assert set(found) == needed


def test_none_where_no_set_suffices() -> None:
    assert fewest_in_float([Loss("a", 1.0)], lambda kept: False) is None
