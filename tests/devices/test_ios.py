"""iPhones, through a fake ``xcrun devicectl`` and the real ``pymobiledevice3`` where it is installed."""

from __future__ import annotations

import json
import plistlib
import shutil
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy_kit.devices import ios as module
from deploy_kit.devices.base import DeviceError
from deploy_kit.devices.devicectl import Devicectl
from deploy_kit.devices.ios import Ios, attached_udids
from deploy_kit.devices.iphones import IPHONES, chip_of, name_of
from deploy_kit.devices.pymobiledevice import PyMobileDevice
from deploy_kit.devices.registry import attached, get_device
from deploy_kit.errors import MissingDependencyError, UserError
from tests.devices.iphones import BUNDLE, UDID, Phones

OTHER = "00008130-001234560E12001C"


@pytest.fixture
def phones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Phones]:
    found = Phones(tmp_path / "phones", monkeypatch)
    yield found
    found.close()


@pytest.mark.parametrize(("version", "system"), [(2, "iOS 18.5"), (5, "iOS 27.0")])
def test_what_a_phone_is(phones: Phones, version: int, system: str) -> None:
    phones.set({"version": version})
    info = phones.ios().info()
    assert (info.model, info.soc, info.os, info.abi) == ("iPhone 13", "Apple A15 Bionic", system, "aarch64")
    assert not info.emulated


def test_a_phone_that_is_newer_than_this_keeps_what_it_is_told_to_be(phones: Phones) -> None:
    phones.set({"product": "iPhone99,1", "name": "iPhone 40"})
    info = phones.ios().info()
    assert (info.model, info.soc) == ("iPhone 40", None)
    assert name_of("iPhone99,1") == "iPhone99,1"
    assert (name_of("iPhone14,2"), chip_of("iPhone14,2")) == ("iPhone 13 Pro", "Apple A15 Bionic")
    assert all(product.startswith("iPhone") and chip.startswith("Apple A") for product, (_, chip) in IPHONES.items())


def test_only_phones_that_are_there_are_listed(phones: Phones) -> None:
    phones.set(
        {},
        {"udid": "SIMULATED-0000", "reality": "simulated"},
        {"udid": "REMEMBERED-000", "state": "unavailable"},
        {"udid": "WATCH-00000000", "platform": "watchOS"},
        {"udid": OTHER, "version": 5, "state": "disconnected"},  # it is reached when it is asked
    )
    assert attached_udids(Devicectl()) == sorted([UDID, OTHER])


def test_the_only_phone_needs_no_udid(phones: Phones) -> None:
    assert phones.ios(None).spec == f"ios:{UDID}"
    assert phones.ios(UDID.lower()).spec == f"ios:{UDID}"
    phones.set({}, {"udid": OTHER})
    with pytest.raises(DeviceError, match="2 iPhones attached") as caught:
        phones.ios(None)
    assert f"ios:{UDID}" in caught.value.fix
    with pytest.raises(DeviceError, match="ios:0123456789 is not attached") as caught:
        phones.ios("0123456789")
    assert f"attached: ios:{UDID}, ios:{OTHER}" in caught.value.fix
    phones.set()
    with pytest.raises(DeviceError, match="no iPhone attached"):
        phones.ios(None)


def test_a_udid_that_is_none() -> None:
    for udid in ("", "-x", "a b", "$(reboot)", "../../etc/passwd", "--help-me-now-please;"):
        with pytest.raises(UserError, match="is no UDID"):
            Ios(udid)


