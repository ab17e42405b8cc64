"""Running a cell in a process of its own: what crashes or hangs there is a result here."""

from __future__ import annotations

import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy_kit.cells.recipe import CellSpec
from deploy_kit.cells.result import CellResult
from deploy_kit.outcome import Outcome
from deploy_kit.worker import WorkerError, run_worker

WORKER = ("-P", "-m", "deploy_kit.cells.worker")

GRACE = 60
"""Seconds that a cell has to end itself, and what it started, before it is ended."""


def run_cell(
    cell: CellSpec,
    folder: Path,
    *,
    limit: int,
    references: Path | None = None,
    accuracy: Path | None = None,
    instructions: bool = False,
) -> CellResult:
    """Export and prove a cell.

    Args:
        folder: gets the artifact; it is not there yet, and is there afterwards only where the cell works.
        limit: seconds that it may take.
        references: a file that keeps what the model computes, for other cells of the same model.
        accuracy: labelled inputs that the artifact is asked; see `deploy_kit.cells.recipe.Accuracy`.
        instructions: whether ARM instructions of an inference are counted.

    Raises:
        OSError: a disk is full; that is no result of the cell.
    """
    created, start = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    folder.mkdir(parents=True)
    job = {
        "cell": cell.model_dump(mode="json"),
        "folder": str(folder.resolve()),
        "references": references and str(references.resolve()),
        "accuracy": accuracy and str(accuracy.resolve()),
        "instructions": instructions,
        "limit": limit,
    }
    found: dict[str, Any]
    try:
        found = run_worker([sys.executable, *WORKER], job, timeout=limit + GRACE)
    except WorkerError as error:
        outcome = Outcome.TOO_SLOW if time.perf_counter() - start >= limit else Outcome.CRASHED
        found = {"outcome": outcome, "reason": " ".join(str(error).split())}
        shutil.rmtree(folder, ignore_errors=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if found["outcome"] == Outcome.TOO_SLOW:
        found["reason"] = f"not done after {limit} s"
    seconds = time.perf_counter() - start
    return CellResult.model_validate({**found, "cell": cell, "created": created, "seconds": seconds})
