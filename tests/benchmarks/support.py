"""A target and a device that need no runtime: its files name graphs, which take as long as they have operators."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.measurement import Round, RunnerResult
from deploy_kit.benchmarks.timers import TIMERS, Race, Timer
from deploy_kit.benchmarks.timing import Rounds
from deploy_kit.devices.base import DeviceState
from deploy_kit.exporters.base import Exported, Exporter, Options, Ran, Requirement
from deploy_kit.fusion import Policy
from deploy_kit.graph import Graph
from deploy_kit.stages import Stages


class MemoryOptions(Options):
    """Options of `Memory`."""

    slow: bool = False
    unused: tuple[str, ...] = ()


class Memory(Exporter):
    """A target whose runtime is PyTorch, and whose files only name the graphs that it keeps."""

    name = "memory"
    summary = "for tests"
    options_type = MemoryOptions
    graphs: ClassVar[dict[str, Graph]] = {}
    chosen: ClassVar[Policy] = Policy(())
    others: ClassVar[dict[str, list[Any]]] = {}

    def requirements(self) -> list[Requirement]:
        return []

    def policy(self, options: MemoryOptions) -> Policy:
        return self.chosen

    def alternatives(self, options: MemoryOptions) -> dict[str, list[Any]]:
        return self.others

    def export(self, graph: Graph, folder: Path, options: MemoryOptions, stages: Stages) -> Exported:
        operators = Counter(node.target.__name__ for node in graph.nodes if node.op == "call_function")
        name = _name(graph)
        self.graphs[name] = graph
        text = json.dumps({"graph": name, "operators": operators, "slow": options.slow})
        (folder / "model.json").write_text(text)
        return Exported("model.json", dict(operators), {"memory": "1"})

    def run(self, file: Path, inputs: Sequence[tuple[Tensor, ...]], options: Any, details: dict[str, Any]) -> Ran:
        graph = self.graphs[json.loads(file.read_text())["graph"]]
        with torch.no_grad():
            return Ran([[graph.module(*case)] for case in inputs], "memory 1")


def _name(graph: Graph) -> str:
    """What two graphs that compute the same in the same way have in common."""
    constants = [value.double().sum().item() for node in graph.nodes if (value := graph.constant(node)) is not None]
    return hashlib.sha256(f"{graph.module.code} {constants}".encode()).hexdigest()


class Bench(Timer):
    """A device on which an inference takes as long as its file has operators, and some have a cost of their own."""

    def __init__(self) -> None:
        super().__init__("bench")
        self.costs: dict[str, float] = {}
        self.noise: Callable[[], float] = lambda: 1.0
        self.disturbed: list[str] = []
        self.races = 0
        self.about = "counts operators"

    @property
    def description(self) -> str:
        return self.about

    @property
    def targets(self) -> tuple[str, ...]:
        return ("memory",)

    def time(
        self,
        target: str,
        artifacts: Mapping[str, Artifact],
        inputs: tuple[Tensor, ...],
        race: Race,
    ) -> Rounds:
        self.races += 1
        self._note(self.disturbed)
        files = {name: artifact.main_file for name, artifact in artifacts.items()}
        rounds = []
        for _ in range(race.processes):
            noise = self.noise()
            rounds.append({name: [self._seconds(files[name]) * noise**index] for index, name in enumerate(files)})
        return rounds

    def _seconds(self, file: Path) -> float:
        document = json.loads(file.read_text())
        calls = document["operators"].items()
        return sum(count * self.costs.get(name, 1.0) for name, count in calls) + 100 * document["slow"]


class _Installed(dict[str, Any]):
    """Entry points with one target."""

    @property
    def names(self) -> set[str]:
        return set(self)


def install(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Let ``memory`` be the only target, and ``bench`` a device; returns the device."""
    bench = Bench()
    monkeypatch.setitem(TIMERS, "bench", lambda spec: bench)
    point = SimpleNamespace(load=lambda: Memory)
    monkeypatch.setattr("deploy_kit.exporters.entry_points", lambda group: _Installed(memory=point))
    return bench


def runner_document(samples_ns: list[int], warmup_ns: list[int] | None = None, **changes: Any) -> dict[str, Any]:
    """What a runner writes of these samples."""
    return {
        "schema": 1,
        "runner": "a test's",
        "engine": "onnx",
        "runtime": "none",
        "abi": "aarch64",
        "threads": 1,
        "affinity": [0],
        "load_ns": 500_000,
        "first_ns": 20_000,
        "warmup_ns": warmup_ns or [],
        "samples_ns": samples_ns,
        "memory": {"baseline_kb": 100, "loaded_kb": 200, "peak_kb": 300},
        "clocks_mhz": [],
        "outputs": [],
        **changes,
    }


def round_of(
    samples_ns: list[int], before: DeviceState | None = None, after: DeviceState | None = None, **changes: Any
) -> Round:
    """A round of these samples between two states of a device."""
    quiet = DeviceState(charging=False)
    result = RunnerResult.model_validate(runner_document(samples_ns, **changes))
    return Round(before=before or quiet, after=after or quiet, result=result)