@pytest.mark.parametrize(
    ("phone", "message", "fix"),
    [
        ({"pairing": "unpaired"}, "is not paired with this computer$", "tap `Trust`"),
        ({"mode": "disabled"}, "has its developer mode off$", "Privacy & Security > Developer Mode"),
        ({"mode": "disabled", "version": 5}, "has its developer mode off$", "Developer Mode"),
    ],
)
def test_a_phone_that_cannot_be_used(phones: Phones, phone: dict[str, Any], message: str, fix: str) -> None:
    phones.set(phone)
    with pytest.raises(DeviceError, match=message) as caught:
        phones.ios()
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("phone", "message", "fix"),
    [
        ({"apps": ["com.apple.Pages"]}, "the benchmark app is not installed", "ios_app/README.md"),
        ({"apps": [BUNDLE, f"b.{BUNDLE}"]}, "there are 2 benchmark apps", "delete all but one"),
        ({"full": True}, "is full", "free some space"),
        ({"unplugged_at": "copy to"}, "is not attached .while 'made' was pushed.", "plug it in"),
        ({"unplugged_at": "info apps"}, "is not attached", "plug it in"),
    ],
)
def test_a_phone_that_takes_nothing(phones: Phones, phone: dict[str, Any], message: str, fix: str) -> None:
    phones.set(phone)
    with pytest.raises(DeviceError, match=message) as caught:
        phones.ios().make_folder()
    assert fix in caught.value.fix
    assert phones.left == []


@pytest.mark.parametrize(
    ("phone", "message", "fix"),
    [
        ({"locked": True}, "is locked", "Auto-Lock"),
        (
            {
                "launch_says": "it has an invalid code signature, inadequate entitlements or its profile has not been "
                "explicitly trusted by the user"
            },
            "does not trust who signed the app",
            "VPN & Device Management",
        ),
        ({"launch_says": "The developer disk image could not be mounted."}, "has no developer services", "Xcode"),
        ({"launch_says": "Something else."}, "failed .*Something else", "try again"),
        ({"unplugged_at": "process launch"}, "is not attached", "plug it in"),
    ],
)
def test_an_app_that_cannot_be_started(phones: Phones, phone: dict[str, Any], message: str, fix: str) -> None:
    device = phones.ios()
    device.make_folder()
    phones.set(phone)
    with pytest.raises(DeviceError, match=message) as caught:
        device.state()
    assert fix in caught.value.fix


def test_files_go_to_the_apps_folder_and_come_back(phones: Phones, tmp_path: Path) -> None:
    device = phones.ios()
    (tmp_path / "x").write_bytes(b"data")
    with device.scratch() as folder:
        device.push(tmp_path / "x", f"{folder}/m.mlpackage/Data/x")
        device.pull(f"{folder}/m.mlpackage/Data/x", tmp_path / "y")
        assert (tmp_path / "y").read_bytes() == b"data"
        with pytest.raises(DeviceError, match="has no file"):
            device.pull(f"{folder}/none", tmp_path / "z")
        assert phones.left
    assert phones.left == []
    assert phones.running() == []
    assert sorted(file.name for file in tmp_path.iterdir()) == ["phones", "x", "y"]
    assert not any("--remove-existing-content" in call for call in phones.calls)


