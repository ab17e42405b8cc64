"""The iOS app as a runner: it is started with a runner's options, its result is pulled from its own folder.

Nothing is installed: `ios_app/README.md` says how the app is built.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from deploy_kit.benchmarks.measurement import RunnerResult
from deploy_kit.benchmarks.runners.base import LIMIT, Job, Runner, fetch_result
from deploy_kit.devices.base import Device, DeviceError
from deploy_kit.devices.ios import DOCUMENTS, Ios
from deploy_kit.errors import UserError, unknown_name

ENGINES = ("coreml", "executorch")
UNITS = ("all", "cpuAndGPU", "cpuAndNeuralEngine", "cpuOnly")
"""The processors that CoreML may use, by CoreML's own names."""

POLL = 2.0
"""Seconds between two looks for a result; each look disturbs the phone a little."""


@dataclass(frozen=True)
class IosApp(Runner):
    """The app with an engine; ``units`` are what CoreML may use. ``timeout`` are seconds that a run may take."""

    packages: ClassVar[bool] = True

    engine: str
    units: str = "all"
    timeout: float = LIMIT
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    name: str = "the iOS app"
    files: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise UserError(f"there is no iOS app for {self.engine}", fix=f"choose one of {', '.join(ENGINES)}")
        if self.units not in UNITS:
            raise unknown_name("choice of compute units", self.units, UNITS)
        if self.units != "all" and self.engine != "coreml":
            raise UserError(f"compute units are CoreML's, not {self.engine}'s", fix="--runner app")

    def identity(self) -> list[str]:
        return [*super().identity(), self.units]

    def run(self, device: Device, job: Job, into: Path) -> RunnerResult:
        if not isinstance(device, Ios):
            raise UserError(f"{device.spec} has no iOS app", fix="leave out --runner")
        if job.cores is not None:
            raise UserError("an iOS app cannot choose its cores", fix="leave out --cores")
        if self.engine == "coreml" and job.threads != 1:
            raise UserError("CoreML chooses its threads itself", fix="leave out --threads")
        process, folder = device.start(self._words(job))
        try:
            self._wait(device, process, folder, into)
            return fetch_result(device, folder, into, self.name)
        finally:
            device.end(process)

    def _words(self, job: Job) -> list[str]:
        return [
            *("--engine", self.engine, "--model", _relative(job.model)),
            *(word for given in job.inputs for word in ("--input", _relative(given))),
            *("--threads", str(job.threads), "--warmup", str(job.warmup), "--iterations", str(job.iterations)),
            *(("--units", self.units) if self.engine == "coreml" else ()),
            "--outputs",
        ]

    def _wait(self, device: Ios, process: int, folder: str, into: Path) -> None:
        """Return when the run has left its result; `DeviceError` where it ends or lasts otherwise."""
        begun, alive = self.clock(), True
        while True:
            if device.fetch(f"{folder}/result.json", into / "result.json"):
                return
            if device.fetch(f"{folder}/error.txt", into / "error.txt"):
                said = (into / "error.txt").read_text(errors="replace").strip().splitlines() or ["it said nothing"]
                raise DeviceError(f"the app failed on {device.spec}: {said[0][:500]}")
            if not alive:
                raise DeviceError(
                    f"the app crashed on {device.spec} before it had a result",
                    fix="Xcode's Devices window has the crash log; too little memory also ends an app",
                )
            alive = device.is_running(process)  # its last file may be written between two questions
            if self.clock() - begun > self.timeout:
                raise DeviceError(
                    f"the app had no result on {device.spec} after {self.timeout:.0f} s, and was stopped",
                    fix="see that it is in front; otherwise ask for fewer iterations",
                )
            if alive:
                self.sleep(POLL)


def _relative(path: str) -> str:
    """A path as the app knows it: in its folder of documents."""
    return path.removeprefix(f"{DOCUMENTS}/")
