"""Which operators of a program have to stay in float32 when the rest is rounded to fp16."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
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

DIVISORS = {"real_div": "y", "inverse": "x", "log": "x", "rsqrt": "x"}
"""Operators that make something infinite of a zero, and the input that must not be one."""

CARRIERS = ("expand_dims", "reshape", "slice_by_index", "split", "sqrt", "squeeze", "tile", "transpose")
"""Operators whose results are zero where ``x`` is."""


@dataclass(frozen=True)
class Kept:
    """One operator that stays in float32, and the tensor that it reads or makes which is the reason."""

    operator: str
    type: str
    tensor: str
    reason: str


class RangeAudit:
    """An ``op_selector`` for coremltools' ``FP16ComputePrecision``, which measures the program that it is asked about.

    The first question runs the whole program in float32 on ``samples``. Two kinds of operators stay in float32:

    - Those that make or read a tensor whose values, with headroom, go beyond fp16's largest.
    - Those from a scalar that fp16 rounds to zero to a division by what it was added to: hardware that has no
      subnormal numbers would divide by zero, if not on these samples. Tensors that are merely small may pass
      through fp16: what it loses of them was never seen in an output.

    This set is the smallest in the sense that none of them can be spared. A tensor is stored in fp16 if the operator
    that makes it, or one that reads it, computes in fp16; so with any one less, a tensor goes through fp16 that
    overflows there or, of the second kind, that guards a division. Whether an infinity would do harm further on
    is not asked.

    ``kept`` lists them with the reasons, ``expected`` holds the outputs in float32, and ``skipped`` says why
    nothing was measured, where the interpreter does not know the program.
    """

    def __init__(self, samples: Sequence[tuple[Tensor, ...]]):
        self.samples = samples
        self.expected: list[list[Tensor]] = []
        self.skipped: str | None = None
        self._needed: dict[Any, Kept] | None = None

    def __call__(self, op: Any) -> bool:
        """Whether an operator may be computed in fp16."""
        if self._needed is None:
            self._needed = self._measure(op.enclosing_block)
        return op not in self._needed

    @property
    def kept(self) -> list[Kept]:
        """The operators that stay in float32, once the program was measured."""
        return list((self._needed or {}).values())

    def _measure(self, function: Any) -> dict[Any, Kept]:
        """Every operator that needs float32, and why."""
        too_large = self._too_large(function)
        operations = _live(function)
        needed: dict[Any, Kept] = {}
        for op in operations:
            for variable in (*op.get_flattened_inputs(), *op.outputs):
                if variable in too_large and op not in needed:
                    needed[op] = Kept(op.name, op.op_type, variable.name, too_large[variable])
        for op in operations:
            for guarding, guard in _guards(op).items():
                if guarding in operations:
                    needed.setdefault(guarding, guard)
        return needed

    def _too_large(self, function: Any) -> dict[Any, str]:
        """Every tensor that fp16 has no room for, and why; constants need no headroom."""
        largest: dict[Any, float] = {}

        def observe(variable: Any, value: Tensor) -> None:
            if value.is_floating_point() and value.numel():
                finite = torch.where(value.abs() < INFINITE, value.abs(), 0)
                largest[variable] = max(finite.max().item(), largest.get(variable, 0.0))

        try:
            self.expected = [execute(function, sample, observe=observe) for sample in self.samples]
        except UnsupportedOperatorError as error:
            self.skipped = str(error)
        found = {variable: value for variable, value in largest.items() if value * HEADROOM > LARGEST}
        for op in function.operations:
            if op.op_type == "const" and not isinstance(op.outputs[0].val, str):
                value = np.abs(np.asarray(op.outputs[0].val))
                if value.dtype.kind == "f" and value[value < INFINITE].max(initial=0.0) > LARGEST:
                    found[op.outputs[0]] = value[value < INFINITE].max().item()
        return {
            variable: f"values up to {value:.3g}, where fp16 ends at {LARGEST:g}" for variable, value in found.items()
        }


def _live(function: Any) -> list[Any]:
    """The operators that compute something that an output is made of: coremltools leaves others in until the end."""
    used, live = set(function.outputs), []
    for op in reversed(function.operations):
        if not used.isdisjoint(op.outputs):
            live.append(op)
            used.update(op.get_flattened_inputs())
    return [op for op in reversed(live) if op.op_type not in ("const", "cast")]


def _guards(op: Any) -> dict[Any, Kept]:
    """The operators from one with a scalar that fp16 rounds to zero to the divisions that the scalar guards.

    A scalar that is given as ``epsilon``, or divided by, guards the operator itself. One that is added, or a bound,
    guards what divides by the result; without a division there is nothing to guard.
    """
    found: dict[Any, Kept] = {}
    for name, variable in op.inputs.items():
        scalar = _vanishing(variable)
        if scalar is None:
            continue
        inside = name == "epsilon" or name == DIVISORS.get(op.op_type)
        path = [op] if inside else _to_divisions(op.outputs[0], abs(scalar))
        if path is not None:
            reason = f"the constant {scalar:.3g} would be zero in fp16"
            on_path = path if inside else [op, *path]
            found |= {each: Kept(each.name, each.op_type, variable.name, reason) for each in on_path}
    return found


def _to_divisions(variable: Any, least: float) -> list[Any] | None:
    """The readers of a tensor of at least ``least`` that lead to divisions by it, those of them whose input fp16 would
    round to zero; None where nothing divides."""
    paths: list[list[Any]] = []
    for reader in variable.child_ops:
        reads = [reader] if np.float16(least) == 0 else []
        if reader.inputs.get(DIVISORS.get(reader.op_type, "")) is variable:
            paths.append(reads)
        elif reader.op_type in CARRIERS and reader.inputs["x"] is variable:
            carried = math.sqrt(least) if reader.op_type == "sqrt" else least
            further = [_to_divisions(output, carried) for output in reader.outputs]
            paths += [[*reads, *path] for path in further if path is not None]
    return [op for path in paths for op in path] if paths else None


def _vanishing(variable: Any) -> float | None:
    """A constant scalar that would be zero in fp16, and not in float32: MIL's ``log`` has an epsilon of 1e-45."""
    if isinstance(variable, list | tuple) or variable is None or variable.op is None or variable.op.op_type != "const":
        return None
    value = variable.val
    if isinstance(value, str) or np.asarray(value).dtype.kind != "f" or np.size(value) != 1:
        return None
    scalar = float(np.asarray(value).reshape(-1)[0])
    return scalar if abs(scalar) >= np.finfo(np.float32).tiny and np.float16(scalar) == 0 else None


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
