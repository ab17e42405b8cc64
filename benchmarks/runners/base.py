"""What a runner is to the harness: it is given files on a device and numbers, and brings back a result document."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import ValidationError
from torch import Tensor

from deploy_kit.benchmarks.measurement import RunnerResult
from deploy_kit.devices.base import Device, DeviceError
from deploy_kit.devices.calls import LARGEST_PULL
from deploy_kit.manifest import Manifest

LIMIT = 1800.0
"""Seconds that a run may take."""

LARGEST_RESULT = 64 << 20
"""Bytes of a result that is read at all."""


@dataclass(frozen=True)
class Job:
    """What a runner is asked for.

    ``home`` is the folder on the device that has the runner's files. ``folder`` has the model and the inputs, and takes
    the results; ``model`` is the path of the artifact's main file in it, ``inputs`` are ``FILE:DTYPE:1,3,224,224``.
    ``cores`` are numbers of cores, None leaves them to the system. ``manifest`` is the artifact's.
    """

    home: str
    folder: str
    model: str
    inputs: tuple[str, ...]
    threads: int = 1
    warmup: int = 10
    iterations: int = 50
    cores: tuple[int, ...] | None = None
    manifest: Manifest | None = None


class Runner(ABC):
    """What loads an artifact on a device and times it."""

    name: str
    files: tuple[Path, ...]
    """What has to be in the job's home on the device."""
    packages: ClassVar[bool] = False
    """Whether it loads artifacts that are folders; their files are pushed by their paths in the job's folder."""

    def identity(self) -> list[str]:
        """What tells it from other runners, and from itself as it was; what differs, measures something else."""
        return [self.name, *(_sha256(file) for file in self.files)]

    @abstractmethod
    def run(self, device: Device, job: Job, into: Path) -> RunnerResult:
        """Time the artifact once: load, warm up, measure.

        Args:
            into: the folder here that gets the outputs of the last inference, by the names that the result has.

        Raises:
            DeviceError: the runner failed, hung or wrote a damaged document, or the device went away; nothing that it
                started is left running.
            UserError: it cannot do what the job asks for.
        """


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_input(tensor: Tensor, file: Path, place: str) -> str:
    """Write an input as a runner reads it into ``file``; the word after ``--input`` where that is at ``place``."""
    file.write_bytes(tensor.detach().contiguous().numpy().tobytes())
    return f"{place}:{str(tensor.dtype).removeprefix('torch.')}:{','.join(map(str, tensor.shape))}"


def fetch_result(device: Device, folder: str, into: Path, runner: str, name: str = "result.json") -> RunnerResult:
    """Copy the document ``name`` and the outputs that it names from a folder on a device; `DeviceError` if damaged."""
    local = into / "result.json"
    local.unlink(missing_ok=True)
    device.pull(f"{folder}/{name}", local)
    result = read_result(local, runner)
    left = LARGEST_PULL
    for output in result.outputs:
        if output.file is not None:
            device.pull(f"{folder}/{output.file}", into / output.file)
            left -= (into / output.file).stat().st_size
            if left < 0:
                raise DeviceError(f"the runner ({runner}) wrote outputs of more than {LARGEST_PULL} bytes")
    return result


def read_result(file: Path, runner: str) -> RunnerResult:
    """A runner's document; `DeviceError` where it is damaged, or says what cannot be."""
    if file.stat().st_size > LARGEST_RESULT:
        raise DeviceError(f"the runner ({runner}) wrote a result of {file.stat().st_size} bytes, which is none")
    try:
        return RunnerResult.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise DeviceError(
            f"the runner ({runner}) wrote a damaged result: {where}: {first['msg']}",
            fix="measure again; a runner of your own has to write what RunnerResult in benchmarks/measurement.py says",
        ) from None
