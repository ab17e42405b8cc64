"""What a device is to the rest: something that is described, watched, given files, and runs commands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from deploy_kit.errors import DeployKitError


class DeviceError(DeployKitError):
    """A device is gone, refuses, is full, or fails; the message names it."""


class Cluster(BaseModel):
    """Cores of one kind, by the highest clock that the device gives them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """``prime``, ``big`` or ``little``; ``all`` where all cores are alike."""
    cores: tuple[int, ...]
    max_mhz: int | None


class DeviceInfo(BaseModel):
    """What does not change while a device is attached; None is what it does not tell."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: str
    """What ``--device`` takes: ``local``, ``adb:SERIAL``, ``ssh:USER@HOST``, ``ios:UDID`` or ``qemu:aarch64``."""
    model: str | None
    soc: str | None
    os: str | None
    abi: str
    """The machine as Linux calls it: ``x86_64``, ``aarch64``, ``armv7l``."""
    clusters: tuple[Cluster, ...]
    memory_bytes: int | None
    emulated: bool = False

    @property
    def description(self) -> str:
        """What it tells of itself, in a few words."""
        parts = (self.model, self.soc, self.os, self.abi)
        return ", ".join(dict.fromkeys(part for part in parts if part))


class DeviceState(BaseModel):
    """What changes; None is what the device does not tell, and ``unavailable`` says why by field."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    battery_percent: float | None = None
    charging: bool | None = None
    screen_on: bool | None = None
    thermal_status: str | None = None
    """Android's: none, light, moderate, severe, critical, emergency or shutdown."""
    temperatures_c: dict[str, float] = {}
    clocks_mhz: dict[int, int] = {}
    load: float | None = None
    """Processes that want to run, averaged over a minute; on phones also the kernel's own threads that wait."""
    runnable: int | None = None
    """Threads that want to run at this moment, beside the one that looks."""
    unavailable: dict[str, str] = {}


class Completed(BaseModel):
    """How a command on a device ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    returncode: int
    stdout: str
    stderr: str


class Device(ABC):
    """A device that is attached.

    Every method raises `DeviceError` where the device is gone, unauthorised, offline or full, in words that name it and
    say what to do. Paths on the device are strings, quoted by the device's own class wherever a shell reads them.
    """

    spec: str

    @abstractmethod
    def info(self) -> DeviceInfo:
        """What it is."""

    @abstractmethod
    def state(self) -> DeviceState:
        """How it is now."""

    @abstractmethod
    def run(self, command: Sequence[str], *, timeout: float, environment: Mapping[str, str] | None = None) -> Completed:
        """Run a program with its arguments, no shell in between; a return code other than 0 is no error.

        Raises:
            DeviceError: it ran longer than ``timeout`` seconds (and was ended), or the device went away.
        """

    @abstractmethod
    def push(self, source: Path, target: str) -> None:
        """Copy a file to the device; executable if it is so here."""

    @abstractmethod
    def pull(self, source: str, target: Path) -> None:
        """Copy a file from the device; ``target`` is whole or absent."""

    @abstractmethod
    def make_folder(self) -> str:
        """A new folder on the device that programs can be run from."""

    @abstractmethod
    def remove(self, folder: str) -> None:
        """Remove a folder that `make_folder` made, and all in it."""

    @contextmanager
    def scratch(self) -> Iterator[str]:
        """A folder that is removed at the end, however it comes; a device that is gone by then is no second error."""
        folder = self.make_folder()
        try:
            yield folder
        except BaseException:
            with suppress(DeviceError):
                self.remove(folder)
            raise
        self.remove(folder)
