"""The Android app as a runner: an intent starts it, its result is pulled from its own files.

Nothing is installed: `android_app/README.md` says how the app is built. There is one app for each runtime.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deploy_kit.benchmarks.measurement import RunnerResult
from deploy_kit.benchmarks.runners.base import LIMIT, Job, Runner, fetch_result
from deploy_kit.devices.base import Device, DeviceError
from deploy_kit.errors import UserError

PACKAGE = "org.deploykit.benchmark"
ACTIVITY = f"{PACKAGE}.BenchmarkActivity"

FLAVORS = {"executorch": "executorch", "onnx": "onnx", "torchscript-lite": "pytorch"}
"""The app's build of each engine."""

RUNS = "/sdcard/Android/data/{package}/files/runs"
"""The folder of the app's results, on the device."""

POLL = 1.0
"""Seconds between two looks for a result; each look disturbs the device a little."""

PATIENCE = 30.0
"""Seconds that a single command on the device may take, and that the app's process may take to appear."""

LOOK = (
    'for name in result.json error.txt; do [ -e "$1/$name" ] && echo "$name"; done; '
    'pidof "$2" >/dev/null && echo alive; true'
)


def app_of(engine: str) -> str:
    """The package of the app that has an engine; `UserError` where there is none."""
    if engine not in FLAVORS:
        raise UserError(f"there is no Android app for {engine}", fix=f"choose one of {', '.join(sorted(FLAVORS))}")
    return f"{PACKAGE}.{FLAVORS[engine]}"


@dataclass(frozen=True)
class AndroidApp(Runner):
    """The app of an engine: it reads the job's folder, and its files of a run are removed however that ends.

    ``sustained`` asks the phone for clocks that it can hold, where it knows such a mode; the result's ``runner`` says
    whether it did. ``timeout`` are seconds that a run may take.
    """

    engine: str
    sustained: bool = True
    timeout: float = LIMIT
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    name: str = "the Android app"
    files: tuple[Path, ...] = ()

    @property
    def package(self) -> str:
        """The app's name on the phone; `UserError` where there is no app for the engine."""
        return app_of(self.engine)

    def run(self, device: Device, job: Job, into: Path) -> RunnerResult:
        if job.cores is not None:
            raise UserError("an Android app cannot choose its cores", fix="leave out --cores, or use the native runner")
        package = self.package
        _check_installed(device, package, self.engine)
        _must(device, ["chmod", "-R", "a+rX", job.folder], "the app cannot be let read its files")
        name = secrets.token_hex(8)
        run = f"{RUNS.format(package=package)}/{name}"
        try:
            _launch(device, package, name, job, sustained=self.sustained)
            _wait(device, package, run, self.timeout, self.sleep, self.clock)
            return fetch_result(device, run, into, package)
        finally:
            for command in (["am", "force-stop", package], ["rm", "-rf", run]):
                with suppress(DeviceError):
                    device.run(command, timeout=PATIENCE)


def _check_installed(device: Device, package: str, engine: str) -> None:
    found = device.run(["pm", "path", package], timeout=PATIENCE)
    if found.returncode == 0 and "package:" in found.stdout:
        return
    if found.returncode == 127:
        raise DeviceError(f"{device.spec} has no `pm`: it is no Android device", fix="choose another runner")
    task = f"install{FLAVORS[engine].capitalize()}Release"
    raise DeviceError(
        f"the app {package} is not installed on {device.spec}",
        fix=f"in android_app, `./gradlew {task}`; its README.md says more",
    )


def _launch(device: Device, package: str, name: str, job: Job, *, sustained: bool) -> None:
    words = [
        *("am", "start", "-S", "-n", f"{package}/{ACTIVITY}"),
        *("--es", "run", name, "--es", "model", job.model),
        *(("--es", "inputs", ";".join(job.inputs)) if job.inputs else ()),
        *("--ei", "threads", str(job.threads), "--ei", "warmup", str(job.warmup)),
        *("--ei", "iterations", str(job.iterations)),
        *("--ez", "outputs", "true", "--ez", "sustained", str(sustained).lower()),
    ]
    started = device.run(words, timeout=PATIENCE)
    said = [line.strip() for line in f"{started.stdout}\n{started.stderr}".splitlines() if line.strip()]
    errors = [line for line in said if line.startswith(("Error", "java.lang."))]  # older ones exit with 0 all the same
    if started.returncode != 0 or errors:
        reason = (errors or said or [f"exit code {started.returncode}"])[0]
        raise DeviceError(f"the app {package} cannot be started on {device.spec}: {reason}")


def _wait(
    device: Device,
    package: str,
    run: str,
    timeout: float,
    sleep: Callable[[float], None],
    clock: Callable[[], float],
) -> None:
    """Return when the run has left its result; `DeviceError` where it ends or lasts otherwise."""
    begun, seen = clock(), False
    while True:
        state = _look(device, package, run)
        if "alive" not in state and seen:
            state = _look(device, package, run)  # it may have written its last file between the two questions
        if "result.json" in state:
            return
        if "error.txt" in state:
            raise DeviceError(f"the app {package} failed on {device.spec}: {_error(device, run)}")
        if seen and "alive" not in state:
            raise DeviceError(
                f"the app {package} crashed on {device.spec} before it had a result",
                fix="`adb logcat -b crash -d` says where; too little memory also ends an app",
            )
        seen = seen or "alive" in state
        waited = clock() - begun
        if not seen and waited > PATIENCE:
            raise DeviceError(
                f"the app {package} did not start on {device.spec} within {PATIENCE:.0f} s, or crashed at once"
            )
        if waited > timeout:
            raise DeviceError(
                f"the app {package} had no result on {device.spec} after {timeout:.0f} s, and was stopped",
                fix="see that no other window is in front of it; otherwise ask for fewer iterations",
            )
        sleep(POLL)


def _look(device: Device, package: str, run: str) -> list[str]:
    return _must(device, ["sh", "-c", LOOK, "sh", run, package], "the app cannot be watched").split()


def _error(device: Device, run: str) -> str:
    said = device.run(["cat", f"{run}/error.txt"], timeout=PATIENCE).stdout.strip()
    return said.splitlines()[0][:500] if said else "it said nothing"


def _must(device: Device, command: list[str], failure: str) -> str:
    done = device.run(command, timeout=PATIENCE)
    if done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
        raise DeviceError(f"{failure} on {device.spec}: {said.splitlines()[-1]}")
    return done.stdout
