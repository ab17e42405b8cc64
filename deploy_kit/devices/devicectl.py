"""iPhones through Xcode's ``xcrun devicectl``, which writes what it found to a JSON file.

The format is that of Xcode 15 to 27 (``jsonVersion`` 2 to 5): a device is described by ``hardwareProperties``,
``deviceProperties`` and ``connectionProperties``, and since 5 by ``properties``, which will replace them.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from deploy_kit.devices.calls import TRANSFER_BYTES_PER_S, call, last_line
from deploy_kit.devices.ios import GoneError, Phone, Tool, ToolError, staged
from deploy_kit.errors import MissingDependencyError

NOT_FOUND, NO_FILE = 1000, 7000
"""Codes of CoreDeviceError: the device is not there; a copy failed."""

ANSWER_S = 60
"""Seconds that a question may take; a first connection takes several."""


class Devicectl(Tool):
    """``xcrun devicectl``; `MissingDependencyError` where there is none."""

    def __init__(self) -> None:
        xcrun = shutil.which("xcrun")
        if xcrun is None or call([xcrun, "--find", "devicectl"], ANSWER_S).returncode != 0:
            raise MissingDependencyError(
                "there is no devicectl, which iPhones are reached with",
                fix="install Xcode 15 or newer, and `sudo xcode-select --switch /Applications/Xcode.app`",
            )
        self._xcrun = xcrun

    def phones(self) -> list[Phone]:
        found = [_phone(each) for each in _objects(self._ask(["list", "devices"]), "devices")]
        return [phone for phone in found if phone is not None]

    def apps(self, udid: str) -> list[str]:
        return [str(app.get("bundleIdentifier")) for app in _objects(self._of(udid, ["info", "apps"]), "apps")]

    def push(self, udid: str, app: str, source: Path, target: str) -> None:
        seconds = ANSWER_S + source.stat().st_size // TRANSFER_BYTES_PER_S
        with staged(source, target) as (folder, place):  # what is in the folder gets to the place, beside what is there
            words = [*_domain(app), "--source", str(folder), "--destination", place]
            self._of(udid, ["copy", "to"], words, seconds)

    def pull(self, udid: str, app: str, source: str, target: Path) -> bool:
        try:
            self._of(udid, ["copy", "from"], [*_domain(app), "--source", source, "--destination", str(target)], 600)
        except _FailedError as error:
            if error.code == NO_FILE and "retrieve the file node" in str(error):
                return False
            raise
        return True

    def launch(self, udid: str, app: str, words: Sequence[str]) -> int:
        options = ["--terminate-existing"]
        started = self._of(udid, ["process", "launch"], options, tail=[app, "--", *words]).get("process")
        process = started.get("processIdentifier") if isinstance(started, dict) else None
        if not isinstance(process, int):
            raise ToolError("devicectl started the app, and does not tell as which process")
        return process

    def is_running(self, udid: str, process: int) -> bool:
        running = _objects(self._of(udid, ["info", "processes"]), "runningProcesses")
        return any(each.get("processIdentifier") == process for each in running)

    def end(self, udid: str, process: int) -> None:
        self._of(udid, ["process", "terminate"], ["--pid", str(process)])

    def _of(
        self,
        udid: str,
        command: Sequence[str],
        options: Sequence[str] = (),
        seconds: int = ANSWER_S,
        tail: Sequence[str] = (),
    ) -> dict[str, Any]:
        return self._ask(["device", *command, "--device", udid, *options], seconds, tail)

    def _ask(self, command: Sequence[str], seconds: int = ANSWER_S, tail: Sequence[str] = ()) -> dict[str, Any]:
        """What a command finds: the ``result`` of its JSON."""
        with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
            answer = Path(scratch, "answer.json")
            options = ["--quiet", "--timeout", str(seconds), "--json-output", str(answer)]
            done = call([self._xcrun, "devicectl", *command, *options, *tail], seconds + 10)
            try:
                document = json.loads(answer.read_bytes())
            except (OSError, ValueError):
                raise ToolError(last_line(done) or "devicectl said nothing") from None
        if not isinstance(document, dict):
            raise ToolError("devicectl wrote no description of what it found")
        result = document.get("result")
        if done.returncode == 0 and isinstance(result, dict):
            return result
        error = document.get("error")
        if not isinstance(error, dict):
            raise ToolError(last_line(done) or f"devicectl ended with {done.returncode} and no result")
        if error.get("code") == NOT_FOUND:
            raise GoneError(_said(error))
        raise _FailedError(_said(error), error.get("code"))


class _FailedError(ToolError):
    def __init__(self, said: str, code: object):
        super().__init__(said)
        self.code = code


def _objects(result: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The list of objects that a result has by a name; `ToolError` where it has none."""
    found = result.get(name)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ToolError(f"devicectl wrote no list of {name}")
    return found


def _domain(app: str) -> list[str]:
    return ["--domain-type", "appDataContainer", "--domain-identifier", app]


def _said(error: dict[str, Any]) -> str:
    """What an error and those below it say, one after the other."""
    return "; ".join(dict.fromkeys(_texts(error))) or f"error {error.get('code')} of {error.get('domain')}"


def _texts(error: dict[str, Any]) -> Iterator[str]:
    info = error.get("userInfo")
    for key, value in sorted(info.items()) if isinstance(info, dict) else ():
        if not isinstance(value, dict):
            continue
        if isinstance(value.get("string"), str) and key.startswith(("NSLocalized", "BSErrorCode")):
            yield value["string"].strip()
        if isinstance(value.get("error"), dict):
            yield from _texts(value["error"])


def _phone(device: dict[str, Any]) -> Phone | None:
    """A device that can be reached; None for a simulator, another kind of device, and one that is only remembered."""

    def pick(*paths: str) -> Any:
        for path in paths:
            value: Any = device
            for key in path.split("."):
                value = value.get(key) if isinstance(value, dict) else None
            if value not in (None, "", {}):
                return value
        return None

    udid = pick("properties.hardware.udid", "hardwareProperties.udid", "identifier")
    platform = pick("properties.hardware.platform", "hardwareProperties.platform")
    reality = pick("properties.hardware.reality", "hardwareProperties.reality")
    connection = pick("properties.connection.state", "connectionProperties.tunnelState")
    if not udid or platform not in (None, "iOS", "iPadOS") or reality == "simulated" or connection == "unavailable":
        return None
    mode = pick("properties.state.developerModeStatus", "deviceProperties.developerModeStatus")
    pairing = pick("properties.connection.pairingState", "connectionProperties.pairingState")
    problem = None
    if pairing not in (None, "paired"):
        problem = "not paired"
    elif mode == "disabled" or (isinstance(mode, dict) and "disabled" in mode):
        problem = "Developer Mode is disabled"
    return Phone(
        udid=str(udid),
        product=str(pick("properties.hardware.productType", "hardwareProperties.productType") or ""),
        name=pick("properties.hardware.marketingName", "hardwareProperties.marketingName"),
        system=pick("properties.software.osVersionNumber.stringValue", "deviceProperties.osVersionNumber"),
        problem=problem,
    )
