"""A runner that is a program: it takes a runner's options and writes one JSON document."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy_kit.benchmarks.measurement import RunnerResult
from deploy_kit.benchmarks.runners.base import LIMIT, Job, Runner, fetch_result
from deploy_kit.devices.base import Completed, Device, DeviceError


@dataclass(frozen=True)
class Program(Runner):
    """A program that writes `deploy_kit.benchmarks.measurement.RunnerResult`.

    ``files`` are copied to the device, the program first; where there are none, ``command`` is on the device already.
    ``command`` are the words between the program and the options. ``version`` is that of what is on the device, where
    it is known.
    """

    name: str
    command: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    version: str = ""

    def identity(self) -> list[str]:
        settings = (f"{name}={value}" for name, value in sorted(self.environment.items()))
        return [*super().identity(), *self.command, *settings, self.version]

    def words(self, folder: str) -> list[str]:
        """How it is started when its files are in ``folder`` on the device."""
        program = [f"{folder}/{self.files[0].name}"] if self.files else []
        return [*program, *self.command]

    def run(self, device: Device, job: Job, into: Path) -> RunnerResult:
        result = f"result-{secrets.token_hex(4)}.json"  # not that of an earlier run: this one may write none
        command = [
            *self.words(job.home),
            *("--model", job.model),
            *(word for given in job.inputs for word in ("--input", given)),
            *("--threads", str(job.threads), "--warmup", str(job.warmup)),
            *("--iterations", str(job.iterations)),
            *(() if job.cores is None else ("--cores", ",".join(map(str, job.cores)))),
            *("--outputs", job.folder, "--result", f"{job.folder}/{result}"),
        ]
        ended = device.run(command, timeout=LIMIT, environment=self.environment)
        if ended.returncode != 0:
            raise DeviceError(
                f"the runner ({self.name}) failed on {device.spec}: {last_words(ended)}",
                fix="see that the artifact is one for this runtime and its version, and try again",
            )
        return fetch_result(device, job.folder, into, self.name, result)


def last_words(ended: Completed) -> str:
    """What a program said last, or how it ended."""
    lines = [line for line in (ended.stderr.strip() or ended.stdout.strip()).splitlines() if line.strip()]
    said = lines[-1].removeprefix("error: ")[:500] if lines else "it said nothing"
    return said if ended.returncode == 1 and lines else f"exit code {ended.returncode}: {said}"
