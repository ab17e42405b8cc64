"""Android devices, through the `adb` program.

`adb` joins the words of a command into one line for the device's shell, leaves a program running when its client ends,
and exits with 0 where the device is gone in the middle. So every word is quoted, every command runs under a guard on
the device, and only what the guard says last counts as its end.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from deploy_kit.devices.base import Completed, Device, DeviceError, DeviceInfo, DeviceState
from deploy_kit.devices.calls import TRANSFER_BYTES_PER_S
from deploy_kit.devices.description import SCRIPT, describe, observe
from deploy_kit.devices.shell import arriving, check_path, reason, refusal, size_of, words_of
from deploy_kit.errors import MissingDependencyError, UserError

T = TypeVar("T")

TEMPORARY = "/data/local/tmp"
"""Where Android lets the shell's user write files and run them."""

GUARDED = """exec 3<&0; echo {mark}
( {command} ) </dev/null 3<&- & child=$!
( read -r _ <&3; kill -9 -$$ || kill -9 $child ) >/dev/null 2>&1 & guard=$!
exec 3<&-; wait $child; code=$?; echo {mark}$code
kill -9 -$$ 2>/dev/null || kill -9 $guard"""
"""Run a command and say how it ended, between marks; end it when standard input closes, as it does when the client
here ends, the server ends, or the cable is pulled. adbd makes the shell the leader of its process group: at the end all
of it is ended."""

PLUG_IN = "plug it in, unlock it, and allow USB debugging in its developer options"

RESTARTED = "daemon not running"
"""What a client says when it had to start the server, which then knows no device yet."""

SERVER_S = 20.0
"""How long the server may take to start and to list devices."""

ENDING_S = 5.0
"""How long a program on the device may take to be gone once it is told to end."""

_WRONG_ABI = re.compile(
    r"not executable: \d+-bit ELF|Exec format error|cannot execute binary file|: \x7fELF"
    r"|is for EM_\w+ \(\d+\) instead of EM_"
)

_STATES = {
    "unauthorized": (
        "has not authorised this computer",
        "unlock it and accept `Allow USB debugging`; where it does not ask, revoke the authorisations in its developer "
        "options and plug it in again",
    ),
    "authorizing": ("is waiting to be authorised", "unlock it and accept `Allow USB debugging`"),
    "offline": ("is offline", "plug it in again, or `adb reconnect offline`; over a network, `adb disconnect` first"),
    "connecting": ("is still connecting", "wait a moment and try again"),
    "no permissions": (
        "may not be opened by this user",
        "sudo apt-get install android-sdk-platform-tools-common, and plug it in again",
    ),
}
"""What a state of `adb devices` is, and what to do about it."""


class _UnreachedError(Exception):
    """A command of `adb` did not do its work; the text is what it said."""


def find_adb() -> str:
    """The `adb` program, on the path or in the SDK that ``ANDROID_HOME`` names."""
    sdk = os.environ.get("ANDROID_HOME")
    found = shutil.which("adb") or (sdk and shutil.which("adb", path=str(Path(sdk, "platform-tools"))))
    if not found:
        raise MissingDependencyError(
            "adb is not installed, which Android devices are reached with",
            fix="sudo apt-get install adb, or put the `platform-tools` of Android's SDK on the PATH",
        )
    return found


def attached_serials() -> dict[str, str]:
    """The serials that adb lists, each with its state: ``device`` for one that can be used."""
    return _devices()[0]


