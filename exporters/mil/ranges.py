"""Which operators of a program have to stay in float32 when the rest is rounded to fp16."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deploy_kit.exporters.mil.interpreter import execute
from deploy_kit.exporters.mil.registry import UnsupportedOperatorError

LARGEST = 65504.0
"""The largest number that fp16 has."""

HEADROOM = 2.0
"""Inputs that the audit has not seen may be this many times as large as those that it has."""

INFINITE = 1e38
"""Larger constants stand for infinity, such as those of attention masks, and may become it."""


@dataclass(frozen=True)
class Kept:
    """One operator that stays in float32, and the tensor that it reads or makes which is the reason."""

    operator: str
    type: str
    tensor: str
    reason: str


class RangeAudit:
    """An ``op_selector`` for coremltools' ``FP16ComputePrecision``, which measures the program that it is asked about.

    The first question runs the whole program in float32 on ``samples``. A tensor needs float32 if its values,
    with headroom, go beyond fp16's largest, or if it was computed with a constant that fp16 rounds to zero.
    Operators that make or read such a tensor stay in float32: with one of them less, the tensor would pass
    through fp16. Tensors that are merely small may: what fp16 loses of them was never seen in an output.

    ``kept`` lists them, ``expected`` holds the outputs in float32, and ``skipped`` says why nothing was
    measured, where the interpreter does not know the program.
    """

    def __init__(self, samples: Sequence[tuple[Tensor, ...]]):
        self.samples = samples
        self.kept: list[Kept] = []
        self.expected: list[list[Tensor]] = []
        self.skipped: str | None = None
        self._reasons: dict[Any, str] | None = None

    def __call__(self, op: Any) -> bool:
        """Whether an operator may be computed in fp16."""
        if self._reasons is None:
            self._reasons = self._measure(op.enclosing_block)
        for variable in (*op.get_flattened_inputs(), *op.outputs):
            if op.op_type != "const" and variable in self._reasons:
                self.kept.append(Kept(op.name, op.op_type, variable.name, self._reasons[variable]))
                return False
        return True

    def _measure(self, function: Any) -> dict[Any, str]:
        """Every variable that needs float32, and why."""
        largest: dict[Any, float] = {}

        def observe(variable: Any, value: Tensor) -> None:
            if value.is_floating_point() and value.numel():
                finite = torch.where(value.abs() < INFINITE, value.abs(), 0)
                largest[variable] = max(finite.max().item(), largest.get(variable, 0.0))

        try:
            self.expected = [execute(function, sample, observe=observe) for sample in self.samples]
        except UnsupportedOperatorError as error:
            self.skipped = str(error)
        reasons = {
            variable: f"values up to {value:.3g}, where fp16 ends at {LARGEST:g}"
            for variable, value in largest.items()
            if value * HEADROOM > LARGEST
        }
        for op in function.operations:
            constant = _vanishing_constant(op)
            if constant is not None:
                reasons.update({variable: constant for variable in op.outputs if variable not in reasons})
        return reasons


def _vanishing_constant(op: Any) -> str | None:
    """Why an operator's result needs float32 where one of its scalars is not zero and would become zero."""
    if op.op_type in ("const", "cast"):
        return None
    for variable in op.get_flattened_inputs():
        if variable.op is None or variable.op.op_type != "const" or variable.val is None:
            continue
        value = torch.as_tensor(variable.val) if not isinstance(variable.val, str) else torch.zeros(0)
        if value.is_floating_point() and value.numel() == 1 and value.item() != 0 and value.half().item() == 0:
            return f"the constant {value.item():.3g} would be zero in fp16"
    return None


def worst_snr_db(expected: Sequence[Sequence[Tensor]], outputs: Sequence[Sequence[Tensor]]) -> float:
    """How far outputs are from those that are expected, on the worst sample, in decibels."""
    return min(
        _snr_db(exact.double(), other.double())
        for case, others in zip(expected, outputs, strict=True)
        for exact, other in zip(case, others, strict=True)
    )


def _snr_db(exact: Tensor, rounded: Tensor) -> float:
    noise = (rounded - exact).square().sum().item()
    if noise == 0:
        return 999.0
    ratio = exact.square().sum().item() / noise
    return 10 * math.log10(ratio) if ratio > 0 else -999.0  # also where the noise is infinite or not a number
