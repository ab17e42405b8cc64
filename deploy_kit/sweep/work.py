"""The two kinds of work of a sweep, each done in a process of its own: what crashes or hangs there is a result."""

from __future__ import annotations

import dataclasses
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from deploy_kit.benchmarks.measurement import Measurement
from deploy_kit.cells.recipe import Bench, CellSpec, Recipe
from deploy_kit.cells.result import CellResult
from deploy_kit.cells.run import run_cell
from deploy_kit.sources import artifact_name
from deploy_kit.sweep.store import Key
from deploy_kit.worker import WorkerError, run_worker

MEASURE = ("-P", "-m", "deploy_kit.sweep.measure")

ROUND_S = 1800
"""Seconds that a round may take, as a runner has them, before it is thought to hang."""

COOL_S = 300
"""Seconds that a round may wait for a warm device."""

OF_THIS_MACHINE = ("local", "qemu")
"""Kinds of devices that are this machine: nothing else may be at work on it while one is measured."""


class BenchResult(BaseModel):
    """What came of a measurement: it counts (``measured``), or does not (``invalid``), or there is none.

    ``unavailable`` is one that no runner can make on such a device, ``failed`` one that went wrong; ``failure`` says
    why, also of a measurement whose outputs were wrong.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    outcome: Literal["measured", "invalid", "failed", "unavailable"]
    measurement: Measurement | None = None
    failure: str | None = None
    seconds: float


@dataclass(frozen=True)
class Task:
    """One unit of work: a cell's export, or a measurement of it, with all of the recipe that it needs."""

    key: Key
    cell: CellSpec
    limit: int
    accuracy: Path | None = None
    instructions: bool = False
    bench: Bench | None = None
    scratch: Path | None = None
    """A folder for temporary files; None is the system's."""
    runner: Path | None = None
    """Where the program that ``bench`` names is on this host; None is there."""

    @property
    def of_this_machine(self) -> bool:
        """Whether the machine that it is done on is the device."""
        return self.key.device.partition(":")[0] in OF_THIS_MACHINE


@dataclass(frozen=True)
class Work:
    """How units are done: ``export`` makes an artifact in a new folder, ``measure`` times the one in a folder.

    ``look`` raises `DeployKitError` where a device cannot be used. Tests have other functions; those for hosts of Ray
    have to be importable there.
    """

    export: Callable[[Task, Path, Path | None], CellResult]
    measure: Callable[[Task, Path], BenchResult]
    look: Callable[[str], object]
    real: bool = True
    """Whether models are loaded and devices used, which a host has to have, and to keep from others meanwhile."""


def export(task: Task, folder: Path, references: Path | None) -> CellResult:
    """Export a cell into a folder that is not there yet; ``references`` is as `run_cell` takes it."""
    return run_cell(
        task.cell,
        folder,
        limit=task.limit,
        references=references,
        accuracy=task.accuracy,
        instructions=task.instructions,
        scratch=task.scratch,
    )


def measure(task: Task, folder: Path) -> BenchResult:
    """Time the artifact in a folder on the task's device."""
    assert task.bench is not None
    start = time.perf_counter()
    moved = {} if task.runner is None else {"runner": str(task.runner)}
    job = {
        "folder": str(folder.resolve()),
        "device": task.key.device,
        "threads": task.key.threads,
        "bench": {**task.bench.model_dump(mode="json"), **moved},
        "command": command(task),
    }
    per_round = ROUND_S + (COOL_S if task.bench.cool_to is not None else 0)
    try:
        found: dict[str, Any] = run_worker(
            [sys.executable, *MEASURE],
            job,
            timeout=(task.bench.rounds + 1) * per_round,
            environment={} if task.scratch is None else {"TMPDIR": str(task.scratch)},
            scratch=task.scratch,
        )
    except WorkerError as error:
        found = {"outcome": "failed", "failure": " ".join(str(error).split())}
    return BenchResult.model_validate({**found, "seconds": time.perf_counter() - start})


def command(task: Task) -> str:
    """The ``deploykit bench`` that repeats a measurement, of the artifact where ``deploykit export`` puts it."""
    bench, name = task.bench, f"artifacts/{artifact_name(task.cell.model)}/{task.cell.target}"
    assert bench is not None
    words = ["deploykit", "bench", name, "--device", task.key.device, "--threads", str(task.key.threads)]
    words += ["--warmup", str(bench.warmup), "--iterations", str(bench.iterations), "--rounds", str(bench.rounds)]
    words += ["--energy", bench.energy]
    for option, value in (("--cores", bench.cores), ("--cool-to", bench.cool_to), ("--runner", bench.runner)):
        words += [] if value is None else [option, str(value)]
    return shlex.join(words)


def tasks_of(recipe: Recipe, cell: CellSpec) -> tuple[Task, list[Task]]:
    """A cell's export, and its measurements."""
    data = recipe.accuracy
    asked = data is not None and (not data.models or cell.model in data.models)
    first = Task(
        Key(cell.id), cell, recipe.limit, data.data if data and asked else None, recipe.instructions, recipe.bench
    )
    bench = recipe.bench
    pairs = [] if bench is None else [(device, threads) for device in bench.devices for threads in bench.threads]
    keys = dict.fromkeys(Key(cell.id, device, threads) for device, threads in pairs)
    return first, [dataclasses.replace(first, key=key) for key in keys]


def look(device: str) -> object:
    """What a device is; `DeployKitError` where it cannot be used."""
    from deploy_kit.devices.registry import get_device

    return get_device(device).info()


REAL = Work(export, measure, look)
