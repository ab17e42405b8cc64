"""What a run of checks or of a sweep keeps of a cell."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from deploy_kit.benchmarks.measurement import Measurement
from deploy_kit.cells.result import CellResult


class Entry(BaseModel):
    """A cell's result in a run, and what was measured of its artifact.

    ``commit`` is that of the work tree, where there is one; ``artifact`` is the folder that the artifact is in on
    ``host``, where it was kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    kind: Literal["check", "sweep"]
    created: str
    """UTC, ISO 8601."""
    commit: str | None
    host: str
    result: CellResult
    measurements: list[Measurement] = []
    failures: dict[str, str] = {}
    """Of each device that could not measure it, why."""
    artifact: str | None = None
