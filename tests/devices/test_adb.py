"""Android devices through the real `adb`, against a daemon of the tests that can be made to fail."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy_kit.artifact import Artifact
from deploy_kit.devices import adb as adb_module
from deploy_kit.devices.adb import Adb, find_adb
from deploy_kit.devices.base import DeviceError
from deploy_kit.devices.calls import LARGEST_PULL
from deploy_kit.devices.registry import attached, get_device
from deploy_kit.errors import MissingDependencyError, UserError
from tests.benchmarks.support import runner_document
from tests.cli.support import ROOT, program
from tests.devices.adbd import TEMPORARY, Daemon, device_program
from tests.test_worker import is_running

pytestmark = pytest.mark.skipif(shutil.which("adb") is None, reason="needs adb: sudo apt-get install adb")

PROPERTIES = """case $1 in
ro.product.model) echo SM-G991B;;
ro.soc.model) echo SM8350;;
ro.build.version.release) echo 14;;
ro.product.cpu.abi) echo arm64-v8a;;
esac"""
DUMPS = """case $1 in
battery) printf '  AC powered: false\\n  USB powered: true\\n  status: 2\\n  level: 83\\n  scale: 100\\n';;
power) printf '  mWakefulness=Awake\\n  Display Power: state=ON\\n';;
thermalservice) echo 'Thermal Status: 1';;
esac"""
FOREIGN = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xf3\x00\x01" + bytes(300)
"""The head of a program for a machine that is not this one."""


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A server of adb for these tests alone."""
    home = tmp_path_factory.mktemp("adb")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("TMPDIR", str(home))
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
        patch.setenv("ADB_LOCAL_TRANSPORT_MAX_PORT", "5553")
        for name in ("ANDROID_SERIAL", "ANDROID_HOME"):
            patch.delenv(name, raising=False)
        yield
        call("kill-server")


@pytest.fixture
def plugged(tmp_path: Path, server: None) -> Iterator[Callable[..., Daemon]]:
    """Attach a new device to adb."""
    daemons: list[Daemon] = []

    def plug(*, unauthorized: bool = False, features: str = "shell_v2,cmd,stat_v2") -> Daemon:
        folder, programs = tmp_path / f"device{len(daemons)}", tmp_path / f"programs{len(daemons)}"
        folder.mkdir()
        programs.mkdir()
        device_program(programs, "getprop", PROPERTIES)
        device_program(programs, "dumpsys", DUMPS)
        daemon = Daemon(folder, programs, features=features)
        daemon.faults.unauthorized = unauthorized
        daemons.append(daemon)
        call("connect", daemon.serial)
        return daemon

    yield plug
    for daemon in daemons:
        call("disconnect", daemon.serial)
        daemon.unplug()


@pytest.fixture
def phone(plugged: Callable[..., Daemon]) -> Daemon:
    return plugged()


@pytest.fixture
def device(phone: Daemon) -> Adb:
    return Adb(phone.serial)


def call(*words: str) -> str:
    return subprocess.run(["adb", *words], capture_output=True, text=True, timeout=30, check=False).stdout


def written(path: Path, data: bytes, mode: int = 0o644) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def started_pid(phone: Daemon) -> int:
    """The process that a command wrote to the file ``pid``."""
    path = phone.folder / "pid"
    for _ in range(200):
        if path.exists() and path.read_text().endswith("\n"):
            return int(path.read_text())
        time.sleep(0.02)
    raise AssertionError("nothing was started")


# What it is


def test_what_a_phone_is_and_how(device: Adb, phone: Daemon) -> None:
    info, state = device.info(), device.state()
    assert (info.spec, info.model, info.soc) == (f"adb:{phone.serial}", "SM-G991B", "SM8350")
    assert (info.os, info.abi, info.emulated) == ("Android 14", "aarch64", False)
    assert (state.battery_percent, state.charging, state.screen_on, state.thermal_status) == (83, True, True, "light")


