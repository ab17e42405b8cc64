"""Each message that the troubleshooting page quotes is in the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from tests.docs.support import DOCS, ROOT

PAGE = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^`(.+)`\n: ", PAGE, flags=re.MULTILINE)
HOLE = "\0"


def _text(node: ast.JoinedStr) -> str:
    """The words of an f-string, with a hole for each value."""
    parts = (part.value if isinstance(part, ast.Constant) else HOLE for part in node.values)
    return "".join(str(part) for part in parts)


@cache
def _strings() -> list[str]:
    """Every string of the code."""

    def of(tree: ast.AST) -> Iterator[str]:
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                yield _text(node)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value

    files = [
        file for name in ("deploy_kit", "exporters", "models", "benchmarks") for file in (ROOT / name).rglob("*.py")
    ]
    return [text for file in files for text in of(ast.parse(file.read_text(encoding="utf-8")))]


def _found(message: str) -> bool:
    """Whether a string of the code is what is quoted, or begins so; the code may fill in any part of a value."""
    pattern = re.compile(".+".join(re.escape(part) for part in message.split("...")), re.DOTALL)
    return any(pattern.match(text) for text in _strings())


def test_the_page_quotes_messages() -> None:
    assert len(QUOTED) > 30
    assert len(QUOTED) == len(set(QUOTED)) == len(re.findall(r"^: ", PAGE, flags=re.MULTILINE))


@pytest.mark.parametrize("message", QUOTED)
def test_a_quoted_message_is_in_the_code(message: str) -> None:
    assert len(message.replace("...", "").strip()) >= 8
    assert _found(message)


def test_a_message_that_is_not_in_the_code_would_be_found() -> None:
    assert not _found("the model cannot be printed: ...")
    assert not _found("there is no device attached to fastboot")
