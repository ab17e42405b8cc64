"""What a check found, written for people and for programs."""

from __future__ import annotations

from collections.abc import Callable

from deploy_kit.check.findings import CheckReport
from deploy_kit.check.formats import document, junit, markdown, sarif, table
from deploy_kit.errors import unknown_name

FORMATS: dict[str, Callable[[CheckReport], str]] = {
    "table": table.write,
    "json": document.write,
    "junit": junit.write,
    "markdown": markdown.write,
    "sarif": sarif.write,
}


def write(report: CheckReport, format: str) -> str:
    """A check as a text in a format of `FORMATS`, which ends with a new line; `UserError` for another one."""
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    return FORMATS[format](report)
