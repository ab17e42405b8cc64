"""``xcrun`` as far as the harness asks it, for phones that are folders: run by the tests as a program.

The JSON is as devicectl writes it, of the fields that matter: Flutter's and Qt Creator's tests keep real answers of
``list devices``, ``device process launch`` and ``device info processes`` (``core_devices_test.dart``,
``tst_devicectlutils.cpp``); sweetpad's of Xcode 27 (``devicectl.rs``), with ``properties`` in place of the deprecated
three. A copy of a missing file fails with CoreDeviceError 7000, a launch on a locked phone with 10002. What is in a
folder that is copied lands in the destination itself.

``FAKE_PHONES`` is a folder with ``phones.json``, a list as of `PHONE`, and a container for each UDID.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from itertools import pairwise

ROOT = os.environ.get("FAKE_PHONES", "")
PATH = "/private/var/containers/Bundle/Application/0000/Benchmark.app/Benchmark"
LOCKED = {
    "code": 10002,
    "domain": "com.apple.dt.CoreDeviceError",
    "userInfo": {
        "NSLocalizedDescription": {"string": "The application failed to launch."},
        "NSUnderlyingError": {
            "error": {
                "code": 7,
                "domain": "FBSOpenApplicationErrorDomain",
                "userInfo": {
                    "BSErrorCodeDescription": {"string": "Locked"},
                    "NSLocalizedFailureReason": {
                        "string": "Unable to launch it because the device was not, or could not be, unlocked."
                    },
                },
            }
        },
    },
}


def main(words: list[str]) -> int:
    if words[0] == "--find":
        return 0 if ROOT else 72
    assert words[0] == "devicectl", words
    before = words[: words.index("--")] if "--" in words else words
    options = {name: value for name, value in pairwise(before) if name.startswith("--")}
    with open(f"{ROOT}/calls", "a") as file:
        file.write(" ".join(words) + "\n")
    with open(f"{ROOT}/phones.json") as file:
        phones = json.load(file)
    command = [word for word in before[1:5] if not word.startswith("-")]
    if command[:2] == ["list", "devices"]:
        return answer(options, {"devices": [describe(phone) for phone in phones]})
    phone = next((phone for phone in phones if phone["udid"] == options["--device"]), None)
    verb = " ".join(command[1:3])
    if phone is None or phone.get("unplugged_at") == verb:
        if phone is not None:
            with open(f"{ROOT}/phones.json", "w") as file:
                json.dump([each for each in phones if each is not phone], file)
            return fail(options, 4, "The connection was interrupted.")
        return fail(options, 1000, f"The specified device was not found. (Name: {options['--device']})")
    return VERBS[verb](phone, options, words)


def apps(phone: dict, options: dict, words: list[str]) -> int:
    return answer(options, {"apps": [{"bundleIdentifier": name} for name in phone["apps"]]})


def copy_to(phone: dict, options: dict, words: list[str]) -> int:
    if phone.get("full"):
        return fail(options, 7000, "The file could not be copied.", reason="No space left on device")
    target = container(phone, options) + "/" + options["--destination"]
    if os.path.isdir(options["--source"]):
        shutil.copytree(options["--source"], target, dirs_exist_ok=True, symlinks=True)
        return answer(options, {})
    return fail(options, 7000, "The harness copies folders: whether those above a file are made is not known.")


def copy_from(phone: dict, options: dict, words: list[str]) -> int:
    source = container(phone, options) + "/" + options["--source"]
    if not os.path.exists(source):
        return fail(options, 7000, f"Failed to retrieve the file node for {options['--source']}")
    shutil.copy(source, options["--destination"])
    return answer(options, {})


def launch(phone: dict, options: dict, words: list[str]) -> int:
    if phone.get("locked"):
        return answer(options, None, LOCKED)
    if phone.get("launch_says"):
        return fail(options, 10002, "The application failed to launch.", reason=phone["launch_says"])
    assert "--terminate-existing" in words
    app = words[words.index("--") - 1]
    assert app in phone["apps"], app
    arguments = words[words.index("--") + 1 :]
    environment = {**os.environ, "DOCUMENTS": f"{ROOT}/{phone['udid']}/Documents", "KIND": phone.get("kind", "")}
    with open(f"{ROOT}/app.log", "ab") as log:
        process = subprocess.Popen(
            [*phone["app"], *arguments], env=environment, start_new_session=True, stdout=log, stderr=log
        )
    with open(f"{ROOT}/processes", "a") as file:
        file.write(f"{process.pid}\n")
    return answer(options, {"process": {"executable": f"file://{PATH}", "processIdentifier": process.pid}})


def processes(phone: dict, options: dict, words: list[str]) -> int:
    with open(f"{ROOT}/processes") as file:
        started = [int(line) for line in file]
    here = [each for each in started if is_alive(each)]
    listed = [{"executable": f"file://{PATH}", "processIdentifier": each} for each in here]
    return answer(
        options, {"runningProcesses": [{"executable": "file:///sbin/launchd", "processIdentifier": 1}, *listed]}
    )


def terminate(phone: dict, options: dict, words: list[str]) -> int:
    try:
        os.kill(int(options["--pid"]), signal.SIGKILL)
    except ProcessLookupError:
        return fail(options, 10004, "The process identifier is not valid.")
    return answer(options, {})


VERBS = {
    "info apps": apps,
    "copy to": copy_to,
    "copy from": copy_from,
    "process launch": launch,
    "info processes": processes,
    "process terminate": terminate,
}


def container(phone: dict, options: dict) -> str:
    assert options["--domain-type"] == "appDataContainer"
    assert options["--domain-identifier"] in phone["apps"]
    return f"{ROOT}/{phone['udid']}"


def is_alive(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def describe(phone: dict) -> dict:
    hardware = {
        "deviceType": phone.get("kind_of", "iPhone"),
        "marketingName": phone.get("name", "iPhone 13"),
        "platform": phone.get("platform", "iOS"),
        "productType": phone["product"],
        "reality": phone.get("reality", "physical"),
        "udid": phone["udid"],
    }
    pairing, mode = phone.get("pairing", "paired"), phone.get("mode", "enabled")
    state = phone.get("state", "connected")
    identifier = "8648BE6E-199F-55FE-B508-5B42071FEE92"
    if phone.get("version") == 5:
        properties = {
            "connection": {"pairingState": pairing, "state": state, "transportType": "wired"},
            "hardware": hardware,
            "software": {"osVersionNumber": {"components": [27, 0, 0, 0, 0], "stringValue": "27.0"}},
            "state": {"bootState": "booted", "developerModeStatus": {mode: {"mode": 1}}, "name": "Phone"},
        }
        return {"identifier": identifier, "properties": properties}
    return {
        "identifier": identifier,
        "connectionProperties": {"pairingState": pairing, "transportType": "wired", "tunnelState": state},
        "deviceProperties": {"developerModeStatus": mode, "name": "Phone", "osVersionNumber": "18.5"},
        "hardwareProperties": hardware,
    }


def fail(options: dict, code: int, description: str, reason: str = "") -> int:
    told = {"NSLocalizedDescription": {"string": description}}
    if reason:
        told["NSUnderlyingError"] = {
            "error": {
                "code": 28,
                "domain": "NSPOSIXErrorDomain",
                "userInfo": {"NSLocalizedDescription": {"string": reason}},
            }
        }
    return answer(options, None, {"code": code, "domain": "com.apple.dt.CoreDeviceError", "userInfo": told})


def answer(options: dict, result: dict | None, error: dict | None = None) -> int:
    info = {"jsonVersion": 2, "outcome": "success" if error is None else "failed", "version": "397.28"}
    document = {"info": info, "error": error} if error is not None else {"info": info, "result": result}
    with open(options["--json-output"], "w") as file:
        json.dump(document, file)
    return 0 if error is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