def test_no_other_place_of_the_app_is_touched(phones: Phones, tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    device = phones.ios()
    for path in ("/etc/passwd", "Documents/x", "Documents/../x/y", "Library/a/b", "Documents//a"):
        with pytest.raises(UserError, match="no place of the app"):
            device.push(tmp_path / "x", path)
        with pytest.raises(UserError, match="no place of the app"):
            device.pull(path, tmp_path / "y")
    with pytest.raises(ValueError, match="no folder that was made here"):
        device.remove("Documents/mine")


def test_it_runs_no_programs(phones: Phones) -> None:
    with pytest.raises(DeviceError, match="runs no programs") as caught:
        phones.ios().run(["ls"], timeout=1)
    assert "--runner" in caught.value.fix


def test_its_state_is_asked_only_while_it_is_used(phones: Phones) -> None:
    device = phones.ios()
    assert device.state().unavailable["thermal_status"] == "the app tells, while it measures"
    assert not any("launch" in call for call in phones.calls)
    phones.set({"kind": "warm"})
    with device.scratch():
        state = device.state()
    assert (state.battery_percent, state.charging, state.thermal_status) == (87.0, False, "light")
    assert state.unavailable["screen_on"] == "iOS did not tell the app"
    assert phones.left == []


def test_a_phone_that_saves_power_is_not_measured(phones: Phones) -> None:
    phones.set({"kind": "low"})
    device = phones.ios()
    with pytest.raises(DeviceError, match="is in low power mode"), device.scratch():
        device.state()
    assert phones.left == []


def test_an_app_that_does_not_answer(phones: Phones) -> None:
    device = phones.ios(clock=iter(range(0, 10_000, 10)).__next__)
    folder = device.make_folder()
    phones.set({"kind": "silent"})
    with pytest.raises(DeviceError, match="did not answer within 30 s"):
        device.state()
    assert phones.running() == []
    with pytest.raises(DeviceError, match="did not answer within 30 s"):
        device.remove(folder)
    assert phones.running() == []


ANSWERS = {
    "list devices": {"devices": [{"identifier": UDID}]},
    "info apps": {"apps": [{"bundleIdentifier": BUNDLE}]},
    "process launch": {"process": {"processIdentifier": 42}},
    "info processes": {"runningProcesses": [{"processIdentifier": 42}]},
}


@pytest.mark.parametrize("damage", [None, "x", 7, ["x"], [None], {"processIdentifier": "many"}, {}])
@pytest.mark.parametrize("command", ANSWERS)
def test_a_devicectl_that_answers_rubbish(phones: Phones, command: str, damage: Any) -> None:
    answers = dict(ANSWERS)

    def write() -> None:
        cases = "".join(
            f"*'{words}'*) echo '{json.dumps({'result': result})}';;\n" for words, result in answers.items()
        )
        body = f'case "$*" in\n{cases}*) echo \'{{"result": {{}}}}\';;\nesac > "$file"'
        find = 'for word; do [ "$before" = --json-output ] && file=$word; before=$word; done'
        (phones.folder / "bin" / "xcrun").write_text(f"#!/bin/sh\n[ $1 = --find ] && exit 0\n{find}\n{body}\n")

    write()
    device = phones.ios()
    assert device.is_running(device.start([])[0])
    answers[command] = dict.fromkeys(ANSWERS[command], damage)
    write()

    def ask() -> bool:
        device = phones.ios()
        return device.is_running(device.start([])[0])

    with pytest.raises(DeviceError, match="devicectl"):
        ask()


@pytest.mark.parametrize("listing", ["{}", "[7]", "null", '"x"', "many"])
def test_a_pymobiledevice3_that_answers_rubbish(scripted: Any, listing: str) -> None:
    right = scripted("exit 0")
    assert attached_udids(right) == [UDID]
    for command in ("usbmux list", "apps list"):
        program = Path(right._program)
        whole = program.read_text()
        rubbish = f"case \"$*\" in *'{command}'*) echo '{listing}'; exit 0;; esac\n"
        program.write_text(whole.replace("case", f"{rubbish}case", 1))
        with pytest.raises(DeviceError, match=r"pymobiledevice3 wrote no|is not installed"):
            _ = Ios(UDID, tool=right).app
        program.write_text(whole)


@pytest.mark.parametrize("body", ["exit 1", "echo 'xcrun: error: no' >&2; exit 72", 'echo hello > "$8"; exit 0'])
def test_a_devicectl_that_fails(phones: Phones, body: str) -> None:
    (phones.folder / "bin" / "xcrun").write_text(f"#!/bin/sh\n[ $1 = --find ] && exit 0\n{body}\n")
    with pytest.raises(DeviceError, match="iPhones cannot be listed"):
        phones.ios()


def test_a_devicectl_that_hangs_is_stopped(phones: Phones) -> None:
    (phones.folder / "bin" / "xcrun").write_text("#!/bin/sh\n[ $1 = --find ] && exit 0\nexec sleep 60\n")
    tool = Devicectl()
    with pytest.raises(DeviceError, match=r"took more than 0\.5 s and was stopped"):
        tool._ask(["list", "devices"], -9.5)  # type: ignore[arg-type]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(MissingDependencyError, match="no devicectl") as caught:
        Devicectl()
    assert "xcode-select" in caught.value.fix
    with pytest.raises(MissingDependencyError, match="no pymobiledevice3") as caught:
        PyMobileDevice()
    assert caught.value.fix == "pip install 'deploy-kit[ios]'"
    found = dict(attached())
    assert isinstance(found["ios"], MissingDependencyError)


def test_it_is_a_kind_of_device(phones: Phones, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "default_tool", Devicectl)
    assert isinstance(get_device(f"ios:{UDID}"), Ios)
    assert get_device("ios").spec == f"ios:{UDID}"
    phones.set({}, {"udid": OTHER, "pairing": "unpaired"})
    found = dict(attached())
    assert not isinstance(found[f"ios:{UDID}"], Exception)
    assert isinstance(found[f"ios:{OTHER}"], DeviceError)


class Usbmuxd(threading.Thread):
    """usbmuxd and a phone's lockdownd on a socket, as far as ``pymobiledevice3 usbmux list`` asks them.

    A message of usbmuxd is four little-endian words (length, version 1, type 8 for a property list, tag) and the list;
    one of lockdownd is its length, big-endian, and the list.
    """

    def __init__(self, path: Path, udids: list[str]):
        super().__init__(daemon=True)
        self.udids = udids
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen()
        self.start()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            while len(head := stream.read(16)) == 16:
                length, _, _, tag = struct.unpack("<4I", head)
                request = plistlib.loads(stream.read(length - 16))
                body = plistlib.dumps(self.answer(request))
                stream.write(struct.pack("<4I", 16 + len(body), 1, 8, tag) + body)
                stream.flush()
                if request["MessageType"] == "Connect":
                    self.lockdown(stream, self.udids[request["DeviceID"]])
                    return

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        kind = request["MessageType"]
        if kind == "ListDevices":
            return {"DeviceList": [self.device(index) for index in range(len(self.udids))]}
        if kind == "ReadBUID":
            return {"BUID": "30142955-444094379208051516"}
        return {"MessageType": "Result", "Number": 0 if kind == "Connect" else 2}

    def device(self, index: int) -> dict[str, Any]:
        properties = {"SerialNumber": self.udids[index], "ConnectionType": "USB", "DeviceID": index}
        return {"MessageType": "Attached", "DeviceID": index, "Properties": properties}

    def lockdown(self, stream: Any, udid: str) -> None:
        values = {"DeviceClass": "iPhone", "ProductType": "iPhone13,2", "ProductVersion": "16.7", "DeviceName": "Phone"}
        while len(head := stream.read(4)) == 4:
            request = plistlib.loads(stream.read(struct.unpack(">I", head)[0]))
            reply: dict[str, Any] = {"Request": request["Request"], "Type": "com.apple.mobile.lockdown"}
            if request["Request"] == "GetValue":
                every = {**values, "UniqueDeviceID": udid, "BuildVersion": "20H19"}
                known = every.get(request["Key"]) if request.get("Key") else every
                reply |= {"Error": "PasswordProtected"} if known is None else {"Value": known}
            body = plistlib.dumps(reply)
            stream.write(struct.pack(">I", len(body)) + body)
            stream.flush()


needs_pymobiledevice3 = pytest.mark.skipif(
    shutil.which("pymobiledevice3", path=str(Path(sys.executable).parent)) is None
    and shutil.which("pymobiledevice3") is None,
    reason="there is no pymobiledevice3 (pip install 'deploy-kit[ios]')",
)


@needs_pymobiledevice3
def test_the_real_pymobiledevice3_lists_phones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Usbmuxd(tmp_path / "mux", [UDID, OTHER])
    monkeypatch.setenv("USBMUXD_SOCKET_ADDRESS", str(tmp_path / "mux"))
    tool = PyMobileDevice()
    assert attached_udids(tool) == sorted([UDID, OTHER])
    info = Ios(UDID, tool=tool).info()
    assert (info.model, info.soc, info.os) == ("iPhone 12", "Apple A14 Bionic", "iOS 16.7")
    with pytest.raises(DeviceError, match="is locked"):
        _ = Ios(UDID, tool=tool).app
    server.socket.close()


@needs_pymobiledevice3
def test_the_real_pymobiledevice3_without_usbmuxd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USBMUXD_SOCKET_ADDRESS", str(tmp_path / "none"))
    with pytest.raises(DeviceError, match="usbmuxd") as caught:
        attached_udids(PyMobileDevice())
    assert caught.value.fix == "sudo apt-get install usbmuxd"


SAID = "2026-11-22 01:32:50 host pymobiledevice3.__main__[1] {level} {text}"


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A ``pymobiledevice3`` that is a script, whose words are kept in ``calls``."""
    program = tmp_path / "bin" / "pymobiledevice3"
    program.parent.mkdir()
    phone = {"UniqueDeviceID": UDID, "ProductType": "iPhone14,5", "ProductVersion": "18.5"}
    listing = json.dumps([phone | {"ConnectionType": kind} for kind in ("USB", "Network")])  # it is listed twice

    def write(body: str) -> PyMobileDevice:
        program.write_text(
            f"#!/bin/sh\nfor word; do printf '[%s]' \"$word\"; done >> {tmp_path}/calls; echo >> {tmp_path}/calls\n"
            f"case \"$*\" in *'usbmux list'*) echo '{listing}'; exit 0;; *'apps list'*) echo '{{\"{BUNDLE}\": 1}}'\n"
            f"exit 0;; esac\n{body}\n"
        )
        program.chmod(0o755)
        return PyMobileDevice()

    monkeypatch.setattr(sys, "executable", str(program.parent / "python"))
    return write


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Device is password protected. Please unlock and retry.", "is locked"),
        ("Developer Mode is disabled. You can try to enable it using: x", "has its developer mode off"),
        ("The device does not trust this computer.", "is not paired with this computer"),
        ("usbmuxd has no pair record for device x. Pair it with `y`.", "is not paired with this computer"),
        ("failed to write (AFC status NO_SPACE_LEFT).", "is full"),
        ("Device not found: x", "is not attached"),
        ("Something else", "failed .*Something else"),
    ],
)
def test_what_pymobiledevice3_says(scripted: Any, text: str, message: str) -> None:
    lines = [SAID.format(level="ERROR", text=text), SAID.format(level="INFO", text="Run again with -v for more")]
    tool = scripted("cat >&2 <<'END'\n" + "\n".join(lines) + "\nEND\nexit 1")
    with pytest.raises(DeviceError, match=message) as caught:
        Ios(UDID, tool=tool).make_folder()
    assert "Run again" not in str(caught.value)


def test_words_for_pymobiledevice3(scripted: Any, tmp_path: Path) -> None:
    tool = scripted('case "$*" in *launch*) echo "Process launched with pid 42";; *is-running*) echo true;; esac')
    device = Ios(tool=tool)
    assert device.start(["--model", "a b"])[0] == 42
    assert device.is_running(42)
    (tmp_path / "x").touch()
    device.push(tmp_path / "x", "Documents/deploykit-1/m/x")
    device.end(42)
    launch, running, push, kill = (tmp_path / "calls").read_text().splitlines()[-4:]
    assert launch.startswith(f"[--no-color][developer][dvt][launch][{BUNDLE} run ")
    assert "--model 'a b'][--udid]" in launch
    assert running == f"[--no-color][developer][dvt][is-running-pid][42][--udid][{UDID}]"
    assert push.startswith(f"[--no-color][apps][push][{BUNDLE}][")
    assert push.endswith(f"/deploykit-1][/Documents][--documents][--udid][{UDID}]")
    assert kill == f"[--no-color][developer][dvt][kill][42][--udid][{UDID}]"


def test_a_file_that_pymobiledevice3_does_not_find(scripted: Any, tmp_path: Path) -> None:
    said = SAID.format(level="ERROR", text="No such file on the device: /Documents/x (AFC status READ_ERROR).")
    device = Ios(UDID, tool=scripted(f"echo '{said}' >&2; exit 1"))
    assert not device.fetch("Documents/deploykit-1/x", tmp_path / "x")
    with pytest.raises(DeviceError, match="has no file"):
        device.pull("Documents/deploykit-1/x", tmp_path / "x")
