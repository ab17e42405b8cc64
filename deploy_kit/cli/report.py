"""``deploykit report``."""

from __future__ import annotations

import shlex
from inspect import signature
from pathlib import Path
from typing import Annotated

import typer

from deploy_kit.cli.console import format_bytes, print_json, print_line, print_note
from deploy_kit.cli.parameters import Json


def command(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCE]...",
            help="Folders of artifacts, JSON that check, bench, compare or papers wrote, and stores by file or URL; "
            "none is deploykit.db where there is one, else artifacts.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The .html file to write.")] = Path("report.html"),
    json: Json = False,
) -> None:
    """Write what the SOURCEs have as one HTML page: it needs no network, and can be sent as it is.

    The page has the matrix of models, targets and precisions, plots, the Pareto front of what was measured, the
    history of runs, and of each cell its manifest, proof, conditions and the commands that repeat it. A measurement
    that is not valid is shown as such. With --json the same is also printed as data.
    """
    from deploy_kit.cli import export
    from deploy_kit.report.gather import gather
    from deploy_kit.report.page import check_page, render, write_page
    from deploy_kit.report.read import default_sources, read_source

    check_page(out)
    found = [read_source(name) for name in dict.fromkeys(sources or default_sources())]
    words = ["deploykit", "report", *(source.name for source in found), "--out", str(out)]
    page = gather(found, shlex.join(words), set(signature(export.command).parameters))
    written = write_page(out, render(page))
    for note in page.notes:
        print_note(note)
    if json:
        print_json(page)
        return
    print_line(f"{len(page.cells)} cells from {', '.join(source.name for source in found)}")
    print_line(f"written: {out} ({format_bytes(written)})")