def test_the_only_device_needs_no_serial(phone: Daemon) -> None:
    assert get_device("adb").spec == get_device(f"adb:{phone.serial}").spec == f"adb:{phone.serial}"


def test_devices_lists_what_can_be_used_and_why_the_rest_cannot(plugged: Callable[..., Daemon]) -> None:
    good, bad = plugged(), plugged(unauthorized=True)
    ended = program("devices", "--json")
    assert ended.code == 0, ended.err
    rows = {row["spec"]: row for row in json.loads(ended.out)}
    assert {"local", f"adb:{good.serial}", f"adb:{bad.serial}"} <= set(rows)
    assert next(iter(rows)) == "local"
    assert rows[f"adb:{good.serial}"]["info"]["model"] == "SM-G991B"
    assert rows[f"adb:{good.serial}"]["state"]["battery_percent"] == 83
    assert rows[f"adb:{bad.serial}"]["info"] is None
    assert "has not authorised this computer" in rows[f"adb:{bad.serial}"]["error"]
    assert "Allow USB debugging" in rows[f"adb:{bad.serial}"]["fix"]
    shown = program("devices").out
    for word in ("SM-G991B", "SM8350", "Android 14", "aarch64", "83%, charging", "light", "has not authorised"):
        assert word in shown


# Running


WORDS = ("", "a b", "'", '"', "$HOME", "$(touch PLACE)", "`touch PLACE`", "; touch PLACE", "&& false", ">PLACE")


@pytest.mark.parametrize("word", [*WORDS, "*", "\\", "~", "-n", "line\nline", "ümlaut", "#", "{a,b}", "|"])
def test_a_word_arrives_as_it_was_given(device: Adb, phone: Daemon, word: str) -> None:
    word = word.replace("PLACE", f"{TEMPORARY}/made")
    done = device.run(["printf", "%s", "-", word, "end"], timeout=10)
    assert done.stdout.replace(str(phone.folder), TEMPORARY) == f"-{word}end"
    assert not list(phone.folder.iterdir())


def test_output_errors_and_code_are_those_of_the_program(device: Adb) -> None:
    done = device.run(["sh", "-c", "printf out; printf err >&2; exit 42"], timeout=10)
    assert (done.returncode, done.stdout, done.stderr) == (42, "out", "err")
    assert device.run(["sh", "-c", "kill -9 $$"], timeout=10).returncode == 137
    assert device.run(["no-such-program"], timeout=10).returncode == 127


def test_a_long_output_is_whole(device: Adb) -> None:
    done = device.run(["sh", "-c", "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done"], timeout=30)
    assert done.stdout == "".join(f"line {number}\n" for number in range(20000))


def test_variables_are_set_for_the_program(device: Adb) -> None:
    values = {"FIRST": "a 'b' $HOME", "SECOND": ""}
    done = device.run(["sh", "-c", 'echo "$FIRST-$SECOND"; cat'], timeout=10, environment=values)
    assert done.stdout == "a 'b' $HOME-\n"
    with pytest.raises(UserError, match="no name of a variable"):
        device.run(["true"], timeout=10, environment={"A; touch x": "1"})


