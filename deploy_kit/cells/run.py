"""Running a cell in a process of its own: what crashes or hangs there is a result here."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy_kit.cells.recipe import CellSpec
from deploy_kit.cells.result import GOOD, CellResult
from deploy_kit.outcome import Outcome
from deploy_kit.worker import WorkerError, run_worker

WORKER = ("-P", "-m", "deploy_kit.cells.start")

GRACE = 60
"""Seconds that a cell has to end itself, and what it started, before it is ended."""


class StoppedError(Exception):
    """A cell was ended because of `Stop`; nothing is known of it."""


class Stop:
    """Ends all cells that are at work with it, from another thread, and lets none begin."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._lock = threading.Lock()
        self._groups: set[Path] = set()

    def ask(self) -> None:
        """End them; returns when they have ended."""
        self._asked.set()
        while True:
            with self._lock:
                groups = list(self._groups)
            if not groups:
                return
            for file in groups:
                with suppress(OSError):  # it has not begun, or has ended
                    os.killpg(int(file.read_text()), signal.SIGKILL)
            time.sleep(0.05)

    @contextmanager
    def at_work(self, group: Path) -> Iterator[None]:
        """A cell works in the body, in the process group that a file will have; `StoppedError` where it is not to."""
        with self._lock:
            self._groups.add(group)
        try:
            if self._asked.is_set():
                raise StoppedError
            yield
            if self._asked.is_set():
                raise StoppedError
        finally:
            with self._lock:
                self._groups.discard(group)


def run_cell(
    cell: CellSpec,
    folder: Path,
    *,
    limit: int,
    references: Path | None = None,
    accuracy: Path | None = None,
    instructions: bool = False,
    stop: Stop | None = None,
    scratch: Path | None = None,
) -> CellResult:
    """Export and prove a cell.

    Args:
        folder: gets the artifact; it is not there yet, and is there afterwards only where the cell works.
        limit: seconds that it may take.
        references: a file that keeps what the model computes, for other cells of the same model.
        accuracy: labelled inputs that the artifact is asked; see `deploy_kit.cells.recipe.Accuracy`.
        instructions: whether ARM instructions of an inference are counted.
        stop: what may end it from another thread.
        scratch: a folder for its temporary files; None is the system's.

    Raises:
        OSError: a disk is full; that is no result of the cell.
        StoppedError: ``stop`` was asked to end it.
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
    try:
        found = _work(job, limit, start, stop or Stop(), scratch)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if found["outcome"] not in GOOD:
        shutil.rmtree(folder, ignore_errors=True)
    if found["outcome"] == Outcome.TOO_SLOW:
        found["reason"] = f"not done after {limit} s"
    seconds = time.perf_counter() - start
    return CellResult.model_validate({**found, "cell": cell, "created": created, "seconds": seconds})


def _work(job: dict[str, Any], limit: int, start: float, stop: Stop, place: Path | None) -> dict[str, Any]:
    """What the worker says of a job; its temporary files go, however it ends."""
    with tempfile.TemporaryDirectory(prefix="deploykit-", dir=place, ignore_cleanup_errors=True) as scratch:
        group = Path(scratch, "group")
        job["group"] = str(group)
        with stop.at_work(group):
            try:
                variables, words = {"TMPDIR": scratch}, [sys.executable, *WORKER]
                return run_worker(words, job, timeout=limit + GRACE, environment=variables, scratch=Path(scratch))
            except WorkerError as error:
                outcome = Outcome.TOO_SLOW if time.perf_counter() - start >= limit else Outcome.CRASHED
                return {"outcome": outcome, "reason": " ".join(str(error).split())}
