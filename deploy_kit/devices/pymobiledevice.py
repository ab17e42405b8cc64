"""iPhones through the ``pymobiledevice3`` command (read at version 11.45.0), where there is no Xcode.

Each question starts it anew, which takes one to two seconds. What it says of an error is on standard error; where it
does not know its error, that is a traceback.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy_kit.devices.base import Completed
from deploy_kit.devices.calls import TRANSFER_BYTES_PER_S, call, last_line
from deploy_kit.devices.ios import GoneError, Phone, Tool, ToolError, staged
from deploy_kit.errors import MissingDependencyError

ANSWER_S = 90
"""Seconds that a question may take; developer services of iOS 17 need a tunnel first."""

GONE = ("Device is not connected", "Device not found", "usbmuxd does not know the device")
ABSENT = ("No such file on the device", "OBJECT_NOT_FOUND")


class PyMobileDevice(Tool):
    """The ``pymobiledevice3`` of this Python, or of the path; `MissingDependencyError` where there is none."""

    def __init__(self) -> None:
        beside = Path(sys.executable).parent
        program = shutil.which("pymobiledevice3", path=str(beside)) or shutil.which("pymobiledevice3")
        if program is None:
            raise MissingDependencyError(
                "there is no pymobiledevice3, which iPhones are reached with", fix="pip install 'deploy-kit[ios]'"
            )
        self._program = program

    def phones(self) -> list[Phone]:
        found: dict[str, Phone] = {}
        listed = self._json(["usbmux", "list"])
        if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
            raise ToolError(f"pymobiledevice3 wrote no list of devices: {str(listed)[:200]}")
        for each in listed:
            if each.get("DeviceClass") not in (None, "iPhone", "iPad", "iPod"):
                continue
            udid = str(each.get("UniqueDeviceID") or each.get("Identifier") or "")
            if udid and udid not in found:  # once by cable, once more over Wi-Fi
                found[udid] = Phone(udid, str(each.get("ProductType") or ""), None, each.get("ProductVersion"))
        return list(found.values())

    def apps(self, udid: str) -> list[str]:
        listed = self._json(["apps", "list", "--type", "User", "--udid", udid])
        if not isinstance(listed, dict):
            raise ToolError(f"pymobiledevice3 wrote no list of apps: {str(listed)[:200]}")
        return list(listed)

    def push(self, udid: str, app: str, source: Path, target: str) -> None:
        seconds = ANSWER_S + source.stat().st_size // TRANSFER_BYTES_PER_S
        with staged(source, target) as (folder, place):
            parent = f"/{place.rpartition('/')[0]}"
            self._do(["apps", "push", app, str(folder), parent, "--documents", "--udid", udid], seconds)

    def pull(self, udid: str, app: str, source: str, target: Path) -> bool:
        words = ["apps", "pull", app, f"/{source}", str(target), "--documents", "--udid", udid]
        try:
            self._do(words, 600)
        except ToolError as error:
            if any(words in str(error) for words in ABSENT):
                return False
            raise
        return target.exists()

    def launch(self, udid: str, app: str, words: Sequence[str]) -> int:
        said = self._do(["developer", "dvt", "launch", shlex.join([app, *words]), "--udid", udid]).stdout
        process = said.strip().rpartition(" ")[2]
        if not process.isdigit():
            raise ToolError(f"the app was started, but not as which process: {said.strip()}")
        return int(process)

    def is_running(self, udid: str, process: int) -> bool:
        return bool(self._json(["developer", "dvt", "is-running-pid", str(process), "--udid", udid]))

    def end(self, udid: str, process: int) -> None:
        self._do(["developer", "dvt", "kill", str(process), "--udid", udid])

    def remove(self, udid: str, app: str, folders: Sequence[str]) -> bool:
        for folder in folders:
            try:
                self._do(["apps", "rm", app, f"/{folder}", "--documents", "--udid", udid])
            except ToolError as error:
                if not any(words in str(error) for words in ABSENT):
                    raise
        return True

    def _json(self, words: Sequence[str]) -> Any:
        said = self._do(words).stdout
        try:
            return json.loads(said)
        except ValueError:
            raise ToolError(f"pymobiledevice3 wrote no JSON: {said.strip()[:200]}") from None

    def _do(self, words: Sequence[str], seconds: int = ANSWER_S) -> Completed:
        done = call([self._program, "--no-color", *words], seconds)
        if done.returncode == 0:
            return done
        said = [line.strip() for line in done.stderr.splitlines() if "Run again with -v" not in line]
        text = next((line for line in said if " ERROR " in line), "") or last_line(done)
        text = text.rpartition(" ERROR ")[2].strip() or f"pymobiledevice3 ended with {done.returncode}"
        if any(words in text for words in GONE):
            raise GoneError(text)
        raise ToolError(text)
