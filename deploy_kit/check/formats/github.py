"""A check as GitHub's annotations: commands in the log of a workflow, which GitHub shows at lines of files."""

from deploy_kit.check.findings import CheckReport, Finding, Level
from deploy_kit.check.formats.common import LEVELS, Places, one_line, places

COMMANDS = {Level.ERROR: "error", Level.WARNING: "warning", Level.NOTE: "notice"}

MOST = 10
"""Annotations of a level that GitHub shows of one step."""


def annotations(report: CheckReport) -> str:
    """The commands, a line each, errors first; the last of a level says how many more there are, where there are."""
    where = places(report)
    lines = []
    for level in LEVELS:
        found = [finding for finding in report.all_findings if finding.level == level]
        shown = found if len(found) <= MOST else found[: MOST - 1]
        lines += [_command(finding, where) for finding in shown]
        if len(found) > len(shown):
            more = f"{len(found) - len(shown)} more of level {level}: see the step's summary or its log"
            lines.append(f"::{COMMANDS[level]} title=deploykit check::{data(more)}")
    return "".join(f"{line}\n" for line in lines)


def _command(finding: Finding, where: Places) -> str:
    title = f"{finding.kind}: {finding.cell}"
    fix = f" What to do: {finding.fix}" if finding.fix else ""
    properties = f"file={value(where.file)},line={where.line(finding.cell)},title={value(one_line(title))}"
    return f"::{COMMANDS[finding.level]} {properties}::{data(one_line(finding.message + fix))}"


def data(text: str) -> str:
    """A command's message, as GitHub's toolkit escapes it."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def value(text: str) -> str:
    """A property of a command, as GitHub's toolkit escapes it."""
    return data(text).replace(":", "%3A").replace(",", "%2C")
