"""What the formats share. Words that came from models, runtimes and their errors are nobody's to trust."""

from __future__ import annotations

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from deploy_kit.cells.recipe import DEFAULT_RECIPE
from deploy_kit.check.findings import Checked, CheckReport, Finding, Kind, Level

LEVELS = (Level.ERROR, Level.WARNING, Level.NOTE)

EXPLAINED: dict[Kind, str] = {
    Kind.WORKS_TO_FAILS: "A cell that worked no longer does, or can no longer be tried.",
    Kind.FAILS_TO_WORKS: "A cell that was expected to fail works: the baseline must be updated.",
    Kind.FAILS_OTHERWISE: "A cell that was expected to fail does so in another way.",
    Kind.NEW_CELL: "A cell is not in the baseline.",
    Kind.GONE_CELL: "A cell of the baseline is no longer in the recipe.",
    Kind.UNDELEGATED: "Operators are no longer taken by the accelerated part of the runtime.",
    Kind.SIZE: "The files of an artifact have another size.",
    Kind.ERROR: "An artifact is further from its model than before.",
    Kind.ACCURACY: "An artifact has fewer labelled inputs right than before.",
    Kind.LATENCY: "An inference takes another time than the baseline's artifact, run in turn.",
    Kind.INSTRUCTIONS: "An inference is another number of ARM instructions.",
    Kind.NOT_COMPARED: "Something was to be compared, and could not be.",
}
"""What a kind of finding is."""


def one_line(text: str) -> str:
    """Words on one line, without characters that move a cursor, change a direction or cannot be seen."""
    plain = "".join(" " if unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zl", "Zp") else each for each in text)
    return " ".join(plain.split())


def by_level(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first, then warnings, then notes."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def counted(count: int, word: str) -> str:
    """A number with its word."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def headline(report: CheckReport) -> str:
    """How a check ended, in a line."""
    levels = Counter(finding.level for finding in report.all_findings)
    found = ", ".join(counted(levels[level], level) for level in LEVELS if levels[level]) or "no differences"
    cached = sum(checked.cached for checked in report.cells)
    unchanged = f", {cached} of them unchanged" if cached else ""
    against = f", against {one_line(report.baseline)}" if report.baseline else ", without a baseline"
    cells = counted(len(report.cells), "cell")
    return f"{'passed' if report.passed else 'failed'}: {found} in {cells}{unchanged}{against}, {report.seconds:.1f} s"


def figures(checked: Checked) -> list[str]:
    """The figures of a cell, as `COLUMNS` has them; an empty text for what is not known."""
    result = checked.result
    noise, snr = result.noise_ratio, result.snr_db
    if result.cell.precision == "fp32":
        error = "" if noise is None else f"{noise:.1f} x"
    else:
        error = "" if snr is None else f"{snr:.1f} dB"
    accuracy = "" if result.accuracy is None else f"{result.accuracy.right}/{result.accuracy.total}"
    undelegated = "" if result.undelegated is None else str(sum(result.undelegated.values()))
    return [
        str(result.outcome),
        "" if result.bytes is None else f"{result.bytes:,}",
        error,
        undelegated,
        accuracy,
        "" if checked.ratio is None else f"{checked.ratio.estimate:.3f}",
        "" if result.instructions is None else f"{result.instructions.count:,}",
        "cached" if checked.cached else f"{result.seconds:.1f}",
    ]


COLUMNS = ("outcome", "bytes", "error", "undelegated", "right", "times as long", "instructions", "seconds")


@dataclass(frozen=True)
class Places:
    """Where a cell is written down: a file of the repository, and the line in it."""

    file: str
    lines: dict[str, int]

    def line(self, cell: str) -> int:
        """The line of a cell; the first where it is in none."""
        return self.lines.get(cell, 1)


def places(report: CheckReport) -> Places:
    """Where each cell of a check is: in the baseline, or, where there is none, in a recipe of the usual name."""
    file = Path(report.baseline) if report.baseline else DEFAULT_RECIPE
    lines: dict[str, int] = {}
    cells = [checked.result.cell.id for checked in report.cells] + [finding.cell for finding in report.findings]
    wanted = {f"{json.dumps(cell, ensure_ascii=False)}: {{": cell for cell in cells}
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        text = ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() in wanted:
            lines[wanted[line.strip()]] = number
    return Places(_in_repository(file), lines)


def _in_repository(file: Path) -> str:
    """A path from the root of the checkout, as CI names files; as it is where it is elsewhere."""
    root = Path(os.environ.get("GITHUB_WORKSPACE") or Path.cwd()).resolve()
    whole = file.resolve()
    return (whole.relative_to(root) if whole.is_relative_to(root) else file).as_posix()
