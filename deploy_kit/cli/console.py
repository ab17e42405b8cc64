"""How commands speak: progress and errors on standard error, results on standard output."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from deploy_kit.tables import print_line as print_line
from deploy_kit.tables import print_table as print_table

if TYPE_CHECKING:
    from deploy_kit.errors import DeployKitError
    from deploy_kit.stages import Stages, StageTime


def print_json(result: Any) -> None:
    """Print a result as one JSON document."""
    print(json.dumps(_plain(result), indent=2))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def print_error(error: DeployKitError) -> None:
    """Print what is wrong and how to mend it."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(Text.assemble(("error: ", "bold red"), str(error)))
    if error.fix:
        console.print(Text.assemble(("  fix: ", "bold green"), error.fix))


def print_note(text: str) -> None:
    """Print something that the user should not miss."""
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, soft_wrap=True, highlight=False).print(Text.assemble(("note: ", "bold yellow"), text))


@contextmanager
def show_stages() -> Iterator[Stages]:
    """Stages that are shown as they pass, each with its time; what models print then goes to standard error."""

    from rich.console import Console

    from deploy_kit.stages import Stages

    console = Console(file=sys.stderr, highlight=False)  # this one, also while a stage silences torch
    with redirect_stdout(sys.stderr), console.status("") as status:

        def ended(stage: StageTime) -> None:
            console.print(f"  {stage.seconds:6.1f} s  {stage.name}", markup=False)

        try:
            yield Stages(on_start=lambda name: status.update(f"{name} ..."), on_end=ended)
        except KeyboardInterrupt:  # typer turns it into exit code 130
            print_note("interrupted; nothing was left half-written")
            raise


def format_bytes(size: int) -> str:
    """Bytes as MB (10^6) with one decimal, or kB for small files."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def format_error(value: float | None) -> str | None:
    """An error in two digits."""
    return None if value is None else f"{value:.1e}"


def format_number(value: float | None, digits: int) -> str | None:
    """A number with so many digits after the point."""
    return None if value is None else f"{value:.{digits}f}"


def format_percent(value: float | None) -> str | None:
    """A share as a percentage."""
    return None if value is None else f"{value:.0%}"