def test_what_takes_too_long_is_ended_on_the_device(device: Adb, phone: Daemon) -> None:
    command = ["sh", "-c", f"sleep 60 & echo $! > {TEMPORARY}/pid; wait"]
    with pytest.raises(
        DeviceError, match=rf"adb:{phone.serial} took more than 0.5 s and was stopped \(while 'sh' ran\)"
    ):
        device.run(command, timeout=0.5)
    assert not is_running(started_pid(phone))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_what_runs_on_the_device_ends_with_this_process(phone: Daemon, number: signal.Signals) -> None:
    script = f"""
        import signal, sys
        from deploy_kit.devices.adb import Adb
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        device = Adb({phone.serial!r})
        with device.scratch() as folder:
            device.run(["sh", "-c", f"echo x > {{folder}}/x; sleep 60 & echo $! > {TEMPORARY}/pid; wait"], timeout=60)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    running = started_pid(phone)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does, to adb as well
    else:
        process.send_signal(number)
    process.communicate(timeout=20)
    assert not is_running(running)
    left = [path.name for path in phone.folder.iterdir() if path.is_dir()]
    assert bool(left) == (number == signal.SIGKILL)  # which leaves nobody to clean up


def test_a_program_for_another_machine_is_told(device: Adb, tmp_path: Path) -> None:
    source = written(tmp_path / "runner", FOREIGN, 0o755)
    with device.scratch() as folder:
        device.push(source, f"{folder}/runner")
        with pytest.raises(DeviceError, match="cannot run 'runner', which is made for another machine"):
            device.run([f"{folder}/runner"], timeout=10, environment={"A": "1"})


# Files


@pytest.mark.parametrize(("mode", "kept"), [(0o644, 0o644), (0o755, 0o755), (0o600, 0o644), (0o700, 0o755)])
@pytest.mark.parametrize("name", ["model.ptl", "a b", "$(touch x)", "-rf", "ümlaut's"])
def test_a_file_goes_there_and_back(
    device: Adb, phone: Daemon, tmp_path: Path, name: str, mode: int, kept: int
) -> None:
    data = os.urandom(200_000)
    source = written(tmp_path / name, data, mode)
    with device.scratch() as folder:
        device.push(source, f"{folder}/{name}")
        (there,) = phone.folder.rglob(name)
        assert there.read_bytes() == data
        assert there.stat().st_mode & 0o777 == kept
        (tmp_path / "back").mkdir()
        device.pull(f"{folder}/{name}", tmp_path / "back" / name)
        assert [path.read_bytes() for path in (tmp_path / "back").iterdir()] == [data]
    assert not list(phone.folder.iterdir())


def test_a_program_that_was_pushed_runs(device: Adb, tmp_path: Path) -> None:
    source = written(tmp_path / "hello", b"#!/bin/sh\necho hello $1\n", 0o755)
    with device.scratch() as folder:
        device.push(source, f"{folder}/hello")
        assert device.run([f"{folder}/hello", "there"], timeout=10).stdout == "hello there\n"


def test_an_empty_file_is_pulled(device: Adb, phone: Daemon, tmp_path: Path) -> None:
    written(phone.folder / "empty", b"")
    device.pull(f"{TEMPORARY}/empty", tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == b""


def test_a_name_on_the_device_never_decides_where_a_file_lands(device: Adb, phone: Daemon, tmp_path: Path) -> None:
    here = tmp_path / "deep" / "here"
    here.mkdir(parents=True)
    written(phone.folder / "result", b"mine")
    (phone.folder / "x").mkdir()
    device.pull(f"{TEMPORARY}/x/../result", here / "result")
    assert (here / "result").read_bytes() == b"mine"
    for evil in ("evil", "../evil", "../../evil"):
        phone.faults.list_as = evil  # it was a file a moment ago
        with pytest.raises(DeviceError):
            device.pull(f"{TEMPORARY}/result", here / "other")
    assert [path.name for path in tmp_path.rglob("*") if "evil" in path.name or "other" in path.name] == []
    assert [path.name for path in here.iterdir()] == ["result"]


@pytest.mark.parametrize("name", ["nothing", "folder", "pipe"])
def test_only_files_are_pulled(device: Adb, phone: Daemon, tmp_path: Path, name: str) -> None:
    (phone.folder / "folder").mkdir()
    os.mkfifo(phone.folder / "pipe")
    with pytest.raises(DeviceError, match=f"has no file '{TEMPORARY}/{name}'"):
        device.pull(f"{TEMPORARY}/{name}", tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_file_that_arrives_short_is_no_file(device: Adb, phone: Daemon, tmp_path: Path) -> None:
    written(phone.folder / "result.json", b"x" * 50_000)
    phone.faults.cut_pull = 20_000
    target = written(tmp_path / "result.json", b"old")
    with pytest.raises(DeviceError, match="as a file of 50000 bytes"):
        device.pull(f"{TEMPORARY}/result.json", target)
    assert target.read_bytes() == b"old"
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_file_that_is_too_large_is_not_taken(device: Adb, phone: Daemon, tmp_path: Path) -> None:
    os.truncate(written(phone.folder / "file", b""), LARGEST_PULL + 1)
    with pytest.raises(DeviceError, match=f"file' on adb:{phone.serial} has {LARGEST_PULL + 1} bytes"):
        device.pull(f"{TEMPORARY}/file", tmp_path / "file")
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("said", ["many", "12 34", "-1"])
def test_a_device_that_counts_rubbish(device: Adb, phone: Daemon, tmp_path: Path, said: str) -> None:
    written(phone.folder / "file", b"x")
    device_program(phone.programs, "wc", f"echo '{said}'")
    with pytest.raises(DeviceError, match=f"does not tell the size of .*'{said}'"):
        device.pull(f"{TEMPORARY}/file", tmp_path / "file")


def test_what_a_program_leaves_behind_is_ended(device: Adb, phone: Daemon) -> None:
    done = device.run(
        ["sh", "-c", f"sleep 60 >/dev/null 2>&1 & echo $! > {TEMPORARY}/pid; echo out; exit 3"], timeout=30
    )
    assert (done.returncode, done.stdout) == (3, "out\n")
    assert not is_running(started_pid(phone))


def test_there_has_to_be_room_and_a_folder_here(
    device: Adb, phone: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(phone.folder / "file", b"x" * 100)
    with pytest.raises(DeviceError, match=r"cannot be written to .*No such file"):
        device.pull(f"{TEMPORARY}/file", tmp_path / "missing" / "file")
    full = shutil.disk_usage(tmp_path)._replace(free=99)
    monkeypatch.setattr("deploy_kit.devices.shell.shutil.disk_usage", lambda path: full)
    with pytest.raises(DeviceError, match=r"no space for .* of 100 bytes"):
        device.pull(f"{TEMPORARY}/file", tmp_path / "file")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("write failed: No space left on device", "is full"),
        ("couldn't create file: Read-only file system", "cannot be written there"),
        ("couldn't create file: Permission denied", "does not permit it"),
        ("couldn't fchown: Rubbish", "failed while 'model.ptl' was pushed.*Rubbish"),
    ],
)
def test_what_the_device_says_of_a_push_is_told(
    device: Adb, phone: Daemon, tmp_path: Path, said: str, told: str
) -> None:
    source = written(tmp_path / "model.ptl", os.urandom(100_000))
    phone.faults.push_error = said
    with pytest.raises(DeviceError, match=told) as caught, device.scratch() as folder:
        device.push(source, f"{folder}/model.ptl")
    assert phone.serial in str(caught.value)
    assert caught.value.fix
    assert not list(phone.folder.iterdir())


@pytest.mark.parametrize(
    ("said", "told"), [("No space left on device", "is full"), ("Read-only file system", "cannot be written there")]
)
def test_a_folder_that_cannot_be_made_is_told(device: Adb, phone: Daemon, said: str, told: str) -> None:
    device_program(phone.programs, "mkdir", f"echo \"mkdir: '$1': {said}\" >&2; exit 1")
    with pytest.raises(DeviceError, match=f"{phone.serial} {told}"):
        device.make_folder()


def test_what_is_not_there_to_push_is_the_users_mistake(device: Adb, tmp_path: Path) -> None:
    for source in (tmp_path / "nothing", tmp_path):
        with pytest.raises(UserError, match="there is no file"):
            device.push(source, f"{TEMPORARY}/x")
    with pytest.raises(UserError, match="no place on a device"):
        device.push(written(tmp_path / "x", b""), "-p")


def test_only_folders_of_its_own_are_removed(device: Adb) -> None:
    for folder in ("/", TEMPORARY, f"{TEMPORARY}/deploykit-1/../..", f"{TEMPORARY}/deploykit-*"):
        with pytest.raises(ValueError, match="no folder that was made here"):
            device.remove(folder)


def test_scratch_is_removed_after_an_error(device: Adb, phone: Daemon) -> None:
    with pytest.raises(KeyboardInterrupt), device.scratch():
        raise KeyboardInterrupt
    assert not list(phone.folder.iterdir())


def test_an_interruption_while_the_folder_is_made_leaves_none(
    device: Adb, phone: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = device._ask

    def interrupted(command: str, *words: str) -> str:
        answer = ask(command, *words)
        if command.startswith("mkdir"):
            raise KeyboardInterrupt
        return answer

    monkeypatch.setattr(device, "_ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        device.make_folder()
    assert not list(phone.folder.iterdir())


# Going away


def test_unplugged_before(device: Adb, phone: Daemon) -> None:
    phone.unplug()
    with pytest.raises(DeviceError, match=rf"adb:{phone.serial} is offline \(while 'true' ran\)"):
        device.run(["true"], timeout=10)
    with pytest.raises(DeviceError, match="is offline"):
        Adb(phone.serial)


def test_unplugged_in_a_push(device: Adb, phone: Daemon, tmp_path: Path) -> None:
    source = written(tmp_path / "model.ptl", os.urandom(500_000))
    phone.faults.drop_push = 100_000
    with pytest.raises(DeviceError, match=r"is offline \(while 'model.ptl' was pushed"), device.scratch() as folder:
        device.push(source, f"{folder}/model.ptl")


def test_unplugged_in_a_pull_leaves_nothing_here(device: Adb, phone: Daemon, tmp_path: Path) -> None:
    written(phone.folder / "result", os.urandom(500_000))
    phone.faults.drop_pull = 100_000
    with pytest.raises(DeviceError, match=rf"is offline \(while '{TEMPORARY}/result' was pulled"):
        device.pull(f"{TEMPORARY}/result", tmp_path / "result")
    assert [path.name for path in tmp_path.iterdir() if "result" in path.name or path.name.startswith(".")] == []


def test_unplugged_in_a_run_is_no_success(device: Adb, phone: Daemon) -> None:
    phone.faults.drop_run = "half"
    with pytest.raises(DeviceError, match=r"is offline \(while 'sh' ran\)"):
        device.run(["sh", "-c", f"echo $$ > {TEMPORARY}/pid; echo half; sleep 60; echo whole"], timeout=30)
    assert not is_running(started_pid(phone))


def test_detached_by_name(device: Adb, phone: Daemon, plugged: Callable[..., Daemon]) -> None:
    other = plugged()
    call("disconnect", phone.serial)
    with pytest.raises(DeviceError, match=f"adb:{phone.serial} is not attached") as caught:
        device.state()
    assert caught.value.fix == f"adb connect {phone.serial}; attached: adb:{other.serial}"


def test_a_device_that_never_answers_is_given_up(device: Adb, phone: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adb_module, "ENDING_S", 0.2)
    phone.faults.hang_run = "true"
    began = time.monotonic()
    with pytest.raises(DeviceError, match=r"took more than 0.5 s"):
        device.run(["true"], timeout=0.5)
    assert time.monotonic() - began < 3


def test_the_server_may_have_ended_in_between(device: Adb, phone: Daemon, tmp_path: Path) -> None:
    source = written(tmp_path / "file", b"data")
    call("kill-server")
    device.push(source, f"{TEMPORARY}/file")
    call("kill-server")
    assert device.run(["cat", f"{TEMPORARY}/file"], timeout=10).stdout == "data"
    call("kill-server")
    device.pull(f"{TEMPORARY}/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"data"
    call("kill-server")
    assert Adb(phone.serial).info().model == "SM-G991B"


def test_the_server_ends_in_a_run(device: Adb, phone: Daemon) -> None:
    count = phone.folder / "count"
    killed = subprocess.Popen(["sh", "-c", f"while [ ! -e {count} ]; do sleep 0.05; done; exec adb kill-server"])
    with (
        pytest.raises(DeviceError, match=rf"the server of adb ended while 'sh' ran on adb:{phone.serial}"),
        device.scratch() as folder,
    ):
        device.run(
            ["sh", "-c", f"touch {folder}/x; echo $$ > {TEMPORARY}/pid; echo x >> {TEMPORARY}/count; sleep 60"],
            timeout=60,
        )
    killed.wait()
    assert count.read_text() == "x\n"  # it ran once
    assert not is_running(started_pid(phone))
    assert {path.name for path in phone.folder.iterdir()} == {"pid", "count"}


# Not to be used


def test_no_device() -> None:
    with pytest.raises(DeviceError, match="no device attached"):
        get_device("adb")


def test_two_devices_and_no_serial(plugged: Callable[..., Daemon]) -> None:
    serials = [plugged().serial, plugged().serial]
    with pytest.raises(DeviceError, match="2 devices attached") as caught:
        get_device("adb")
    assert all(f"adb:{serial}" in caught.value.fix for serial in serials)


def test_not_authorised(plugged: Callable[..., Daemon]) -> None:
    serial = plugged(unauthorized=True).serial
    for spec in ("adb", f"adb:{serial}"):
        with pytest.raises(DeviceError, match=f"adb:{serial} has not authorised this computer") as caught:
            get_device(spec)
        assert "Allow USB debugging" in caught.value.fix


@pytest.mark.parametrize(
    "serial", ["$(touch PLACE)", "`touch PLACE`", "x; touch PLACE", "a b", "nobody", "127.0.0.1:1"]
)
def test_an_unknown_serial_reaches_no_shell(phone: Daemon, tmp_path: Path, serial: str) -> None:
    with pytest.raises(DeviceError, match="is not attached") as caught:
        get_device(f"adb:{serial.replace('PLACE', str(tmp_path / 'made'))}")
    assert f"attached: adb:{phone.serial}" in caught.value.fix
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("serial", ["", "-d", "a\nb", "a\0b"])
def test_what_is_no_serial_is_the_users_mistake(serial: str) -> None:
    with pytest.raises(UserError, match="is no serial of a device"):
        get_device(f"adb:{serial}")


def test_a_device_without_exit_codes_is_too_old(plugged: Callable[..., Daemon]) -> None:
    with pytest.raises(DeviceError, match="does not say how a program ended"):
        Adb(plugged(features="cmd").serial)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("no permissions (user in plugdev group; are your udev rules wrong?); see [http://x]", "may not be opened"),
        ("no permissions; see [http://x]", "may not be opened by this user"),
        ("recovery", "is in the state 'recovery'"),
        ("authorizing", "is waiting to be authorised"),
    ],
)
def test_states_that_only_a_cable_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, told: str) -> None:
    script = f"#!/bin/sh\n[ $1 = devices ] || exit 1\nprintf 'List of devices attached\\n0123\\t%s\\n\\n' '{state}'\n"
    written(tmp_path / "adb", script.encode(), 0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(DeviceError, match=f"adb:0123 {told}") as caught:
        get_device("adb")
    assert caught.value.fix


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (
            "echo 'cannot bind to 127.0.0.1:5037' >&2; exit 1",
            "adb cannot start its server: cannot bind to 127.0.0.1:5037",
        ),
        ("exec sleep 30", "adb does not answer"),
    ],
)
def test_an_adb_that_fails_or_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, told: str) -> None:
    written(tmp_path / "adb", f"#!/bin/sh\n{script}\n".encode(), 0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(adb_module, "SERVER_S", 0.3)
    with pytest.raises(DeviceError, match=told):
        get_device("adb")
    assert isinstance(dict(attached())["adb"], DeviceError)


def test_without_adb_this_machine_is_still_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", path_without_adb(tmp_path))
    with pytest.raises(MissingDependencyError, match="adb is not installed") as caught:
        get_device("adb:x")
    assert "sudo apt-get install adb" in caught.value.fix
    found = dict(attached())
    assert isinstance(found["local"], tuple)
    assert isinstance(found["adb"], MissingDependencyError)


def test_adb_is_found_in_the_sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sdk" / "platform-tools").mkdir(parents=True)
    here = written(tmp_path / "sdk" / "platform-tools" / "adb", b"#!/bin/sh\n", 0o755)
    monkeypatch.setenv("PATH", path_without_adb(tmp_path))
    monkeypatch.setenv("ANDROID_HOME", str(tmp_path / "sdk"))
    assert find_adb() == str(here)


def path_without_adb(folder: Path) -> str:
    """A path with the few programs that describe this machine."""
    for name in ("sh", "cat", "uname", "ls", "grep", "tr", "getconf"):
        found = shutil.which(name)
        assert found
        (folder / name).symlink_to(found)
    return str(folder)


# A measurement over it

DOCUMENT = runner_document([10_000 + (index * 7 % 13) for index in range(50)], warmup_ns=[11_000] * 10)


def runner(folder: Path, body: str) -> Path:
    """A runner that is a shell script; its last option names the ``$result``."""
    return written(folder / "runner", f'#!/bin/sh\nfor word; do result="$word"; done\n{body}\n'.encode(), 0o755)


def writing(folder: Path, document: str) -> Path:
    return runner(folder, f"cat > \"$result\" <<'END'\n{document}\nEND")


def test_an_artifact_is_measured_and_the_device_left_clean(phone: Daemon, tmp_path: Path, tiny_onnx: Artifact) -> None:
    options = ["--device", f"adb:{phone.serial}", "--runner", writing(tmp_path, json.dumps(DOCUMENT)), "--json"]
    ended = program("bench", tiny_onnx.folder, *options, "--cool-seconds", "0")
    (found,) = ended.json
    assert found["device"]["model"] == "SM-G991B"
    assert found["rounds"][0]["result"]["samples_ns"] == DOCUMENT["samples_ns"]
    assert "throttled: the thermal status was light" in found["reasons"]
    assert "charging: the device was on external power" in found["reasons"]
    assert (ended.code, found["valid"]) == (1, False)
    assert list(phone.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("exit 3", "the runner (runner) failed on adb:127.0.0.1"),
        ("kill -9 $$", "the runner (runner) failed on adb:127.0.0.1"),
        ('echo rubbish > "$result"', "wrote a damaged result"),
        ("true", "has no file"),
    ],
)
def test_a_runner_that_misbehaves(phone: Daemon, tmp_path: Path, tiny_onnx: Artifact, body: str, told: str) -> None:
    options = ["--device", f"adb:{phone.serial}", "--runner", runner(tmp_path, body), "--cool-seconds", "0"]
    ended = program("bench", tiny_onnx.folder, *options)
    assert ended.code in (1, 2)
    assert told in ended.err
    assert "Traceback" not in ended.err
    assert list(phone.folder.iterdir()) == []


def test_a_full_device_is_told(phone: Daemon, tmp_path: Path, tiny_onnx: Artifact) -> None:
    phone.faults.push_error = "No space left on device"
    options = ["--device", f"adb:{phone.serial}", "--runner", writing(tmp_path, "{}"), "--cool-seconds", "0"]
    ended = program("bench", tiny_onnx.folder, *options)
    assert ended.code == 1
    assert "full" in ended.err or "No space left" in ended.err
    assert "Traceback" not in ended.err
    assert list(phone.folder.iterdir()) == []


def test_unplugged_while_it_measures(phone: Daemon, tmp_path: Path, tiny_onnx: Artifact) -> None:
    phone.faults.drop_run = "measuring"
    options = ["--device", f"adb:{phone.serial}", "--runner", runner(tmp_path, "echo measuring; sleep 60")]
    out = tmp_path / "measured.json"
    ended = program("bench", tiny_onnx.folder, *options, "--cool-seconds", "0", "--out", out)
    assert ended.code == 1
    assert f"adb:{phone.serial} is offline" in ended.err
    assert not out.exists()
