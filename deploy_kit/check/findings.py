"""What a check finds: how a cell differs from the baseline."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from deploy_kit.benchmarks.comparison import Ratio
from deploy_kit.cells.result import CellResult


class Kind(StrEnum):
    """What differs."""

    WORKS_TO_FAILS = "works_to_fails"
    FAILS_TO_WORKS = "fails_to_works"
    """The baseline expects a failure that there is no longer, and has to be told."""
    FAILS_OTHERWISE = "fails_otherwise"
    NEW_CELL = "new_cell"
    """The baseline does not know the cell."""
    GONE_CELL = "gone_cell"
    """The baseline knows a cell that the recipe no longer has."""
    UNDELEGATED = "undelegated"
    SIZE = "size"
    ERROR = "error"
    ACCURACY = "accuracy"
    LATENCY = "latency"
    INSTRUCTIONS = "instructions"
    NOT_COMPARED = "not_compared"
    """Something was to be compared, and could not be."""


class Level(StrEnum):
    """What a finding means: an error fails the check; a warning asks for a look; a note tells."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Finding(_Record):
    """One difference of one cell; ``before`` and ``after`` are the figures or words of it, where it has any."""

    kind: Kind
    level: Level
    cell: str
    message: str
    before: float | str | None = None
    after: float | str | None = None
    fix: str = ""


class Checked(_Record):
    """A cell with its result and what differs; ``cached`` says that nothing it is made of has changed.

    ``artifact`` is the folder that holds it now, None where there is none; ``ratio`` how many times as long it takes
    as the baseline's, where that was measured.
    """

    result: CellResult
    findings: list[Finding]
    key: str
    cached: bool
    artifact: Path | None = None
    ratio: Ratio | None = None


class CheckReport(_Record):
    """A whole check; ``findings`` are those of no cell that was tried, such as one that the recipe no longer has."""

    schema_version: int = 1
    created: str
    """UTC, ISO 8601."""
    commit: str | None
    baseline: str | None
    """The file that the cells were compared with."""
    seconds: float
    cells: list[Checked]
    findings: list[Finding] = []

    @property
    def all_findings(self) -> list[Finding]:
        """Every finding, cell by cell."""
        return [finding for cell in self.cells for finding in cell.findings] + self.findings

    @property
    def passed(self) -> bool:
        """Whether no finding is an error."""
        return all(finding.level != Level.ERROR for finding in self.all_findings)
