"""Where forms of a model race: each device of the harness, as something that times artifacts in turn."""

from __future__ import annotations

import os
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Literal, Self

from torch import Tensor

from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.harness import cool, installed, placed
from deploy_kit.benchmarks.measurement import Clocks
from deploy_kit.benchmarks.protocol import Protocol
from deploy_kit.benchmarks.runners.base import Runner
from deploy_kit.benchmarks.runners.choice import choose_runner, targets_of
from deploy_kit.benchmarks.runners.python_runner import ClockReader
from deploy_kit.benchmarks.runtimes import TIMED, save_for, time_once
from deploy_kit.benchmarks.summary import summarise
from deploy_kit.benchmarks.timing import Rounds, machine, rotated
from deploy_kit.benchmarks.validity import Conditions, disturbances, irregularities, reasons
from deploy_kit.devices.base import Device, DeviceInfo
from deploy_kit.devices.local import Local
from deploy_kit.devices.qemu import CPU
from deploy_kit.devices.registry import get_device
from deploy_kit.errors import UserError
from deploy_kit.exporters import get_exporter

Unit = Literal["seconds", "instructions"]

LOOK_EVERY_S = 0.05
"""Seconds between two looks at this machine's clocks while a process times artifacts."""


@dataclass(frozen=True)
class Race:
    """How long contestants run: in how many processes, and how many inferences in each."""

    processes: int
    warmup: int
    iterations: int


