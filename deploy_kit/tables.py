"""Tables and lines for people, on standard output."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

WIDE = 160
"""Columns of a table that is not for a terminal."""


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table for people; None is shown as a dash."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("-" if cell is None else str(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE).print(table)


def print_line(text: str) -> None:
    """Print one line for people, without markup."""
    from rich.console import Console

    Console(soft_wrap=True, highlight=False).print(text, markup=False)
