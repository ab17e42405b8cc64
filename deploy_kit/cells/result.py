"""What came of a cell."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from deploy_kit.cells.recipe import CellSpec
from deploy_kit.outcome import Outcome

SCHEMA: Literal[1] = 1
GOOD = (Outcome.OK, Outcome.OK_UNDELEGATED, Outcome.EMITTED_UNVERIFIED)
"""The outcomes of a cell that works."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Score(_Record):
    """How many labelled inputs an artifact has right, of how many."""

    right: int
    total: int


class InstructionCount(_Record):
    """The ARM instructions of one inference, and what the count holds for."""

    count: int
    pins: dict[str, str]


class CellResult(_Record):
    """What came of one export; what is not known is None, and ``unavailable`` says why of what was asked for.

    ``snr_db`` and the errors of an artifact that nothing here can run are those of the file it was made from.
    ``undelegated`` counts the operators that no delegate takes; None for a target that has no such division.
    ``seconds`` are those of the whole cell, ``stages`` of its parts; ``peak_kb`` is the memory that it took.
    """

    schema_version: Literal[1] = SCHEMA
    cell: CellSpec
    outcome: Outcome
    reason: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    snr_db: float | None = None
    noise_ratio: float | None = None
    max_relative_error: float | None = None
    top1_agreement: float | None = None
    operators: dict[str, int] | None = None
    undelegated: dict[str, int] | None = None
    delegated_share: float | None = None
    accuracy: Score | None = None
    instructions: InstructionCount | None = None
    unavailable: dict[str, str] = {}
    toolchain: dict[str, str] = {}
    seconds: float
    stages: dict[str, float] = {}
    peak_kb: int | None = None
    created: str
    """UTC, ISO 8601."""

    @property
    def works(self) -> bool:
        """Whether there is an artifact that may be shipped."""
        return self.outcome in GOOD
