"""How far an artifact's outputs are from the reference; knows no runtime."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from deploy_kit.parity.inputs import Kind
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
    "fp32": Limits(noise_ratio=RATIO_LIMIT, snr_db=20.0, top1=1.0),
    "fp16": Limits(snr_db=40.0, top1=0.8),
    "int8": Limits(snr_db=15.0, top1=0.6),
}
"""The limits of each precision. For float32 the SNR only guards against models whose own result is noise:
ill-conditioned ones in the field keep over 40 dB. A rounding to 11 bits at every layer leaves 50 to 60 dB,
one to 8 bits 20 to 30; what stays below has lost something else."""

NO_NOISE_DB = 999.0
"""The SNR of an output without error: JSON has no infinity."""

EPSILON = torch.finfo(torch.float32).eps


class Comparison(BaseModel):
    """One case's result.

    ``max_relative_error`` is the largest absolute error over the largest absolute value of the
    reference; ``snr_db`` the ratio of the reference's power to the error's; ``noise_ratio`` how many
    times the error exceeds that of eager float32; ``top1_agrees`` is None where outputs are not
    class scores, as those of a model that makes its own inputs. All are of the worst output.
    ``problem`` is set where outputs cannot be compared.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    case: str
    kind: Kind
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


class Floor(BaseModel):
    """How far eager float32 is from float64 in one output, relative to ``scale``: at most, and on average.

    It is the largest over all cases: in a single one, a short output may be right by luck.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: float
    peak: float
    spread: float


def measure_floors(references: Sequence[Reference]) -> list[Floor]:
    """The noise floor of each output, over all cases."""
    floors = []
    for index in range(len(references[0].exact)):
        pairs = [(reference.exact[index], reference.eager[index]) for reference in references]
        wide = [(exact.double(), eager.double()) for exact, eager in pairs if exact.numel()]
        scale = max((_largest(exact) for exact, _ in wide), default=0.0) or 1.0
        errors = [((eager - exact).abs(), _largest(exact) or scale) for exact, eager in wide]
        peak = max((error.max().item() / size for error, size in errors), default=0.0)
        spread = max((_root_mean_square(error) / size for error, size in errors), default=0.0)
        floors.append(Floor(scale=scale, peak=max(peak, EPSILON / 2), spread=max(spread, EPSILON / 4)))
    return floors


def _largest(values: Tensor) -> float:
    return values.abs().max().item()


def _root_mean_square(values: Tensor) -> float:
    return values.square().mean().sqrt().item()


def compare(
    case: str,
    kind: Kind,
    outputs: list[Tensor],
    reference: Reference,
    floors: list[Floor] | None = None,
) -> Comparison:
    """Compare what an artifact returned with what the model computes.

    ``floors`` are of all cases; None measures them on this one alone.
    """
    problem = _structural_problem(outputs, reference.exact)
    if problem is not None:
        return Comparison(case=case, kind=kind, problem=problem)
    floors = measure_floors([reference]) if floors is None else floors
    errors, powers, ratios, agreements = [0.0], [NO_NOISE_DB], [0.0], []
    for output, exact, floor in zip(outputs, reference.exact, floors):
        if not exact.numel():
            continue
        wide, exact = output.double(), exact.double()
        scale = _largest(exact) or floor.scale
        error = (wide - exact).abs()
        errors.append(_largest(error) / scale)
        powers.append(_snr_db(error, exact, scale))
        ratios.append(max(_largest(error) / floor.peak, _root_mean_square(error) / floor.spread) / scale)
        if kind != "seeded":
            agreements.append(_top1_agrees(wide, exact, RATIO_LIMIT * floor.peak * scale))
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
        if exact.is_complex():
            return f"output {index} is complex, which cannot be compared"
        if output.shape != exact.shape:
            return f"output {index} has shape {list(output.shape)} instead of {list(exact.shape)}"
        if not torch.isfinite(output).all() and torch.isfinite(exact).all():
            return f"output {index} holds values that are not finite"
        if not torch.isfinite(exact).all():
            return f"the model itself returns values that are not finite in output {index}"
    return None


def eager_snr_db(reference: Reference) -> float:
    """The SNR of eager float32 itself, of its worst output."""
    pairs = [(x.double(), e.double()) for x, e in zip(reference.exact, reference.eager) if x.numel()]
    return min((_snr_db((e - x).abs(), x, _largest(x) or 1.0) for x, e in pairs), default=NO_NOISE_DB)


def _snr_db(error: Tensor, exact: Tensor, scale: float) -> float:
    """The power of a signal over that of an error; a signal of zeros counts as one of ``scale``."""
    noise = error.square().sum().item()
    signal = exact.square().sum().item() or scale**2 * exact.numel()
    return min(NO_NOISE_DB, 10 * math.log10(signal / noise)) if noise > 0 else NO_NOISE_DB


def _top1_agrees(output: Tensor, exact: Tensor, tie: float) -> bool | None:
    """Whether each row's first class is the reference's, or one whose score is within ``tie`` of it."""
    if exact.dim() != 2 or exact.shape[1] < 2:
        return None
    chosen = exact.gather(1, output.argmax(1, keepdim=True)).squeeze(1)
    return bool((exact.max(1).values - chosen <= tie).all())
