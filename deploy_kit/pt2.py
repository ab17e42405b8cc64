"""Reading a saved ``torch.export`` program without running code that the file may hold.

``torch.export.load`` falls back to unrestricted pickles, evaluates the expressions of dynamic shapes as
Python, and takes an operator's name for a path into ``torch``. Here a file is read only where it
holds tensors, known operators and arithmetic.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram
from torch.export.pt2_archive import PT2ArchiveReader
from torch.utils._sympy import functions

VARIABLE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
FOREIGN_OBJECTS = ("data/aotinductor/", "data/constants/custom_obj_", "data/constants/opaque_obj_")

_OPERATOR = re.compile(
    r"torch\.ops\.(?!load_library|import_module)[A-Za-z]\w*(\.\w+){1,2}"
    r"|torch\._?sym_\w+|math\.trunc"
    r"|_operator\.(getitem|eq|ne|le|ge|lt|gt|neg|pos|mul|add|sub|floordiv|truediv|mod|pow|and_|or_|lshift|rshift)"
)
_ARITHMETIC = {
    *functions.__all__,
    *("Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Abs", "And", "Or", "Not"),
    *("Equality", "Unequality", "LessThan", "StrictLessThan", "GreaterThan", "StrictGreaterThan"),
    *("Eq", "Ne", "Le", "Lt", "Ge", "Gt", "floor", "ceiling"),
}
_SYNTAX = (
    *(ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant),
    *(ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
)
_FREE_TEXT = ("stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "from_node", "custom", "as_string")


class RefusedError(ValueError):
    """A program holds something that could run code; the message says what."""


def load_program(path: Path) -> ExportedProgram:
    """The program in a ``.pt2`` file.

    Raises:
        RefusedError: it holds more than tensors and operators.
        Exception: of many types, where the file is damaged.
    """
    from torch.export.pt2_archive._package import load_pt2  # torch.export.load hides its errors and tries more

    content = io.BytesIO(path.read_bytes())
    _check(PT2ArchiveReader(content))
    content.seek(0)
    with _only_tensors():
        return load_pt2(content).exported_programs["model"]


@contextmanager
def _only_tensors() -> Iterator[None]:
    """Let every ``torch.load`` refuse objects other than tensors, whatever it was told."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "1"
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


def _check(archive: PT2ArchiveReader) -> None:
    names = archive.get_file_names()
    for name in names:
        if name.startswith(FOREIGN_OBJECTS):
            raise RefusedError(f"it holds the object {name}")
        if name.startswith(("models/", "data/")) and name.endswith(".json"):
            for key, text in _strings(json.loads(archive.read_string(name))):
                _check_text(key, text)


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a JSON document with the key that it stands under, and every key."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield "key", name
            yield from _strings(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, key)
    elif isinstance(value, str):
        yield key, value


def _check_text(key: str, text: str) -> None:
    if key == "path_name" and (text.startswith(("custom_obj_", "opaque_obj_")) or ".." in text):
        raise RefusedError(f"it holds the object {text}")
    if key == "target" and ("__" in text or not _OPERATOR.fullmatch(text)):
        raise RefusedError(f"it calls {text!r}, which is no operator")
    if key == "expr_str" and not _is_arithmetic(text):
        raise RefusedError(f"a shape is {text!r}")
    if key in ("in_spec", "out_spec") and ("default_factory" in text or "__enum__" in text):
        raise RefusedError("its inputs or outputs are in containers that import code")
    if key not in ("expr_str", "in_spec", "out_spec", "guards_code", *_FREE_TEXT) and re.search(r"[\"'\\\s();]", text):
        raise RefusedError(f"{key} is {text!r}")


def _is_arithmetic(text: str) -> bool:
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except SyntaxError:
        return False
    strings = [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str | bytes)]
    calls = [node.func for node in nodes if isinstance(node, ast.Call)]
    return (
        all(isinstance(node, _SYNTAX) for node in nodes)
        and all(isinstance(value, str) and value.isidentifier() for value in strings)
        and all(isinstance(func, ast.Name) and func.id in _ARITHMETIC for func in calls)
    )
