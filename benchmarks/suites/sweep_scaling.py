"""How a sweep scales over Ray workers, and what being killed costs it: nothing.

    python -m deploy_kit.benchmarks.suites.sweep_scaling [--cells 200] [--workers 1 2 4] [--latency 0.5] [--json]

Simulated are the export, which writes an artifact of a few bytes at once, and the device, which sleeps the same time
for each cell and then has numbers that follow from the artifact. Everything else is the sweep's own: a Ray cluster of
this machine with N processors and N such devices, each used by one at a time; artifacts that travel to the workers and
back; units that are taken and kept in a SQLite store on disk; and the report at the end. A run's seconds are those from
the first look into the store to that report. Ray, its workers and what they import are started before.

The efficiency of N workers is the time of one, over N times theirs; ``of ideal`` is what the devices' sleep alone would
take, over the time. Then a sweep of the same cells is killed with SIGKILL again and again, gone on with, and its
results are compared with those of one that ran through. The exit code is 1 where the efficiency of the most workers is
under 0.9, the results differ, or a unit was done twice.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from deploy_kit.benchmarks.measurement import ArtifactRecord, Measurement, Round, RunnerResult
from deploy_kit.benchmarks.protocol import Protocol
from deploy_kit.benchmarks.summary import summarise
from deploy_kit.cells.recipe import Bench, Recipe
from deploy_kit.cells.result import CellResult
from deploy_kit.cli.console import print_json, print_line, print_table
from deploy_kit.devices.base import DeviceInfo, DeviceState
from deploy_kit.outcome import Outcome
from deploy_kit.sweep.drive import Progress, sweep
from deploy_kit.sweep.local import Executor
from deploy_kit.sweep.ray_hosts import import_ray, ray_hosts
from deploy_kit.sweep.store import open_store
from deploy_kit.sweep.work import BenchResult, Task, Work

LEAST = 0.9
"""The efficiency that is asked of the most workers."""

AWAKE_S = 180.0
"""Seconds that workers may take to start."""

DEVICE = "sim:phone"
TARGET = "onnx"
EPOCH = "2000-01-01T00:00:00+00:00"
LATENCY = "DEPLOYKIT_SIMULATED_S"
"""The variable that tells the simulated device how long a cell takes."""


def number(text: str) -> int:
    """A number that is always the same for a text."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:6], 16)


def export(task: Task, folder: Path, references: Path | None) -> CellResult:
    """An artifact of a few bytes."""
    folder.mkdir(parents=True)
    content = task.key.cell.encode()
    (folder / "model.bin").write_bytes(content)
    (folder / "manifest.json").write_text("{}")
    return CellResult(
        cell=task.cell,
        outcome=Outcome.OK,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        snr_db=float(number(task.key.cell) % 100),
        seconds=0.0,
        created=EPOCH,
    )


def measure(task: Task, folder: Path) -> BenchResult:
    """Numbers that are always the same for a cell, of the artifact that is there, after a while."""
    time.sleep(float(os.environ[LATENCY]))
    content = (folder / "model.bin").read_bytes()
    base = 1_000_000 + number(content.decode())
    samples = [base + index for index in range(5)]
    document: dict[str, Any] = {
        "schema": 1,
        "runner": "simulated",
        "engine": TARGET,
        "runtime": "none",
        "abi": "none",
        "threads": 1,
    }
    document |= {"affinity": None, "load_ns": 1, "first_ns": base, "warmup_ns": [], "samples_ns": samples}
    document |= {"memory": dict.fromkeys(("baseline_kb", "loaded_kb", "peak_kb")), "clocks_mhz": [], "outputs": []}
    device = DeviceInfo(
        spec=task.key.device, model="simulated", soc=None, os=None, abi="none", clusters=(), memory_bytes=None
    )
    measured = Measurement(
        artifact=ArtifactRecord(
            model=task.cell.model,
            target=task.cell.target,
            precision=task.cell.precision,
            file="model.bin",
            sha256=hashlib.sha256(content).hexdigest(),
            bytes=len(content),
        ),
        device=device,
        protocol=Protocol(warmup=0, iterations=5),
        started=EPOCH,
        rounds=[Round(before=DeviceState(), after=DeviceState(), result=RunnerResult.model_validate(document))],
        summary=summarise([samples]),
        load_ms=None,
        first_ms=samples[0] / 1e6,
        memory_over_baseline_kb=None,
        energy=None,
        valid=True,
        reasons=[],
        command="",
    )
    return BenchResult(outcome="measured", measurement=measured, seconds=0.0)


SIMULATED = Work(export, measure, lambda device: None, real=False)


@dataclass(frozen=True)
class Scaling:
    """A sweep on some workers: its seconds, those that each device slept, and the efficiency."""

    workers: int
    seconds: float
    work_s: float
    efficiency: float


@dataclass(frozen=True)
class Killed:
    """A sweep that was killed: after how many units each time, and whether its results are as of one that was not."""

    after: list[int]
    units: int
    done_twice: int
    same: bool