class Timer(ABC):
    """Something that runs artifacts in turn and says what each inference cost.

    It is a context: what it has put on a device is removed at its end.
    """

    unit: ClassVar[Unit] = "seconds"
    least_gain: ClassVar[float] = 1.01
    """A form is only faster if it is so many times faster."""

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self._runs = 0
        self._found: dict[str, tuple[str, int]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    @abstractmethod
    def description(self) -> str:
        """What the device is."""

    @property
    @abstractmethod
    def targets(self) -> tuple[str, ...]:
        """The targets whose artifacts it times."""

    def require(self, target: str) -> None:
        """Raise `UserError` where it cannot time a target's artifacts, or there is no such target."""
        get_exporter(target)
        if target not in self.targets:
            where = "here" if self.spec == "local" else f"on {self.spec}"
            raise UserError(f"{target} cannot be timed {where}", fix=f"choose one of {', '.join(sorted(self.targets))}")

    @property
    def conditions(self) -> list[str]:
        """What was not good while it timed, in the words of `deploykit bench`, and in how many of its runs."""
        return [f"{words} (in {count} of {self._runs} runs)" for words, count in self._found.values()]

    def _note(self, found: Iterable[str]) -> None:
        """Keep what was not good in a run: of each kind the words of the first run that had it."""
        self._runs += 1
        for kind, words in {reason.partition(":")[0]: reason for reason in found}.items():
            first, count = self._found.get(kind, (words, 0))
            self._found[kind] = first, count + 1

    @abstractmethod
    def time(
        self,
        target: str,
        artifacts: Mapping[str, Artifact],
        inputs: tuple[Tensor, ...],
        race: Race,
    ) -> Rounds:
        """The cost of every inference by contestant, of each process, at one thread; each is first in its turn.

        Raises:
            DeployKitError: the device or a runtime failed.
        """


class LocalTimer(Timer):
    """This machine: one process at a time has all contestants, and runs one inference of each in turn."""

    def __init__(self, spec: str, device: Device | None = None) -> None:
        super().__init__(spec)
        self._device = device or Local()

    @property
    def description(self) -> str:
        return machine()

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(TIMED)

    def time(
        self,
        target: str,
        artifacts: Mapping[str, Artifact],
        inputs: tuple[Tensor, ...],
        race: Race,
    ) -> Rounds:
        with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
            given = save_for(target, inputs, Path(folder))
            rounds = []
            for turn in range(race.processes):
                files = {name: artifacts[name].main_file for name in rotated(list(artifacts), turn)}
                rounds.append(self._run(target, files, given, race))
            return rounds

    def _run(self, target: str, files: Mapping[str, Path], inputs: Path, race: Race) -> Mapping[str, Sequence[float]]:
        """The seconds of one process, whose conditions are noted."""
        before = self._device.state()
        with Looks() as looks:
            found = time_once(target, files, inputs, iterations=race.iterations, warmup=race.warmup)
        seconds: Mapping[str, Sequence[float]] = found["seconds"]
        run = Conditions(before, self._device.state(), looks.within(found["window"]))
        summaries = (summarise([[round(1e9 * each) for each in samples]]) for samples in seconds.values())
        odd = (reason for summary in summaries for reason in irregularities(summary))
        self._note([*disturbances(self._info, run), *odd])
        return seconds

    @cached_property
    def _info(self) -> DeviceInfo:
        return self._device.info()


class Looks:
    """Looks at the clocks of this machine's cores that a process may use, while the body of a ``with`` runs one."""

    def __enter__(self) -> Self:
        self._reader = ClockReader(sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        for file in self._reader.files.values():
            os.close(file)

    @property
    def seen(self) -> list[Clocks]:
        """All looks so far; none where the kernel tells no clocks."""
        return [Clocks.model_validate(look) for look in list(self._reader.looks)]

    def within(self, window: Sequence[float]) -> list[Clocks]:
        """The looks from one moment of ``time.perf_counter`` to another."""
        begun, ended = window
        return [look for look in self.seen if begun <= look.at_ns / 1e9 <= ended]

    def _look(self) -> None:
        while not self._ended.wait(LOOK_EVERY_S):
            self._reader.look()


class DeviceTimer(Timer):
    """A phone or a board: its runner is brought there once, and each contestant is a process of its own in its turn."""

    def __init__(self, spec: str, device: Device) -> None:
        super().__init__(spec)
        self._device = device
        self._homes: dict[str, tuple[Runner, str]] = {}

    @property
    def description(self) -> str:
        return self._device.info().description

    @property
    def targets(self) -> tuple[str, ...]:
        return targets_of(self._device)

    def time(
        self,
        target: str,
        artifacts: Mapping[str, Artifact],
        inputs: tuple[Tensor, ...],
        race: Race,
    ) -> Rounds:
        protocol = Protocol(warmup=race.warmup, iterations=race.iterations)
        runner, home = self._home(target)
        rounds: list[dict[str, list[float]]] = []
        with ExitStack() as stack:
            there = {
                name: stack.enter_context(placed(artifact, self._device, runner, protocol, home, inputs))
                for name, artifact in artifacts.items()
            }
            for turn in range(race.processes):
                samples = {}
                for name in rotated(list(there), turn):
                    cool(self._device, protocol)
                    found = there[name].round()
                    self._note(reasons(there[name].info, [found], summarise([found.result.samples_ns])))
                    samples[name] = [nanoseconds / 1e9 for nanoseconds in found.result.samples_ns]
                rounds.append(samples)
        return rounds

    def _home(self, target: str) -> tuple[Runner, str]:
        if target not in self._homes:
            runner = choose_runner(self._device, target, 1)
            self._homes[target] = runner, self._stack.enter_context(installed(runner, self._device))
        return self._homes[target]


class InstructionTimer(Timer):
    """The emulated ARM processor, which has no times: it counts the instructions of an inference, exactly."""

    unit = "instructions"
    least_gain = 1.001

    @property
    def description(self) -> str:
        return f"{CPU}, emulated: ARM instructions of an inference"

    @property
    def targets(self) -> tuple[str, ...]:
        return "executorch", "torchscript-lite"

    def time(
        self,
        target: str,
        artifacts: Mapping[str, Artifact],
        inputs: tuple[Tensor, ...],
        race: Race,
    ) -> Rounds:
        """Count once, however long the race is: another count would be the same."""
        from deploy_kit.benchmarks.instructions import count_instructions
        from deploy_kit.benchmarks.native import build_runner

        bundle = build_runner(target, "aarch64")
        return [
            {
                name: [float(count) for count in count_instructions(bundle, artifact.main_file, inputs).counts]
                for name, artifact in artifacts.items()
            }
        ]


TIMERS: dict[str, Callable[[str], Timer]] = {"local": LocalTimer}
"""The timers of devices that are not reached through `deploy_kit.devices`."""


def get_timer(spec: str) -> Timer:
    """What times artifacts on the device that ``--device`` names.

    Raises:
        UserError: there is no such kind of device.
        DeviceError: the device is not there, or cannot be used as it is.
    """
    if spec in TIMERS:
        return TIMERS[spec](spec)
    device = get_device(spec)
    if device.info().emulated:
        return InstructionTimer(device.spec)
    return DeviceTimer(device.spec, device)
