"""How far an artifact's outputs are from the reference; knows no runtime."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from deploy_kit.parity.reference import Reference

RATIO_LIMIT = 20.0
"""A float32 artifact may be this many times as far from float64 as eager float32 is."""

Precision = Literal["fp32", "fp16", "int8"]


class Limits(BaseModel):
    """What a proof demands: at most a ratio to float32's own error, at least an SNR in dB, and a share of
    cases whose first class agrees; None demands nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    noise_ratio: float | None = None
    snr_db: float | None = None
    top1: float | None = None


LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(noise_ratio=RATIO_LIMIT, top1=1.0),
    "fp16": Limits(snr_db=40.0, top1=0.8),
    "int8": Limits(snr_db=15.0, top1=0.6),
}
"""The limits of each precision. A rounding to 11 bits at every layer leaves 50 to 60 dB, one to 8 bits
20 to 30; what stays below has lost something else."""

EPSILON = torch.finfo(torch.float32).eps


class Comparison(BaseModel):
    """One case's result.

    ``max_relative_error`` is the largest absolute error over the largest absolute value of the
    reference; ``snr_db`` the ratio of the reference's power to the error's; ``noise_ratio`` how many
    times the error exceeds that of eager float32; ``top1_agrees`` is None where outputs are not
    class scores. All are of the worst output. ``problem`` is set where outputs cannot be compared.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    case: str
    kind: Literal["noise", "photograph"]
    max_relative_error: float | None = None
    snr_db: float | None = None
    noise_ratio: float | None = None
    top1_agrees: bool | None = None
    problem: str | None = None

    def failure(self, limits: Limits = LIMITS["fp32"]) -> str | None:
        """Why this case alone fails a proof with these limits; None where it passes."""
        if self.problem is not None:
            return f"{self.case}: {self.problem}"
        assert self.noise_ratio is not None
        assert self.snr_db is not None
        if limits.noise_ratio is not None and not self.noise_ratio <= limits.noise_ratio:
            times = f"{self.noise_ratio:.3g} times float32's own"
            return f"{self.case}: the error is {times}, over the limit of {limits.noise_ratio:g}"
        if limits.snr_db is not None and not self.snr_db >= limits.snr_db:
            return f"{self.case}: the SNR is {self.snr_db:.1f} dB, under the limit of {limits.snr_db:g}"
        if limits.top1 == 1 and self.top1_agrees is False:
            return f"{self.case}: the first class differs from the model's"
        return None


def compare(case: str, kind: Literal["noise", "photograph"], outputs: list[Tensor], reference: Reference) -> Comparison:
    """Compare what an artifact returned with what the model computes."""
    problem = _structural_problem(outputs, reference.exact)
    if problem is not None:
        return Comparison(case=case, kind=kind, problem=problem)
    errors, powers, ratios, agreements = [], [], [], []
    for output, exact, eager in zip(outputs, reference.exact, reference.eager):
        wide = output.double()
        scale = exact.abs().max().item() or 1.0
        errors.append((wide - exact).abs().max().item() / scale)
        powers.append(_snr_db(wide, exact))
        ratios.append(_noise_ratio(wide, exact, eager.double(), scale))
        agreements.append(_top1_agrees(wide, exact, eager.double()))
    scores = [agrees for agrees in agreements if agrees is not None]
    return Comparison(
        case=case,
        kind=kind,
        max_relative_error=max(errors),
        snr_db=min(powers),
        noise_ratio=max(ratios),
        top1_agrees=all(scores) if scores else None,
    )


def _structural_problem(outputs: list[Tensor], expected: list[Tensor]) -> str | None:
    if len(outputs) != len(expected):
        return f"{len(outputs)} outputs instead of {len(expected)}"
    for index, (output, exact) in enumerate(zip(outputs, expected)):
        if output.shape != exact.shape:
            return f"output {index} has shape {list(output.shape)} instead of {list(exact.shape)}"
        if not torch.isfinite(output).all() and torch.isfinite(exact).all():
            return f"output {index} holds values that are not finite"
        if not torch.isfinite(exact).all():
            return f"the model itself returns values that are not finite in output {index}"
    return None


def _snr_db(output: Tensor, exact: Tensor) -> float:
    noise = (output - exact).square().sum().item()
    signal = exact.square().sum().item()
    if noise == 0:
        return 999.0  # JSON has no infinity
    return 10 * math.log10(signal / noise) if signal > 0 else -999.0


def _noise_ratio(output: Tensor, exact: Tensor, eager: Tensor, scale: float) -> float:
    """The larger of two ratios, of largest errors and of root mean squares, to eager float32's.

    The floor is at least half a unit in the last place, which a correct rounding may cost.
    """
    error, floor = output - exact, eager - exact
    least = EPSILON * scale / 2
    peak = error.abs().max().item() / max(floor.abs().max().item(), least)
    spread = error.square().mean().sqrt().item() / max(floor.square().mean().sqrt().item(), least / 2)
    return max(peak, spread)


def _top1_agrees(output: Tensor, exact: Tensor, eager: Tensor) -> bool | None:
    """Whether each row's first class is the reference's, or ties with it within float32's noise."""
    if exact.dim() != 2 or exact.shape[1] < 2:
        return None
    tie = RATIO_LIMIT * (eager - exact).abs().max()
    chosen = exact.gather(1, output.argmax(1, keepdim=True)).squeeze(1)
    return bool((exact.max(1).values - chosen <= tie).all())