class Adb(Device):
    """A phone, tablet or board that `adb` reaches.

    Args:
        serial: as `adb devices` lists it; None is the only device there is.
        answer_s: how long it may take over a question, such as what it is.

    Raises:
        MissingDependencyError: there is no adb.
        DeviceError: there is no such device, it cannot be used as it is, or None is not one.
    """

    def __init__(self, serial: str | None = None, *, answer_s: float = 30.0):
        if serial is not None and (not serial or not serial.isprintable() or serial.startswith("-")):
            raise UserError(f"{serial!r} is no serial of a device", fix="`adb devices` lists them")
        self._answer_s = answer_s
        self.serial = _only_serial() if serial is None else serial
        self.spec = f"adb:{self.serial}"
        what = "while it was asked what it can do"
        features = self._reached(what, lambda: self._adb("features", what=what, timeout=answer_s).stdout)
        if "shell_v2" not in features.split():
            raise DeviceError(
                f"{self.spec} does not say how a program ended", fix="use a device with Android 7 or newer"
            )

    def info(self) -> DeviceInfo:
        return describe(self.spec, self._describe())

    def state(self) -> DeviceState:
        return observe(self._describe())

    def run(self, command: Sequence[str], *, timeout: float, environment: Mapping[str, str] | None = None) -> Completed:
        name = command[0].rpartition("/")[2]
        done = self._shell(words_of(command, environment), timeout, f"while {name!r} ran")
        if done.returncode != 0 and _WRONG_ABI.search(done.stderr):
            raise DeviceError(
                f"{self.spec} cannot run {name!r}, which is made for another machine: {reason(done.stderr)}",
                fix="use a file for the ABI that `deploykit devices` shows for it",
            )
        return done

    def push(self, source: Path, target: str) -> None:
        check_path(target)
        if not source.is_file():
            raise UserError(f"there is no file {str(source)!r} to push")
        size = source.stat().st_size
        words = ("push", str(source.absolute()), target)
        what = f"while {source.name!r} was pushed to {target!r}"
        self._reached(what, lambda: self._adb(*words, what=what, timeout=self._answer_s + size / TRANSFER_BYTES_PER_S))
        mode = "755" if os.access(source, os.X_OK) else "644"
        place = shlex.quote(target)
        arrived = self._ask(f"chmod {mode} {place} && wc -c < {place}", what)
        if arrived.strip() != str(size):
            raise DeviceError(
                f"{self.spec} has {arrived.strip()} of the {size} bytes of {target!r}", fix="push it again"
            )

    def pull(self, source: str, target: Path) -> None:
        check_path(source)
        what = f"while {source!r} was pulled"
        with arriving(self.spec, source, target, self._ask(size_of(source), what)) as (part, size):
            words = ("pull", source, str(part.absolute()))
            limit = self._answer_s + size / TRANSFER_BYTES_PER_S
            self._reached(what, lambda: self._adb(*words, what=what, timeout=limit))

    def make_folder(self) -> str:
        folder = f"{TEMPORARY}/deploykit-{secrets.token_hex(8)}"
        try:
            self._ask(f"mkdir {folder}", "while a folder was made")
        except BaseException:  # the device may have made it
            with suppress(DeviceError):
                self.remove(folder)
            raise
        return folder

    def remove(self, folder: str) -> None:
        if not re.fullmatch(rf"{TEMPORARY}/deploykit-\w+", folder):
            raise ValueError(f"{folder} is no folder that was made here")
        self._ask(f"rm -rf {folder}", f"while {folder} was removed")

    def _describe(self) -> str:
        return self._shell(words_of(["sh", "-c", SCRIPT]), self._answer_s, "while it described itself").stdout

    def _ask(self, command: str, what: str) -> str:
        """What a short command prints, which has to succeed."""
        done = self._shell(command, self._answer_s, what)
        if done.returncode != 0:
            raise refusal(self.spec, done.stderr, what)
        return done.stdout

    def _shell(self, command: str, timeout: float, what: str) -> Completed:
        """Run a line of shell on the device to its end; it is ended with this process, and where time runs out."""
        mark = f"deploykit-{secrets.token_hex(8)}"

        def once() -> Completed:
            script = GUARDED.format(mark=mark, command=command)
            done = self._adb("shell", script, what=what, timeout=timeout, check=False)
            _, body, end = [*done.stdout.split(mark), "", ""][:3]
            if re.fullmatch(r"\d+\n", end):
                return Completed(returncode=int(end), stdout=body.removeprefix("\n"), stderr=done.stderr)
            if mark not in done.stdout:
                raise _UnreachedError(done.stdout + done.stderr)
            if self._server_restarted(done.stderr):  # it may have done anything: not to be repeated
                raise DeviceError(f"the server of adb ended {what} on {self.spec}, which was ended", fix="run it again")
            raise self._gone(what, "the connection to it was lost")

        return self._reached(what, once)

    def _reached(self, what: str, work: Callable[[], T]) -> T:
        """The result of ``work``; once more where the server of adb had ended and has the device again."""
        try:
            return work()
        except _UnreachedError as first:
            said = str(first)
        if self._server_restarted(said):
            try:
                return work()
            except _UnreachedError as second:
                said = str(second)
        raise self._gone(what, said)

    def _server_restarted(self, said: str) -> bool:
        _, words = _devices()
        if RESTARTED not in said + words:
            return False
        if self._over_network:  # which only `connect` finds
            with suppress(subprocess.TimeoutExpired):
                _call(["connect", self.serial], self._answer_s)
        until = time.monotonic() + min(self._answer_s, 10)  # a cable takes it a moment
        while attached_serials().get(self.serial) != "device":
            if time.monotonic() > until:
                return False
            time.sleep(0.1)
        return True

    @property
    def _over_network(self) -> bool:
        return re.search(r":\d+$", self.serial) is not None

    def _adb(self, *words: str, what: str, timeout: float, check: bool = True) -> Completed:
        """A command of `adb` for this device."""
        try:
            done = _call(["-s", self.serial, *words], timeout)
        except subprocess.TimeoutExpired:
            raise DeviceError(
                f"{self.spec} took more than {timeout:g} s and was stopped ({what})",
                fix="see that it is awake and not busy; plug it in again where it does not answer at all",
            ) from None
        if check and done.returncode != 0:
            raise _UnreachedError(done.stdout + done.stderr)
        return done

    def _gone(self, what: str, said: str) -> DeviceError:
        """The error for a device that did not do its work, by the state that adb lists it in."""
        listed = attached_serials()
        state = listed.get(self.serial)
        if state == "device":
            return refusal(self.spec, said, what)
        if state is None:
            others = ", ".join(f"adb:{serial}" for serial in listed)
            get = f"adb connect {shlex.quote(self.serial)}" if self._over_network else PLUG_IN
            fix = f"{get}; attached: {others}" if others else get
            return DeviceError(f"{self.spec} is not attached ({what})", fix=fix)
        problem, fix = _STATES.get(re.split(" ?[;(]", state)[0], (f"is in the state {state!r}", "start Android on it"))
        return DeviceError(f"{self.spec} {problem} ({what})", fix=fix)


