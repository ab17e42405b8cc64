from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from deploy_kit.errors import ExportError
from deploy_kit.parity.compare import measure_floors
from deploy_kit.parity.inputs import InputType, make_cases, noise, photographs, typed
from deploy_kit.parity.proof import Proof, judge
from deploy_kit.parity.reference import Reference, compute_references, in_float64, run_module
from deploy_kit.preprocessing import Preprocessing
from tests.support import TwoInputs, random, tiny

SHAPES = [(1, 3, 32, 32)]


def prove(model: nn.Module, runtime: nn.Module | None = None, shapes: list[tuple[int, ...]] = SHAPES) -> Proof:
    """The proof of ``runtime``, run in float32, as an artifact of ``model``."""
    cases = make_cases(shapes, Preprocessing.for_input(shapes[0]))
    references = compute_references(model, cases)
    outputs = [run_module((runtime or model).float(), case.inputs) for case in cases]
    return judge(cases, references, outputs, "eager")


def test_a_model_proves_itself() -> None:
    proof = prove(tiny())
    assert proof.passed
    assert proof.verified_by == "eager"
    assert proof.top1_agreement == 1
    assert [case.kind for case in proof.cases] == ["noise"] * 2 + ["photograph"] * 4


def test_another_seed_of_the_model_fails() -> None:
    assert not prove(tiny(), random(type(tiny())(), seed=1)).passed


def test_missing_results_fail() -> None:
    cases = make_cases(SHAPES, None)
    references = compute_references(tiny(), cases)
    proof = judge(cases, references, [references[0].eager], "eager")
    assert "1 results for 2 cases" in proof.failures


class Deaf(nn.Module):
    """Its output is nearly the same for every input."""

    def __init__(self, loudness: float):
        super().__init__()
        self.bias, self.loudness = nn.Parameter(torch.arange(10.0)), loudness

    def forward(self, x: Tensor) -> Tensor:
        return self.bias + self.loudness * x.mean((1, 2, 3)).unsqueeze(1)


@pytest.mark.parametrize(("loudness", "passes"), [(0, False), (1e-5, False), (100, True)])
def test_a_model_that_ignores_its_input_proves_nothing(loudness: float, passes: bool) -> None:
    proof = prove(Deaf(loudness))
    assert proof.passed == passes
    assert passes or "do not depend on its inputs" in proof.failures[0]


def test_a_proof_survives_json() -> None:
    proof = prove(tiny())
    assert Proof.model_validate_json(proof.model_dump_json()) == proof


class IllConditioned(nn.Module):
    """Differences of large numbers: float32 keeps few digits, and a right artifact no more."""

    def forward(self, x: Tensor) -> Tensor:
        y = (x + 1000).square().mean((2, 3))
        return y - y.mean(1, keepdim=True)


def test_the_loss_of_digits_of_the_model_itself_is_forgiven() -> None:
    class Reordered(IllConditioned):
        def forward(self, x: Tensor) -> Tensor:
            y = (x + 1000).square().mean(3).mean(2)
            return y - y.mean(1, keepdim=True)

    proof = prove(IllConditioned(), Reordered())
    assert proof.passed
    assert proof.max_relative_error is not None
    assert proof.max_relative_error > 1e-5


def test_noise_is_seeded_and_leaves_the_global_state_alone() -> None:
    state = torch.random.get_rng_state()
    first, second = noise(SHAPES, seed=0), noise(SHAPES, seed=0)
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[0], noise(SHAPES, seed=1)[0])
    assert torch.equal(state, torch.random.get_rng_state())


def test_photographs_are_four_different_images_of_the_models_size() -> None:
    images = photographs(Preprocessing(resize=40, crop=(32, 24)))
    assert len({name for name, _ in images}) == 4
    assert {tuple(image.shape) for _, image in images} == {(1, 3, 32, 24)}
    assert len({image.sum().item() for _, image in images}) == 4


def test_the_cases_follow_the_model() -> None:
    assert [case.kind for case in make_cases([(1, 6), (1, 5)], None)] == ["noise", "noise"]
    dynamic = make_cases(SHAPES, Preprocessing.for_input(SHAPES[0]), dynamic_batch=True)
    assert dynamic[-1].inputs[0].shape[0] == 3
    assert [case.inputs[0].shape[0] for case in make_cases([(2, 3, 32, 32)], Preprocessing.for_input(SHAPES[0]))] == [
        2
    ] * 6


def test_references_are_of_the_module_as_it_was_given() -> None:
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reference = compute_references(model.train(), make_cases(SHAPES, None))[0]
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert reference.exact[0].dtype == torch.float64
    assert reference.eager[0].dtype == torch.float32
    assert torch.equal(reference.eager[0], tiny()(noise(SHAPES, seed=0)[0]))


def test_outputs_of_any_structure_are_compared_in_order() -> None:
    model = random(TwoInputs())
    reference = compute_references(model, make_cases([(1, 6), (1, 5)], None))[0]
    assert len(reference.exact) == 3
    assert torch.equal(reference.exact[1], reference.exact[0].square())


class MakesFloat32(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) @ torch.ones(3, 4)


