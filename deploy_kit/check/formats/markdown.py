"""A check as Markdown, for GitHub's step summary or a comment on a pull request."""

from __future__ import annotations

import re
from collections.abc import Sequence

from deploy_kit.benchmarks.markdown import table_of
from deploy_kit.check.findings import CheckReport, Finding, Level
from deploy_kit.check.formats.common import COLUMNS, LEVELS, counted, figures, headline, one_line

LONGEST = 60_000
"""Characters; a comment has at most 65,536."""


def write(report: CheckReport) -> str:
    """The text, errors first. Where all is too long, the table of cells is left out, and then the last findings."""
    full = _text(report, report.all_findings, cells=True)
    if len(full) <= LONGEST:
        return full
    findings = sorted(report.all_findings, key=lambda finding: LEVELS.index(finding.level))
    most = len(findings)
    while len(short := _text(report, findings[:most], cells=False)) > LONGEST and most:
        most = most * 3 // 4
    left = len(findings) - most
    return short + (f"\n{counted(left, 'finding')} more: see the log, or `--format json`.\n" if left else "")


def _text(report: CheckReport, findings: Sequence[Finding], *, cells: bool) -> str:
    state, _, rest = headline(report).partition(": ")
    parts = [f"## deploykit check {state}", escaped(rest)]
    for level, title in zip(LEVELS, ("Errors", "Warnings", "Notes")):
        found = [finding for finding in findings if finding.level == level]
        rows = [[escaped(each.cell), str(each.kind), escaped(each.message), escaped(each.fix)] for each in found]
        table = table_of(["cell", "kind", "what differs", "what to do"], rows)
        if found and level == Level.NOTE:
            parts.append(_folded(counted(len(found), "note"), table))
        elif found:
            parts.append(f"### {title}\n\n{table}")
    if cells and report.cells:
        rows = [[escaped(word) for word in (each.result.cell.id, *figures(each))] for each in report.cells]
        parts.append(_folded(f"all {counted(len(rows), 'cell')}", table_of(["cell", *COLUMNS], rows)))
    return "\n\n".join(parts) + "\n"


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def escaped(text: str) -> str:
    """Words in which Markdown, HTML and GitHub find nothing to show otherwise, link to or notify."""
    words = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    words = re.sub(r"([\\`*_\[\]|~$:])", r"\\\1", words)
    words = re.sub(r"(?i)\b(www)\.", r"\1\\.", words)
    return re.sub(r"(@|#|\bGH-)(?=\w)", r"\1&#8203;", words)
