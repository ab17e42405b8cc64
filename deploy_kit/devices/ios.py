"""iPhones and iPads, on which the benchmark app of `ios_app/` runs models, and nothing else can.

On a Mac they are reached by Xcode's ``xcrun devicectl``, elsewhere by the ``pymobiledevice3`` command. Files go to the
app's own folder. Of what changes, such as the thermal state, only the app can tell, so it is asked.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deploy_kit.devices.base import Completed, Device, DeviceError, DeviceInfo, DeviceState
from deploy_kit.devices.iphones import chip_of, name_of
from deploy_kit.disk import FULL
from deploy_kit.errors import UserError

T = TypeVar("T")

APP = ".deploykit.benchmark"
"""What the app's identifier ends with; what is before it, is whose team signed it."""

DOCUMENTS = "Documents"
"""The folder of the app that both sides may write to, and what is below it by name."""

THERMAL: dict[str, str] = {"nominal": "none", "fair": "light", "serious": "severe", "critical": "critical"}
"""Android's thermal statuses, by what iOS has of that meaning."""

PATIENCE = 30.0
"""Seconds within which the app answers a question."""

POLL = 1.0
"""Seconds between two looks for an answer."""

INSTALL = "in ios_app/README.md is how the app is built and installed"

_PROBLEMS: tuple[tuple[str, str, str], ...] = (
    (
        r"could not be, unlocked|\bLocked\b|device is locked|password protected|Unlock the device",
        "is locked",
        "unlock it, and keep it so: Settings > Display & Brightness > Auto-Lock > Never",
    ),
    (
        r"Developer Mode is (disabled|not enabled|off)|[Dd]eveloper mode .*(disabled|not enabled)",
        "has its developer mode off",
        "turn it on: Settings > Privacy & Security > Developer Mode",
    ),
    (
        r"explicitly trusted by the user|invalid code signature|inadequate entitlements",
        "does not trust who signed the app, or the signature has expired",
        "Settings > General > VPN & Device Management; where it is trusted there, build and install the app again",
    ),
    (
        r"not paired|[Pp]airing|pair record|does not trust|refused to trust|Trust dialog|InvalidHostID",
        "is not paired with this computer",
        "unlock it, plug it in, and tap `Trust` on it",
    ),
    (r"No space left|NO_SPACE_LEFT|out of space|not enough (disk )?space", "is full", "free some space on it"),
    (
        r"developer disk image|DeveloperDiskImage|Failed to start service",
        "has no developer services running",
        "unlock it and plug it in; on a Mac open it in Xcode once, elsewhere `pymobiledevice3 mounter auto-mount`",
    ),
)
"""What the tools say, what that is, and what to do about it."""


class ToolError(Exception):
    """A tool did not do its work; the text is what it said."""


class GoneError(ToolError):
    """A tool says that the device is not there."""


@dataclass(frozen=True)
class Phone:
    """A device that a tool lists; ``problem`` is what keeps it from being used, in the words of `_PROBLEMS`."""

    udid: str
    product: str
    name: str | None
    system: str | None
    problem: str | None = None


class Tool(ABC):
    """A program that reaches iPhones.

    Paths on the device are relative to the app's container. Every method raises `ToolError` where the tool says no, and
    `DeviceError` where it does not answer.
    """

    @abstractmethod
    def phones(self) -> list[Phone]:
        """The devices that are attached."""

    @abstractmethod
    def apps(self, udid: str) -> list[str]:
        """The identifiers of the apps that a user installed."""

    @abstractmethod
    def push(self, udid: str, app: str, source: Path, target: str) -> None:
        """Copy a file to the app's container, and make the folders above it."""

    @abstractmethod
    def pull(self, udid: str, app: str, source: str, target: Path) -> bool:
        """Copy a file from the app's container; False where there is none."""

    @abstractmethod
    def launch(self, udid: str, app: str, words: Sequence[str]) -> int:
        """Start the app, in place of one that runs, with its arguments; its process."""

    @abstractmethod
    def is_running(self, udid: str, process: int) -> bool:
        """Whether a process is there."""

    @abstractmethod
    def end(self, udid: str, process: int) -> None:
        """End a process."""

    def remove(self, udid: str, app: str, folders: Sequence[str]) -> bool:
        """Remove folders of the app's container; False where this tool cannot, and the app has to do it."""
        return False


