"""The pages of the documentation, and the blocks of code in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))

FENCE = re.compile(r"^(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=fence)[ ]*$", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"^(?:#|//) ([\w.-]+\.(?:py|toml|java|swift|txt))\n")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page; ``name`` is the file that its first line says it is."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str | None:
        found = NAME.match(self.text)
        return found and found[1]

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Line:
    """One command of a shell block: what to type, and the exit code that its comment says it ends with."""

    block: Block
    text: str
    code: int = 0


def blocks(page: Path, *languages: str) -> list[Block]:
    """The blocks of a page in these languages, in order; all of them where none is named."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(page, text.count("\n", 0, match.start()) + 1, match["language"].strip(), match["text"])
        for match in FENCE.finditer(text)
    ]
    return [block for block in found if not languages or block.language in languages]


def lines(block: Block) -> list[Line]:
    """The commands of a block: all lines of ``sh``, those after a prompt of ``console``."""
    text = block.text.replace("\\\n", " ")
    if block.language == "console":
        text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("$ "))
    found = []
    for line in text.splitlines():
        command, _, comment = line.partition(" #") if not line.startswith("#") else ("", "", line)
        code = re.search(r"exit code (\d+)", comment)
        if command.strip():
            found.append(Line(block, command.strip(), int(code[1]) if code else 0))
    return found


def commands(line: Line) -> Iterator[list[str]]:
    """The words of each program that a line starts, without what is set for it and where its output goes."""
    lexer = shlex.shlex(line.text, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    skip = False
    for word in [*lexer, ";"]:
        if set(word) <= set("|&;"):
            if words:
                yield words
            words = []
        elif set(word) <= set("<>"):
            skip = True
        elif skip:
            skip = False
        elif words or not re.match(r"\w+=", word):
            words.append(word)
