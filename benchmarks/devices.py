"""Where files are timed: this machine, by the runtimes that are installed here."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from deploy_kit.benchmarks.runtimes import TIMED, time_files
from deploy_kit.benchmarks.timing import Rounds, machine
from deploy_kit.errors import UserError, unknown_name
from deploy_kit.exporters import get_exporter


class Device(ABC):
    """Something that times files."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def description(self) -> str:
        """What it is."""

    @abstractmethod
    def require(self, target: str) -> None:
        """Raise `UserError` where it cannot time a target's files."""

    @abstractmethod
    def time_files(
        self,
        target: str,
        files: Mapping[str, Path],
        inputs: tuple[Tensor, ...],
        *,
        processes: int,
        warmup: int,
        iterations: int,
    ) -> Rounds:
        """Seconds of every inference by contestant, of each process; at one thread, one inference each in turn."""


class Local(Device):
    """This machine."""

    name = "local"

    @property
    def description(self) -> str:
        return machine()

    def require(self, target: str) -> None:
        get_exporter(target)
        if target not in TIMED:
            raise UserError(f"{target} cannot be timed here", fix=f"choose one of {', '.join(sorted(TIMED))}")

    def time_files(
        self,
        target: str,
        files: Mapping[str, Path],
        inputs: tuple[Tensor, ...],
        *,
        processes: int,
        warmup: int,
        iterations: int,
    ) -> Rounds:
        with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
            return time_files(
                target, files, inputs, Path(folder), processes=processes, iterations=iterations, warmup=warmup
            )


DEVICES: dict[str, type[Device]] = {device.name: device for device in (Local,)}


def get_device(name: str) -> Device:
    """A device by its name; `UserError` where there is none."""
    if name not in DEVICES:
        raise unknown_name("device", name, DEVICES)
    return DEVICES[name]()
