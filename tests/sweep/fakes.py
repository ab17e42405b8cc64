"""Exports that take no time, importable on the hosts of a cluster that tests start."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

from deploy_kit.artifact import open_artifact
from deploy_kit.benchmarks.suites import sweep_scaling
from deploy_kit.benchmarks.suites.sweep_scaling import DEVICE, EPOCH
from deploy_kit.cells.recipe import Bench, Recipe
from deploy_kit.cells.result import CellResult
from deploy_kit.outcome import Outcome
from deploy_kit.sweep import work
from deploy_kit.sweep.work import BenchResult, Task, Work

ARTIFACT = "DEPLOYKIT_TEST_ARTIFACT"
"""The variable with the folder of a real artifact, which every cell comes to."""


def copy(task: Task, folder: Path, references: Path | None) -> CellResult:
    """A copy of a real artifact."""
    shutil.copytree(os.environ[ARTIFACT], folder)
    size = open_artifact(folder).size
    return CellResult(cell=task.cell, outcome=Outcome.OK, bytes=size, seconds=0.1, created=EPOCH)


def kill_worker(task: Task, folder: Path, references: Path | None) -> CellResult:
    """An export that takes its worker with it, of one cell."""
    if task.cell.model.endswith("bad"):
        os.kill(os.getpid(), signal.SIGKILL)
    return sweep_scaling.export(task, folder, references)


def measure(task: Task, folder: Path) -> BenchResult:
    """What the simulated device says, at once."""
    os.environ.setdefault(sweep_scaling.LATENCY, "0")
    return sweep_scaling.measure(task, folder)


PHONES = Work(copy, work.measure, work.look)
KILLING = Work(kill_worker, measure, lambda device: None, real=False)


def recipe_of(*models: str, devices: tuple[str, ...] = (DEVICE,), **bench: object) -> Recipe:
    """A recipe of cells whose models are in this module."""
    names = tuple(f"tests.sweep.fakes:{model}" for model in models)
    settings = Bench.model_validate({"devices": devices, "warmup": 10, "iterations": 50, **bench})
    return Recipe(models=names, targets=("onnx",), bench=settings)
