"""The operators that a ``.ptl`` file calls, in order, and which of them made the values that each is given."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

OLDEST = 6
"""The bytecode's version that can be read."""

INPUT = -1
"""Stands for the model's inputs among the calls that make values."""

Value = int | tuple[Any, ...] | None
"""What a register holds: the index of the call that made it or `INPUT`, several of them, or None for a constant."""


@dataclass(frozen=True)
class Call:
    """A call of an operator: its name, and the calls that made its inputs, in order, constants left out."""

    operator: str
    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Code:
    """A file's calls in order, and those that made its results, in order."""

    calls: list[Call]
    results: tuple[int, ...]


class UnknownCodeError(Exception):
    """A file's code is none that can be followed: it branches, or is of another version."""


def read_code(file: Path) -> Code:
    """What a ``.ptl`` file does, without running it.

    Raises:
        UnknownCodeError: it branches, or is not written as expected.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("/bytecode.pkl"))
            version, *functions = _Reader(io.BytesIO(archive.read(name))).load()
        if version < OLDEST:
            raise ValueError(f"which is of version {version}, and tells how many inputs a call has from {OLDEST} on")
        (body,) = (dict(function[1]) for function in functions if function[0].endswith(".forward"))
        _, _, given = body["instructions"][0]  # which stores the model itself and its inputs
        machine = _Machine(body["operators"], stack=[None, *[INPUT] * (given - 1)])
        for name, first, second in body["instructions"]:
            machine.step(name, first, second)
    except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError) as error:
        raise UnknownCodeError(str(error)) from error
    return Code(machine.calls, tuple(_flat(machine.stack)))


class _Opaque:
    """Any object of the file: what it is makes no difference here, and nothing of it is run."""

    def __new__(cls, *args: Any) -> _Opaque:
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _Opaque

    def persistent_load(self, pid: Any) -> None:
        return None


@dataclass
class _Machine:
    """The interpreter's stack and registers, with the makers of values for values."""

    operators: Sequence[Sequence[Any]]
    calls: list[Call] = field(default_factory=list)
    stack: list[Value] = field(default_factory=list)
    registers: dict[int, Value] = field(default_factory=dict)

    def step(self, name: str, first: int, second: int) -> None:
        """Do one instruction, given with its two numbers."""
        if name == "STOREN":
            self.registers |= {first + index: value for index, value in enumerate(self._pop(second))}
        elif name == "STORE":
            self.registers[first] = self.stack.pop()
        elif name in ("LOAD", "MOVE"):
            self.stack.append(self.registers[first])
        elif name == "LOADC":
            self.stack.append(None)
        elif name == "GET_ATTR":
            self.stack[-1] = None
        elif name == "DROP":
            self.stack.pop()
        elif name in ("OP", "OPN"):
            operator, overload, count = self.operators[first]
            self._call(operator, overload, second if name == "OPN" else count)
        elif name in ("LIST_CONSTRUCT", "NAMED_TUPLE_CONSTRUCT", "DICT_CONSTRUCT"):
            self.stack.append(tuple(self._pop(second)))
        elif name == "TUPLE_CONSTRUCT":
            self.stack.append(tuple(self._pop(first)))
        elif name == "LIST_UNPACK":
            made = self.stack.pop()
            self.stack += made if isinstance(made, tuple) else [made] * first
        elif name not in ("DROPR", "RET"):
            raise ValueError(f"which has the instruction {name}")

    def _pop(self, count: int) -> list[Value]:
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def _call(self, name: str, overload: str, count: int) -> None:
        inputs = tuple(_flat(self._pop(count)))
        self.stack += [len(self.calls) if inputs else None] * _returns(name, overload)
        self.calls.append(Call(name, inputs))


def _flat(values: Sequence[Value]) -> Iterator[int]:
    """The makers of values, without constants."""
    for value in values:
        if isinstance(value, tuple):
            yield from _flat(value)
        elif value is not None:
            yield value


def _returns(name: str, overload: str) -> int:
    """How many values an operator returns; those that this torch does not have, such as the prepacked, return one."""
    try:
        return len(torch._C._get_schema(name, overload).returns)
    except RuntimeError:
        return 1