def _only_serial() -> str:
    listed = attached_serials()
    if not listed:
        raise DeviceError("there is no device attached to adb", fix=PLUG_IN)
    if len(listed) > 1:
        raise DeviceError(
            f"there are {len(listed)} devices attached to adb",
            fix=f"choose one: {', '.join(f'adb:{s}' for s in listed)}",
        )
    return next(iter(listed))


def _devices() -> tuple[dict[str, str], str]:
    """States by serial, and what adb said besides."""
    try:
        done = _call(["devices"], SERVER_S)
    except subprocess.TimeoutExpired:
        raise DeviceError("adb does not answer", fix="adb kill-server, and try again") from None
    if done.returncode != 0:
        raise DeviceError(f"adb cannot start its server: {reason(done.stderr)}", fix="adb start-server says more")
    lines = [line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line]
    return {serial: state.strip() for serial, state in lines}, done.stderr


def _call(words: Sequence[str], timeout: float) -> Completed:
    """Run `adb` to its end, holding its standard input open: what it runs on the device ends when that closes."""
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [find_adb(), *words],
            stdin=reading,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except BaseException:
        os.close(writing)
        raise
    finally:
        os.close(reading)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        os.close(writing)
        _end(process, ENDING_S if "shell" in words else 0)
    return Completed(
        returncode=process.returncode, stdout=out.decode(errors="replace"), stderr=err.decode(errors="replace")
    )


def _end(process: subprocess.Popen[bytes], wait_s: float) -> None:
    """Let a client see the end of what it started on the device, for a while; then end it."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(wait_s)
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream:
            stream.close()
