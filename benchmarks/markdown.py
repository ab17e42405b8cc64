"""Tables in Markdown that a command writes into a page of the docs, between two lines that mark their place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from deploy_kit.errors import UserError


def place(name: str) -> str:
    """The two lines between which the table called ``name`` goes, for a new page."""
    return "\n".join(_markers(name))


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def filled(page: Path, name: str, new: str, table: str) -> str:
    """The text of ``page``, or ``new`` where there is none, with ``table`` in its place; what stands around it stays.

    Raises:
        UserError: the page has no place for it.
    """
    text = page.read_text(encoding="utf-8") if page.is_file() else new
    first, last = _markers(name)
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise UserError(f"{str(page)!r} has no line {first} before one {last}", fix="write them where the table goes")
    return f"{before}{begin}\n{table}\n{end}{after}"


def check_folder(docs: Path) -> None:
    """Raise `UserError` where the folder of the docs is not there."""
    if not docs.is_dir():
        raise UserError(f"there is no folder {str(docs)!r}", fix="run in the repository, or name a folder with --docs")


def table_of(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; an empty string is an empty cell."""
    return "\n".join(_line(words) for words in (columns, ["---"] * len(columns), *rows))


def _line(words: Iterable[str]) -> str:
    return f"| {' | '.join(words)} |"
