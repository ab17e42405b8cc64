"""The proof that is attached to an artifact."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from deploy_kit.parity.compare import LIMITS, Comparison, Limits, Precision, compare, eager_snr_db, measure_floors
from deploy_kit.parity.inputs import Case
from deploy_kit.parity.reference import Reference


class Proof(BaseModel):
    """Whether an artifact computes what its model computes, by which runtime, and on what evidence.

    Without ``verified`` nothing here could run the artifact: it has not passed, and has not failed; ``source``
    is then the proof of the file that it was made from, where that could be run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    passed: bool
    verified: bool = True
    verified_by: str
    precision: Precision = "fp32"
    reference: str = "the original model in float64"
    limits: Limits = LIMITS["fp32"]
    failures: list[str]
    cases: list[Comparison]
    diverges_at: str | None = None
    source: Proof | None = None

    @property
    def max_relative_error(self) -> float | None:
        """The largest of any case; None where a case could not be compared."""
        return _worst([case.max_relative_error for case in self.cases])

    @property
    def noise_ratio(self) -> float | None:
        """The largest of any case; None where a case could not be compared."""
        return _worst([case.noise_ratio for case in self.cases])

    @property
    def snr_db(self) -> float | None:
        """The smallest of any case; None where a case could not be compared."""
        return _worst([case.snr_db for case in self.cases], lowest=True)

    @property
    def top1_agreement(self) -> float | None:
        """The share of cases whose first class agrees; None for a model without class scores."""
        agreements = [case.top1_agrees for case in self.cases if case.top1_agrees is not None]
        return sum(agreements) / len(agreements) if agreements else None


def _worst(values: list[float | None], *, lowest: bool = False) -> float | None:
    """The largest of the values, or the smallest; None where one of them is not known."""
    known = [value for value in values if value is not None]
    if not known or len(known) != len(values):
        return None
    return min(known) if lowest else max(known)


def judge(
    cases: Sequence[Case],
    references: Sequence[Reference],
    outputs: Sequence[list[Tensor]],
    verified_by: str,
    precision: Precision = "fp32",
) -> Proof:
    """Compare an artifact's outputs with the references, case by case, by the limits of its precision."""
    limits = LIMITS[precision]
    floors = measure_floors(references)
    comparisons = [
        compare(case.name, case.kind, got, reference, floors)
        for case, reference, got in zip(cases, references, outputs)
    ]
    failures = [failure for comparison in comparisons if (failure := comparison.failure(limits))]
    if len(outputs) != len(cases):
        failures.append(f"{len(outputs)} results for {len(cases)} cases")
    failures += [reason] if (reason := unprovable(references, limits)) else []
    proof = Proof(
        passed=not failures,
        verified_by=verified_by,
        precision=precision,
        limits=limits,
        failures=failures,
        cases=comparisons,
    )
    agreement = proof.top1_agreement
    if limits.top1 is None or agreement is None or agreement >= limits.top1 or failures:
        return proof
    reason = f"the first class agrees in {agreement:.0%} of the cases, under the limit of {limits.top1:.0%}"
    return proof.model_copy(update={"passed": False, "failures": [reason]})


def unverified(verified_by: str, precision: Precision, reason: str | None, source: Proof | None = None) -> Proof:
    """The proof of an artifact that nothing here can run, with the reason, and its source's proof if there is one."""
    return Proof(
        passed=False,
        verified=False,
        verified_by=verified_by,
        precision=precision,
        limits=LIMITS[precision],
        failures=[] if reason is None else [reason],
        cases=[],
        source=source,
    )


def unprovable(references: Sequence[Reference], limits: Limits) -> str | None:
    """Why no artifact of a model can be proven, whatever it returns; None where one can."""
    if not _depends_on_input(references):
        return "the model's outputs do not depend on its inputs, so agreement proves nothing; load its weights"
    snr_db = min(eager_snr_db(reference) for reference in references)
    if limits.snr_db is not None and snr_db < limits.snr_db:
        return (
            f"the model's own float32 is only {snr_db:.0f} dB from its float64, under the {limits.snr_db:g} dB "
            "that a proof needs: its result is rounding noise"
        )
    return None


def _depends_on_input(references: Sequence[Reference]) -> bool:
    """Whether float32 can tell two cases apart by some output."""
    first = references[0].exact
    return any(
        a.shape == b.shape and a.numel() > 0 and ((a - b).abs().max() > 1e-4 * max(_largest(a), _largest(b))).item()
        for other in references[1:]
        for a, b in zip(_wide(first), _wide(other.exact))
    )


def _wide(outputs: list[Tensor]) -> list[Tensor]:
    return [output if output.is_complex() else output.double() for output in outputs]


def _largest(values: Tensor) -> float:
    return values.abs().max().item()
