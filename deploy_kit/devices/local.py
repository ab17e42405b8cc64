"""This machine as a device."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from deploy_kit.devices.base import Completed, Device, DeviceError, DeviceInfo, DeviceState
from deploy_kit.devices.calls import check_size
from deploy_kit.devices.description import SCRIPT, describe, observe
from deploy_kit.disk import FULL
from deploy_kit.errors import UserError
from deploy_kit.worker import GUARD

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""What a shell returns for a program that is missing, and for one that may not be run."""


class Local(Device):
    """This machine; ``root`` is where its ``/proc``, ``/sys`` and ``/etc`` are."""

    spec = "local"

    def __init__(self, root: Path = Path("/")):
        self._root = root

    def info(self) -> DeviceInfo:
        return describe(self.spec, self._describe())

    def state(self) -> DeviceState:
        return observe(self._describe())

    def run(self, command: Sequence[str], *, timeout: float, environment: Mapping[str, str] | None = None) -> Completed:
        with subprocess.Popen(GUARD, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, process_group=0) as guard:
            process = None
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env={**os.environ, **(environment or {})},
                    process_group=guard.pid,
                )
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                raise DeviceError(
                    f"{command[0]} was still running on this machine after {timeout:g} s and was ended"
                ) from None
            except OSError as error:
                return _not_started(command[0], error)
            finally:
                with suppress(ProcessLookupError, PermissionError):  # macOS does not permit it where all have ended
                    os.killpg(guard.pid, signal.SIGKILL)
                if process:
                    process.wait()
        code = process.returncode
        return Completed(
            returncode=code if code >= 0 else 128 - code,
            stdout=out.decode(errors="replace"),
            stderr=err.decode(errors="replace"),
        )

    def push(self, source: Path, target: str) -> None:
        _copy(source, Path(target))

    def pull(self, source: str, target: Path) -> None:
        if not Path(source).is_file():
            raise DeviceError(f"{source!r} is not there: what was to write it wrote nothing")
        check_size(self.spec, source, Path(source).stat().st_size)
        _copy(Path(source), target)

    def make_folder(self) -> str:
        return tempfile.mkdtemp(prefix="deploykit-")

    def remove(self, folder: str) -> None:
        if not Path(folder).name.startswith("deploykit-"):
            raise ValueError(f"{folder} is no folder that was made here")
        shutil.rmtree(folder, ignore_errors=True)

    def _describe(self) -> str:
        return self.run(["sh", "-c", SCRIPT, "sh", str(self._root)], timeout=30).stdout


def _not_started(program: str, error: OSError) -> Completed:
    """How a shell tells that a program cannot be started."""
    if error.errno == errno.ENOEXEC:
        raise DeviceError(
            f"this machine cannot run {Path(program).name!r}, which is made for another machine: {error.strerror}",
            fix="use a file for the ABI that `deploykit devices` shows for it",
        ) from error
    code = NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE
    return Completed(returncode=code, stdout="", stderr=f"{program}: {error.strerror}")


def _copy(source: Path, target: Path) -> None:
    """Copy a file with its mode, whole or not at all."""
    if not source.is_file():
        raise UserError(f"there is no file {str(source)!r} to copy")
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".deploykit-") as folder:
            part = Path(folder, "part")
            shutil.copy(source, part)
            part.replace(target)
    except OSError as error:
        full = error.errno in FULL
        raise DeviceError(
            f"{str(target)!r} cannot be written: {error.strerror}",
            fix="free some space" if full else "choose a folder that can be written",
        ) from error
