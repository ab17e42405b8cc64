from __future__ import annotations

import pytest
import torch

from deploy_kit.precision.calibrate import choose, record, round_to
from deploy_kit.precision.scheme import Scheme, affine
from tests.precision.support import captured, named
from tests.support import Tiny, random


def test_all_elements_of_all_inputs_count_for_the_range() -> None:
    graph = captured(random(Tiny()), 1, 3, 32, 32, samples=3)
    node = named(graph, "x")
    values = record(graph, [node], graph.calibration)[node.name]
    seen = torch.cat([case[0].flatten() for case in graph.calibration])
    assert values.min() == seen.min()
    assert values.max() == seen.max()


@pytest.mark.parametrize("scheme", [Scheme(), Scheme(unsigned=True), Scheme(symmetric=True)])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.0, 6.0), (2.0, 5.0), (-4.0, -1.0), (0.0, 0.0)])
def test_zero_is_exact_and_the_ends_are_within_a_step(scheme: Scheme, low: float, high: float) -> None:
    numbers = affine(low, high, scheme)
    ends = torch.tensor([0.0, low, high])
    got = round_to(ends, numbers)
    assert got[0] == 0
    assert (got - ends).abs().max() <= numbers.scale
    assert numbers.lowest <= numbers.zero_point <= numbers.highest


def test_an_outlier_does_not_take_the_resolution_of_all_others() -> None:
    values = torch.cat([torch.linspace(-1, 1, 1_000_000), torch.tensor([4.0])])
    numbers = choose(values, Scheme())
    full = affine(-1, 4, Scheme())
    assert numbers.scale < full.scale
    assert (round_to(values, numbers) - values).square().mean() < (round_to(values, full) - values).square().mean() / 2


def test_a_range_without_outliers_is_kept_whole() -> None:
    values = torch.linspace(-1, 3, 1000)
    assert choose(values, Scheme()).scale == pytest.approx(4 / 255)