def recipe_of(cells: int) -> Recipe:
    """A recipe of so many cells, each for the one device."""
    models = tuple(f"simulated:net{index}" for index in range(cells))
    return Recipe(models=models, targets=(TARGET,), bench=Bench(devices=(DEVICE,), warmup=0, iterations=5))


def swept(cells: int, workers: int, store: Path, log: Path | None = None) -> float:
    """Sweep on a Ray of this machine; the seconds of its units. Each that is done is a line of a log."""

    def progress(made: Progress) -> None:
        if log is not None:
            with log.open("a") as file:
                file.write(f"{made.unit.key.cell} {made.unit.key.device}\n")

    opened = open_store(f"sqlite:///{store}")
    report = sweep(recipe_of(cells), opened, hosts=partial(warm, workers=workers), work=SIMULATED, progress=progress)
    opened.close()
    return report.seconds


@contextmanager
def warm(work: Work, recipe: Recipe, *, workers: int) -> Iterator[Executor]:
    """A Ray of this machine whose workers have all been started, each with a device of its own."""
    with ray_hosts(work, recipe, address="local", workers=workers, devices={DEVICE: workers}) as hosts:
        ray = import_ray()
        many = 2 * workers  # as many exports as measurements are done at a time
        with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
            remote = ray.remote(num_cpus=0)(awake)
            ray.get([remote.remote(folder, many) for _ in range(many)], timeout=AWAKE_S)
        yield hosts


def awake(folder: str, many: int) -> None:
    """Import what units need, and wait for as many workers as there are to be: none does this for another."""
    importlib.import_module("deploy_kit.sweep.ray_hosts")
    Path(folder, str(os.getpid())).touch()
    while len(os.listdir(folder)) < many:
        time.sleep(0.05)


def scaling(cells: int, workers: list[int], latency: float, folder: Path) -> list[Scaling]:
    """The sweep on each number of workers."""
    rows: list[Scaling] = []
    for count in workers:
        seconds = swept(cells, count, folder / f"workers{count}.db")
        one = rows[0].seconds * rows[0].workers if rows else seconds * count
        rows.append(Scaling(count, seconds, cells * latency / count, one / count / seconds))
    return rows


def killed(cells: int, workers: int, kills: int, folder: Path) -> Killed:
    """A sweep that is killed at even distances, and then compared with one that ran through."""
    straight, broken, log = folder / "straight.db", folder / "broken.db", folder / "log"
    swept(cells, workers, straight)
    after = []
    units = 2 * cells
    log.touch()
    for index in range(kills + 1):
        words = [sys.executable, "-m", __spec__.name if __spec__ else __name__, "--one", str(broken), "--log", str(log)]
        words += ["--cells", str(cells), "--workers", str(workers)]
        process = subprocess.Popen(words, start_new_session=True)
        while process.poll() is None and (index == kills or lines(log) < units * (index + 1) // (kills + 1)):
            time.sleep(0.02)
        if index < kills:
            process.send_signal(signal.SIGKILL)
            process.wait()
            after.append(lines(log))
    done = log.read_text().splitlines()
    return Killed(after, len(set(done)), len(done) - len(set(done)), results(straight) == results(broken))


def lines(log: Path) -> int:
    """The lines of a file."""
    return log.read_bytes().count(b"\n")


def results(store: Path) -> list[Any]:
    """What a store has of its last run, without names and times of the run."""
    opened = open_store(f"sqlite:///{store}")
    entries = opened.entries(opened.runs()[-1].id)
    opened.close()
    without = {"run", "created"}
    return sorted((entry.model_dump(mode="json", exclude=without) for entry in entries), key=json.dumps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--latency", type=float, default=0.5, help="seconds that the device takes for a cell")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.one is not None:
        swept(wanted.cells, wanted.workers[0], wanted.one, wanted.log)
        return
    os.environ[LATENCY] = str(wanted.latency)
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
        rows = scaling(wanted.cells, wanted.workers, wanted.latency, Path(scratch))
        broken = killed(wanted.cells, max(wanted.workers), wanted.kills, Path(scratch))
    if wanted.json:
        print_json({"cells": wanted.cells, "latency_s": wanted.latency, "scaling": rows, "killed": broken})
    else:
        head = ["workers", "seconds", "devices' sleep", "efficiency", "of ideal"]
        table = [
            (
                row.workers,
                f"{row.seconds:.1f}",
                f"{row.work_s:.1f}",
                f"{row.efficiency:.3f}",
                f"{row.work_s / row.seconds:.3f}",
            )
            for row in rows
        ]
        print_table(f"{wanted.cells} cells, a device that takes {wanted.latency:g} s", head, table)
        same = "the same results" if broken.same else "OTHER results"
        print_line(
            f"killed after {', '.join(map(str, broken.after))} of {2 * wanted.cells} units: {same} as one that ran "
            f"through, {broken.done_twice} units done twice"
        )
    if rows[-1].efficiency < LEAST or not broken.same or broken.done_twice:
        sys.exit(1)


if __name__ == "__main__":
    main()
