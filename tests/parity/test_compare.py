from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from deploy_kit.parity.compare import RATIO_LIMIT, Comparison, compare
from deploy_kit.parity.reference import Reference

EXACT = torch.linspace(-1, 1, 50, dtype=torch.float64).reshape(5, 10)
FLOOR = 1e-6


def reference(*exact: Tensor, floor: float = FLOOR) -> Reference:
    """A reference whose eager float32 is everywhere ``floor`` from float64."""
    return Reference(list(exact), [x + floor for x in exact])


def compared(output: Tensor, exact: Tensor = EXACT, floor: float = FLOOR) -> Comparison:
    return compare("case", "noise", [output], reference(exact, floor=floor))


@pytest.mark.parametrize(("times", "passes"), [(1, True), (RATIO_LIMIT - 1, True), (RATIO_LIMIT + 1, False)])
def test_an_error_is_judged_by_float32s_own(times: float, passes: bool) -> None:
    comparison = compared(EXACT + times * FLOOR)
    assert comparison.noise_ratio == pytest.approx(times)
    assert (comparison.failure() is None) == passes


def test_one_wrong_element_of_many_fails() -> None:
    output = EXACT.clone()
    output[2, 3] += 1e-4
    assert "100 times float32's own" in (compared(output).failure() or "")


def test_many_small_errors_fail_even_below_the_largest_of_float32() -> None:
    eager = EXACT.clone()
    eager[0, 0] += 1e-4
    comparison = compare("case", "noise", [EXACT + 9e-5 * EXACT.sign()], Reference([EXACT], [eager]))
    assert comparison.noise_ratio is not None
    assert 5 < comparison.noise_ratio < RATIO_LIMIT
    eager = EXACT.repeat(100, 1)
    eager[0, 0] += 1e-4
    wide = EXACT.repeat(100, 1)
    comparison = compare("case", "noise", [wide + 9e-5 * wide.sign()], Reference([wide], [eager]))
    assert comparison.failure()


def test_a_model_that_is_exact_in_float32_still_leaves_room_for_one_rounding() -> None:
    rounded = EXACT.float() * (1 + torch.finfo(torch.float32).eps / 2)
    assert compare("case", "noise", [rounded], Reference([EXACT], [EXACT.float()])).failure() is None


def test_the_figures_are_those_of_the_definition() -> None:
    comparison = compared(EXACT + 4e-6, EXACT)
    assert comparison.max_relative_error == pytest.approx(4e-6)
    power = EXACT.square().mean().item()
    assert comparison.snr_db == pytest.approx(10 * math.log10(power / 16e-12))


def test_equal_outputs_have_a_finite_snr() -> None:
    comparison = compared(EXACT)
    assert comparison.snr_db == 999
    assert Comparison.model_validate_json(comparison.model_dump_json()) == comparison


def test_the_worst_output_counts() -> None:
    right, wrong = EXACT, EXACT[:, ::2].clone()
    comparison = compare("case", "noise", [right, wrong + 1e-3], reference(right, wrong))
    assert comparison.noise_ratio == pytest.approx(1000)
    assert comparison.failure()


@pytest.mark.parametrize(
    ("outputs", "problem"),
    [
        ([], "0 outputs instead of 1"),
        ([EXACT, EXACT], "2 outputs instead of 1"),
        ([EXACT.T], "shape \\[10, 5\\] instead of \\[5, 10\\]"),
        ([EXACT.reshape(-1)], "shape \\[50\\]"),
        ([torch.full_like(EXACT, torch.nan)], "not finite"),
        ([torch.where(EXACT > 0.9, torch.inf, EXACT)], "not finite"),
    ],
)
def test_outputs_that_cannot_be_compared_fail(outputs: list[Tensor], problem: str) -> None:
    comparison = compare("case", "noise", outputs, reference(EXACT))
    assert comparison.noise_ratio is None
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(comparison.failure())


def test_a_model_that_is_not_finite_itself_fails() -> None:
    broken = torch.where(EXACT > 0.9, torch.nan, EXACT)
    assert "the model itself" in (compare("case", "noise", [broken], reference(broken)).failure() or "")


def test_another_first_class_fails_though_the_error_is_small() -> None:
    exact = torch.tensor([[1.0, 1.0 - 4e-5, 0.0]], dtype=torch.float64)
    eager = exact.clone()
    eager[0, 2] += 1e-6
    output = exact.clone()
    output[0, 1] += 8e-5
    comparison = compare("case", "noise", [output], Reference([exact], [eager]))
    assert comparison.top1_agrees is False


def test_first_classes_that_tie_within_float32s_noise_agree() -> None:
    exact = torch.tensor([[1.0, 1.0 - 1e-7, 0.0]], dtype=torch.float64)
    output = torch.tensor([[1.0 - 1e-7, 1.0, 0.0]], dtype=torch.float64)
    assert compared(output, exact).top1_agrees is True


@pytest.mark.parametrize("shape", [(50,), (5, 10, 1), (50, 1)])
def test_only_rows_of_scores_have_a_first_class(shape: tuple[int, ...]) -> None:
    assert compared(EXACT.reshape(shape), EXACT.reshape(shape)).top1_agrees is None


def test_an_output_of_zeros_can_be_compared() -> None:
    zeros = torch.zeros(2, 3, dtype=torch.float64)
    assert compared(zeros, zeros, floor=0).failure() is None
    assert compared(zeros + 1e-3, zeros, floor=0).failure()


def test_a_scalar_can_be_compared() -> None:
    assert compared(torch.tensor(2.0), torch.tensor(2.0, dtype=torch.float64)).failure() is None
