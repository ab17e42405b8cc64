"""The proof that is attached to an artifact."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from deploy_kit.parity.compare import LIMITS, Comparison, Limits, Precision, compare
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
    comparisons = [
        compare(case.name, case.kind, got, reference) for case, reference, got in zip(cases, references, outputs)
    ]
    failures = [failure for comparison in comparisons if (failure := comparison.failure(limits))]
    if len(outputs) != len(cases):
        failures.append(f"{len(outputs)} results for {len(cases)} cases")
    if not _depends_on_input(references):
        failures.append(
            "the model's outputs do not depend on its inputs, so agreement proves nothing; load its weights"
        )
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


def _depends_on_input(references: Sequence[Reference]) -> bool:
    """Whether float32 can tell the first two cases apart by some output."""
    if len(references) < 2:
        return False
    pairs = zip(references[0].exact, references[1].exact)
    return any(((a - b).abs().max() > 1e-4 * a.abs().max()).item() for a, b in pairs if a.shape == b.shape)
