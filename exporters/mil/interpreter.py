"""Executing a MIL function, operator by operator, with torch on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deploy_kit.exporters.mil import elementwise, pooling, products, quantization, reductions, resizing, shapes
from deploy_kit.exporters.mil.constants import CONSTANTS
from deploy_kit.exporters.mil.registry import OPERATORS, UnsupportedOperatorError
from deploy_kit.parity.reference import one_thread

FAMILIES = (elementwise, pooling, products, quantization, reductions, resizing, shapes)
"""The modules whose operators are in the table."""

HIGHEST_RANK = 5
"""CoreML takes no tensor of a higher rank."""

Value = Tensor | str | list[Tensor]


@torch.no_grad()
@one_thread()
def execute(
    function: Any,
    inputs: Sequence[Tensor],
    *,
    dtype: torch.dtype = torch.float32,
    observe: Callable[[Any, Tensor], None] = lambda variable, value: None,
) -> list[Tensor]:
    """Run a function of a MIL program.

    Args:
        function: a ``coremltools`` ``Function``, as `package.load_package` returns.
        inputs: one tensor an input, in the function's order.
        dtype: of the arithmetic. Whatever it is, a tensor that the program declares as fp16 is rounded to
            fp16 whenever it is stored; sums within an operator are not.
        observe: called with each tensor that an operator makes, and its variable.

    Returns:
        The function's outputs, in order.

    Raises:
        UnsupportedOperatorError: the program uses something that this interpreter does not know.
    """
    values: dict[Any, Value] = {}
    for variable, given in zip(function.inputs.values(), inputs, strict=True):
        values[variable] = _stored(given, variable, dtype)
    for op in function.operations:
        if _is_constant(op):
            values[op.outputs[0]] = _constant(op, dtype)
            continue
        for variable, result in zip(op.outputs, _call(op, values), strict=True):
            value = _stored(result, variable, dtype)
            values[variable] = value
            observe(variable, value)
    outputs = [values[variable] for variable in function.outputs]
    return [output for output in outputs if isinstance(output, Tensor)]


def unknown_operators(function: Any) -> list[str]:
    """The types of operators in a function that the interpreter does not know, sorted."""
    types = {op.op_type for op in function.operations}
    return sorted(types - {"const", *CONSTANTS, *OPERATORS})


def operator_types(function: Any) -> Iterable[str]:
    """The type of every operator in a function that computes something."""
    return (op.op_type for op in function.operations if not _is_constant(op))


def _is_constant(op: Any) -> bool:
    return op.op_type == "const" or op.op_type.startswith("constexpr_")


def _constant(op: Any, dtype: torch.dtype) -> Value:
    if op.op_type != "const":
        return _decompressed(op, dtype)
    value = op.outputs[0].val
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    if array.dtype.kind in "SU":
        return str(value)
    if array.dtype.kind == "f":
        return torch.from_numpy(array.astype(np.float64)).to(dtype)
    if array.dtype.kind == "b":
        return torch.from_numpy(array.copy())
    if array.dtype.kind in "iu":
        return torch.from_numpy(array.astype(np.int64))
    raise UnsupportedOperatorError(f"a constant of type {array.dtype}")


def _decompressed(op: Any, dtype: torch.dtype) -> Tensor:
    if op.op_type not in CONSTANTS:
        raise UnsupportedOperatorError(f"the MIL operator {op.op_type} is not known to the reference interpreter")
    given = {name: variable.val for name, variable in op.inputs.items() if variable is not None}
    if any(value is None for value in given.values()):
        raise UnsupportedOperatorError(f"{op.op_type} {op.name!r}: a constant that is compressed twice")
    dense = np.asarray(CONSTANTS[op.op_type](**given), np.float64)
    return _stored(torch.from_numpy(dense), op.outputs[0], dtype)


def _call(op: Any, values: dict[Any, Value]) -> tuple[Tensor, ...]:
    if op.op_type not in OPERATORS:
        raise UnsupportedOperatorError(f"the MIL operator {op.op_type} is not known to the reference interpreter")
    given = {name: _given(variable, values) for name, variable in op.inputs.items() if variable is not None}
    try:
        result = OPERATORS[op.op_type](**given)
    except UnsupportedOperatorError as error:
        raise UnsupportedOperatorError(f"{op.op_type} {op.name!r}: {error}") from error
    except (TypeError, RuntimeError, KeyError, IndexError, ValueError) as error:
        raise UnsupportedOperatorError(
            f"{op.op_type} {op.name!r} cannot be computed from {', '.join(given)}: {error}"
        ) from error
    return result if isinstance(result, tuple) else (result,)


def _given(variable: Any, values: dict[Any, Value]) -> Value:
    if isinstance(variable, list | tuple):
        items = [values[each] for each in variable]
        return [item for item in items if isinstance(item, Tensor)]
    return values[variable]


def _stored(value: Tensor, variable: Any, dtype: torch.dtype) -> Tensor:
    """A tensor as the program keeps it: of the declared shape, and rounded to the declared type."""
    from coremltools.converters.mil.mil import types

    declared = types.builtin_to_string(variable.dtype)
    if tuple(value.shape) != tuple(variable.shape):
        raise UnsupportedOperatorError(
            f"{variable.name!r} has shape {list(value.shape)}, and the program says {list(variable.shape)}"
        )
    if value.dim() > HIGHEST_RANK:
        raise UnsupportedOperatorError(f"{variable.name!r} has rank {value.dim()}; CoreML takes {HIGHEST_RANK} at most")
    if declared in ("fp16", "fp32") and value.is_floating_point():
        return (value.to(torch.float16) if declared == "fp16" else value).to(dtype)
    if declared == "bool" and value.dtype == torch.bool:
        return value
    if declared.startswith(("int", "uint")) and not (value.is_floating_point() or value.dtype == torch.bool):
        return value.to(torch.int64)
    raise UnsupportedOperatorError(f"{variable.name!r} is declared as {declared} and computed as {value.dtype}")
