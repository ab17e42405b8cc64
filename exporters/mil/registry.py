"""The table of operators that the interpreter knows, and what an operator's function may be given."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from deploy_kit.errors import DeployKitError

Result = Tensor | tuple[Tensor, ...]
Operator = TypeVar("Operator", bound=Callable[..., Result])

OPERATORS: dict[str, Callable[..., Result]] = {}
"""By MIL's name. A function's parameters are the operator's inputs, by MIL's names: tensors, text for
``const str``, a list of tensors for a tuple. Inputs that a program does not give are left out."""


class UnsupportedOperatorError(DeployKitError):
    """The interpreter does not know an operator, or one of the things that it is asked to do."""


def operator(name: str) -> Callable[[Operator], Operator]:
    """Register a function as the meaning of a MIL operator."""

    def register(function: Operator) -> Operator:
        assert name not in OPERATORS
        OPERATORS[name] = function
        return function

    return register


def integers(value: Tensor) -> list[int]:
    """The elements of a tensor of integers, in order."""
    return [int(element) for element in value.flatten().tolist()]


def integer(value: Tensor) -> int:
    """The one element of a tensor of integers."""
    return int(value.item())


def flag(value: Tensor | None) -> bool:
    """The one element of a tensor of truth values; False where none is given."""
    return value is not None and bool(value.item())