def test_a_model_that_cannot_run_in_float64_is_explained() -> None:
    with pytest.raises(ExportError, match="does not run in float64") as caught:
        compute_references(MakesFloat32(), make_cases(SHAPES, None))
    assert "dtype" in caught.value.fix


def test_casts_to_float32_in_a_captured_program_become_float64() -> None:
    class Casts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.to(torch.float32) / 3

    module = torch.export.export(Casts(), (torch.zeros(1),)).module(check_guards=False)
    assert in_float64(module)(torch.ones(1, dtype=torch.float64)).dtype == torch.float64


class ReturnsText(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        return x, "text"


def test_outputs_that_are_not_tensors_are_refused() -> None:
    with pytest.raises(ExportError, match="not all tensors"):
        compute_references(ReturnsText(), make_cases(SHAPES, None))


class Noise(nn.Module):
    """A model whose float32 is rounding noise: the offset swallows every digit."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.mean((2, 3)) + 3e8) - 3e8


@pytest.mark.parametrize("factor", [0.0, -1.0, 1.0])
def test_a_model_that_is_rounding_noise_in_float32_approves_nothing(factor: float) -> None:
    class Wrong(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return factor * x.mean((2, 3))

    proof = prove(Noise(), Wrong())
    assert not proof.passed
    assert any("rounding noise" in failure for failure in proof.failures)


def test_a_model_that_is_random_is_refused() -> None:
    class Restless(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.dropout(x.flatten(1), 0.5, training=True)

    with pytest.raises(ExportError, match="something else each time"):
        prove(Restless())


def test_a_model_that_writes_over_its_input_leaves_the_cases_alone() -> None:
    class Writes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sub_(0.5).div_(0.2).mean((2, 3))

    assert prove(Writes()).passed


def test_a_model_that_sleeps_on_noise_is_judged_on_photographs() -> None:
    class Threshold(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x.mean((2, 3)) - 0.4)

    assert prove(Threshold()).passed


def test_the_floor_of_a_short_output_is_that_of_its_worst_case() -> None:
    lucky = Reference([torch.tensor([[1.0]], dtype=torch.float64)], [torch.tensor([[1.0]])])
    usual = Reference([torch.tensor([[2.0]], dtype=torch.float64)], [torch.tensor([[2.0 + 1e-6]])])
    alone, together = measure_floors([lucky])[0], measure_floors([lucky, usual])[0]
    assert together.peak > 4 * alone.peak


def test_outputs_that_are_not_floats_are_compared_exactly() -> None:
    class Decision(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            y = x.mean((2, 3))
            return y, y > 0, y[:, :0]

    class Other(Decision):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            y, positive, empty = super().forward(x)
            return y, ~positive, empty

    assert prove(Decision()).passed
    assert not prove(Decision(), Other()).passed


def test_values_that_are_not_finite_are_the_models_own_fault() -> None:
    class Infinite(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)) / 0

    with pytest.raises(ExportError, match="not finite"):
        prove(Infinite())


def test_a_model_that_makes_its_own_inputs_is_proven_on_them_alone_and_has_no_classes() -> None:
    def rows(seed: int) -> tuple[Tensor, Tensor]:
        return torch.randn(4, 6, generator=torch.Generator().manual_seed(seed)), torch.tensor([3, seed % 4, 0])

    class Picks(nn.Module):
        def forward(self, x: Tensor, index: Tensor) -> Tensor:
            return x.index_select(0, index)

    cases = make_cases([(4, 6), (3,)], None, own=rows)
    assert [case.kind for case in cases] == ["seeded"] * 4
    references = compute_references(Picks(), cases)
    assert references[0].exact[0].dtype == torch.float64
    proof = judge(cases, references, [reference.eager for reference in references], "a runtime")
    assert (proof.passed, proof.top1_agreement) == (True, None)
    swapped = [[reference.eager[0].flip(0)] for reference in references]
    assert not judge(cases, references, swapped, "a runtime").passed


def test_integers_stay_within_their_bound_and_differ_from_case_to_case() -> None:
    def own(seed: int) -> tuple[Tensor, ...]:
        return typed([(2, 3), (2, 400), (2,)], [InputType(), word, mask], seed)

    word, mask = InputType(dtype="int64"), InputType(dtype="int32", bound=4)
    state = torch.random.get_rng_state()
    cases = make_cases([(2, 3), (2, 400), (2,)], None, own=own, dynamic_batch=True)
    assert torch.equal(state, torch.random.get_rng_state())
    assert [case.name for case in cases[3:]] == ["seeded inputs 3", "seeded inputs, batch of 3"]
    assert [[x.dtype for x in case.inputs] for case in cases] == [[torch.float32, torch.int64, torch.int32]] * 5
    assert [tuple(x.shape) for x in cases[4].inputs] == [(3, 3), (3, 400), (3,)]
    assert set(torch.cat([case.inputs[1] for case in cases]).flatten().tolist()) == set(range(10))
    assert set(torch.cat([case.inputs[2] for case in cases]).flatten().tolist()) == set(range(4))
    assert cases[0].inputs[2].max() == 3, "the largest is met by the first"
    for index in range(3):
        assert len({tuple(case.inputs[index].flatten().tolist()) for case in cases}) == 5
    assert all(torch.equal(x, y) for x, y in zip(own(1), cases[1].inputs))