class Told(BaseModel):
    """What the app tells of the phone (`ios_app/Core`, `PhoneState`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Annotated[int, Field(alias="schema", ge=1, le=1)]
    battery_percent: Annotated[float, Field(ge=0, le=100)] | None
    charging: bool | None
    thermal: Literal["nominal", "fair", "serious", "critical"] | None
    low_power_mode: bool | None
    screen_on: bool | None


def default_tool() -> Tool:
    """The tool of this system; `MissingDependencyError` where it is not installed."""
    if sys.platform == "darwin":
        from deploy_kit.devices.devicectl import Devicectl

        return Devicectl()
    from deploy_kit.devices.pymobiledevice import PyMobileDevice

    return PyMobileDevice()


def attached_udids(tool: Tool | None = None) -> list[str]:
    """The devices that are attached, also those that cannot be used as they are."""
    return sorted(phone.udid for phone in _listed(tool or default_tool()))


class Ios(Device):
    """An iPhone or iPad with the benchmark app.

    Args:
        udid: as Xcode and ``pymobiledevice3 usbmux list`` show it; None is the only one that is attached.
        tool: what reaches it; None is this system's.

    Raises:
        MissingDependencyError: the tool is not installed.
        DeviceError: there is no such device, it cannot be used as it is, or None is not one.
    """

    def __init__(
        self,
        udid: str | None = None,
        *,
        tool: Tool | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ):
        if udid is not None and not re.fullmatch(r"[0-9A-Za-z-]{8,64}", udid):
            raise UserError(f"{udid!r} is no UDID of an iPhone", fix="`deploykit devices` lists them")
        self._tool, self._sleep, self._clock = tool or default_tool(), sleep, clock
        self._phone = self._chosen(udid)
        self.spec = f"ios:{self._phone.udid}"
        self._identifier: str | None = None
        self._folders: list[str] = []
        self._runs: list[str] = []
        if self._phone.problem is not None:
            raise self._refusal(self._phone.problem, "")

    def info(self) -> DeviceInfo:
        phone = self._phone
        kind = "iPadOS" if phone.product.startswith("iPad") else "iOS"
        return DeviceInfo(
            spec=self.spec,
            model=name_of(phone.product, phone.name) or None,
            soc=chip_of(phone.product),
            os=f"{kind} {phone.system}" if phone.system else kind,
            abi="aarch64",
            clusters=(),
            memory_bytes=None,
        )

    def state(self) -> DeviceState:
        """What the app tells while it is used; before `make_folder`, it is not started only to be asked.

        Raises:
            DeviceError: low power mode is on: figures would be of other clocks.
        """
        unavailable = dict.fromkeys(("temperatures_c", "clocks_mhz", "load"), "iOS does not tell apps")
        if not self._folders:
            fields = ("battery_percent", "charging", "thermal_status", "screen_on")
            unavailable |= dict.fromkeys(fields, "the app tells, while it measures")
            return DeviceState(unavailable=unavailable)
        told = self._told()
        if told.low_power_mode:
            raise DeviceError(
                f"{self.spec} is in low power mode, in which it computes slower",
                fix="turn it off: Settings > Battery > Low Power Mode",
            )
        known = {
            "battery_percent": told.battery_percent,
            "charging": told.charging,
            "thermal_status": None if told.thermal is None else THERMAL[told.thermal],
            "screen_on": told.screen_on,
        }
        unavailable |= {name: "iOS did not tell the app" for name, value in known.items() if value is None}
        return DeviceState.model_validate({**known, "unavailable": unavailable})

    def run(self, command: Sequence[str], *, timeout: float, environment: Mapping[str, str] | None = None) -> Completed:
        raise DeviceError(
            f"{self.spec} runs no programs, only apps: {command[0]!r} cannot be started",
            fix="leave out --runner: the app of ios_app/ measures there",
        )

    def push(self, source: Path, target: str) -> None:
        _check_path(target)
        if not source.is_file():
            raise UserError(f"there is no file {str(source)!r} to push")
        self._reached(
            f"while {source.name!r} was pushed",
            lambda: self._tool.push(self._phone.udid, self.app, source, target),
        )

    def pull(self, source: str, target: Path) -> None:
        if not self.fetch(source, target):
            raise DeviceError(f"{self.spec} has no file {source!r}")

    def fetch(self, source: str, target: Path) -> bool:
        """Copy a file from the app; ``target`` is whole, or absent and False returned where there is none."""
        _check_path(source)
        try:
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".deploykit-") as folder:
                part = Path(folder, "part")
                there = self._reached(
                    f"while {source!r} was pulled",
                    lambda: self._tool.pull(self._phone.udid, self.app, source, part),
                )
                if there and (part.is_symlink() or not part.is_file()):
                    raise DeviceError(f"{self.spec} did not give {source!r} as a file")
                if there:
                    part.replace(target)
                return there
        except OSError as error:
            fix = "free some space here" if error.errno in FULL else "choose a folder that can be written"
            raise DeviceError(f"{str(target)!r} cannot be written: {error.strerror}", fix=fix) from error

    def make_folder(self) -> str:
        folder = f"{DOCUMENTS}/deploykit-{secrets.token_hex(8)}"
        self._folders.append(folder)
        try:
            with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
                made = Path(scratch, "made")
                made.touch()
                self.push(made, f"{folder}/{made.name}")  # which makes the folder
        except BaseException:
            with suppress(DeviceError):
                self.remove(folder)
            raise
        return folder

    def remove(self, folder: str) -> None:
        """Remove a folder that `make_folder` made, and those of the runs that were named by `start`."""
        if folder not in self._folders:
            raise ValueError(f"{folder} is no folder that was made here")
        self._folders.remove(folder)
        what = f"while {folder} was removed"
        runs, self._runs = self._runs, []
        every = [folder, *(f"{DOCUMENTS}/runs/{name}" for name in runs)]
        if self._reached(what, lambda: self._tool.remove(self._phone.udid, self.app, every)):
            return
        with self._asked(["remove", *(path.rpartition("/")[2] for path in every)], what) as scratch:
            self._await(lambda: not self.fetch(f"{folder}/made", scratch / "made"), what)

    def start(self, words: Sequence[str]) -> tuple[int, str]:
        """Start the app for a run with a runner's options; its process, and the folder that gets its results."""
        name = secrets.token_hex(8)
        self._runs.append(name)
        return self._launch(["run", name, *words], "while the app was started"), f"{DOCUMENTS}/runs/{name}"

    def is_running(self, process: int) -> bool:
        """Whether a process that `start` started is there."""
        what = "while the app was watched"
        return self._reached(what, lambda: self._tool.is_running(self._phone.udid, process))

    def end(self, process: int) -> None:
        """End a process that `start` started, if it is there; one that cannot be ended is no error."""
        with suppress(ToolError, DeviceError):
            self._tool.end(self._phone.udid, process)

    @property
    def app(self) -> str:
        """The identifier of the app that is installed."""
        if self._identifier is None:
            listed = self._reached("while it listed its apps", lambda: self._tool.apps(self._phone.udid))
            found = [name for name in listed if name.endswith(APP)]
            if not found:
                raise DeviceError(f"the benchmark app is not installed on {self.spec}", fix=INSTALL)
            if len(found) > 1:
                raise DeviceError(
                    f"there are {len(found)} benchmark apps on {self.spec}: {', '.join(found)}",
                    fix="delete all but one",
                )
            self._identifier = found[0]
        return self._identifier

    def _chosen(self, udid: str | None) -> Phone:
        phones = _listed(self._tool)
        listed = ", ".join(f"ios:{phone.udid}" for phone in phones)
        if udid is not None:
            for phone in phones:
                if phone.udid.lower() == udid.lower():
                    return phone
            attached = f"; attached: {listed}" if listed else ""
            raise DeviceError(f"ios:{udid} is not attached", fix=f"plug it in, unlock it, and tap `Trust`{attached}")
        if not phones:
            raise DeviceError("there is no iPhone attached", fix="plug it in, unlock it, and tap `Trust`")
        if len(phones) > 1:
            raise DeviceError(f"there are {len(phones)} iPhones attached", fix=f"choose one: {listed}")
        return phones[0]

    def _told(self) -> Told:
        name = secrets.token_hex(8)
        self._runs.append(name)
        what = "while the app told how the phone is"
        with self._asked(["state", name], what) as scratch:
            file = scratch / "state.json"
            self._await(lambda: self.fetch(f"{DOCUMENTS}/runs/{name}/state.json", file), what)
            try:
                return Told.model_validate(json.loads(file.read_bytes()))
            except (ValueError, ValidationError) as error:
                raise DeviceError(f"the app on {self.spec} told a damaged state", fix=INSTALL) from error

    @contextmanager
    def _asked(self, words: Sequence[str], what: str) -> Iterator[Path]:
        """A folder here for what the app answers, which is started with words and ended in any case."""
        process = self._launch(words, what)
        try:
            with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
                yield Path(scratch)
        finally:
            self.end(process)

    def _launch(self, words: Sequence[str], what: str) -> int:
        return self._reached(what, lambda: self._tool.launch(self._phone.udid, self.app, words))

    def _await(self, done: Callable[[], bool], what: str) -> None:
        until = self._clock() + PATIENCE
        while not done():
            if self._clock() > until:
                raise DeviceError(
                    f"the app on {self.spec} did not answer within {PATIENCE:.0f} s ({what})",
                    fix="see that it is in front and not asking for something",
                )
            self._sleep(POLL)

    def _reached(self, what: str, work: Callable[[], T]) -> T:
        try:
            return work()
        except GoneError:
            raise self._gone(what) from None
        except ToolError as error:
            said = str(error)
        with suppress(ToolError):  # a tool may say anything of a phone that was unplugged
            if self._phone.udid not in [phone.udid for phone in self._tool.phones()]:
                raise self._gone(what)
        raise self._refusal(said, what)

    def _gone(self, what: str) -> DeviceError:
        return DeviceError(f"{self.spec} is not attached ({what})", fix="plug it in and unlock it, and try again")

    def _refusal(self, said: str, what: str) -> DeviceError:
        where = f" ({what})" if what else ""
        for pattern, problem, fix in _PROBLEMS:
            if re.search(pattern, said):
                return DeviceError(f"{self.spec} {problem}{where}", fix=fix)
        return DeviceError(f"{self.spec} failed{where}: {said}", fix="unlock it, and try again")


@contextmanager
def staged(source: Path, target: str) -> Iterator[tuple[Path, str]]:
    """A folder with a file at its place in it, and where the app's container gets that folder.

    The tools make the folders above a file only where they copy a folder.
    """
    documents, first, *rest = target.split("/")
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
        folder = Path(scratch, first)
        place = folder.joinpath(*rest)
        place.parent.mkdir(parents=True)
        try:
            place.hardlink_to(source.resolve())
        except OSError:  # it is on another disk
            shutil.copyfile(source, place)
        yield folder, f"{documents}/{first}"


def _listed(tool: Tool) -> list[Phone]:
    try:
        return tool.phones()
    except ToolError as error:
        fix = "sudo apt-get install usbmuxd" if "usbmuxd" in str(error) else "unlock the phone, and plug it in again"
        raise DeviceError(f"iPhones cannot be listed: {error}", fix=fix) from None


def _check_path(path: str) -> None:
    parts = path.split("/")
    if parts[0] != DOCUMENTS or len(parts) < 3 or any(part in ("", ".", "..") for part in parts):
        raise UserError(f"{path!r} is no place of the app", fix=f"name one in a folder of {DOCUMENTS}/")
