"""A check as people read it in a terminal or a log."""

from __future__ import annotations

import io
import re
import sys
from contextlib import redirect_stdout

from deploy_kit.check.findings import CheckReport, Finding
from deploy_kit.check.formats.common import COLUMNS, by_level, figures, headline, one_line
from deploy_kit.tables import print_line, print_table


def write(report: CheckReport) -> str:
    """The tables as a text without colours."""
    return _captured(report, terminal=False)


def show(report: CheckReport) -> None:
    """Print the tables as other commands do: as wide as the terminal, and with its colours."""
    print(_captured(report, terminal=sys.stdout.isatty()), end="")


def _captured(report: CheckReport, *, terminal: bool) -> str:
    class Captured(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    with redirect_stdout(Captured()) as captured:
        _print(report)
    return "".join(_harmless(line) for line in captured.getvalue().splitlines(keepends=True))


def _harmless(line: str) -> str:
    """A line that a CI system reads no command in: GitHub takes those that begin with ``::``, or have ``##[``."""
    without_colours = re.sub(r"\x1b\[[0-9;]*m", "", line)
    line = line.replace("##[", "## [")
    return f". {line.lstrip()}" if without_colours.lstrip().startswith("::") else line


def _print(report: CheckReport) -> None:
    rows = []
    for checked in report.cells:
        cell = checked.result.cell
        kinds = dict.fromkeys(f"{finding.level}: {finding.kind}" for finding in by_level(checked.findings))
        parts = (cell.model, cell.target, cell.precision, *figures(checked), ", ".join(kinds))
        rows.append([one_line(part) or None for part in parts])
    print_table("cells", ["model", "target", "precision", *COLUMNS, "found"], rows)
    for finding in by_level(report.all_findings):
        _print_finding(finding)
    print_line(headline(report))


def _print_finding(finding: Finding) -> None:
    print_line(f"{finding.level}: {one_line(finding.cell)}: {finding.kind}: {one_line(finding.message)}")
    if finding.fix:
        print_line(f"  fix: {one_line(finding.fix)}")
