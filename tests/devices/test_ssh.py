"""Boards through the real `ssh` and a real sshd on loopback, and what goes wrong on the way to them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.harness import bench
from deploy_kit.benchmarks.protocol import Protocol
from deploy_kit.benchmarks.runners.choice import choose_runner
from deploy_kit.benchmarks.runners.local import local_runner
from deploy_kit.cli.devices import command
from deploy_kit.devices import ssh as ssh_module
from deploy_kit.devices.base import DeviceError
from deploy_kit.devices.calls import LARGEST_PULL
from deploy_kit.devices.hosts import hosts_file, listed_hosts
from deploy_kit.devices.local import Local
from deploy_kit.devices.registry import LISTED_S, attached, get_device
from deploy_kit.devices.ssh import Place, Ssh, parse_place
from deploy_kit.errors import MissingDependencyError, UserError
from tests.benchmarks.support import runner_document
from tests.cli.support import ROOT, Ended
from tests.devices.sshd import Board, why_not
from tests.devices.test_adb import FOREIGN, WORDS, written
from tests.support import export_to, load_tiny
from tests.test_worker import is_running

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

SLOW_CAT = """head -c 131072 "$@"
touch "$TMPDIR/read"
sleep 0.5
exec /bin/cat "$@"
"""
"""A `cat` that leaves time to pull the cable."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    board = Board(tmp_path_factory.mktemp("sshd"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{board.ssh}:{os.environ['PATH']}")
        patch.setenv("XDG_CONFIG_HOME", str(board.ssh))
        patch.delenv("SSH_AUTH_SOCK", raising=False)
        yield board
        board.stop()


@pytest.fixture
def board(machine: Board) -> Iterator[Board]:
    """The board, as it should be; a test may change everything about it."""
    yield machine
    machine.trust("host")
    machine.write_client("key")
    for folder in (machine.programs, machine.temporary):
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture(scope="module")
def link(machine: Board) -> Iterator[Ssh]:
    device = Ssh(machine.place)
    yield device
    device.close()


@pytest.fixture
def device(link: Ssh, board: Board) -> Ssh:
    """The board as a device, whose connection may have been used before."""
    return link


@pytest.fixture
def fresh(board: Board) -> Iterator[Ssh]:
    """The same, without a connection yet."""
    device = Ssh(board.place)
    yield device
    device.close()


def started_pid(board: Board) -> int:
    """The process that a command wrote to the file ``pid``."""
    path = board.temporary / "pid"
    for _ in range(500):
        if path.exists() and path.read_text().endswith("\n"):
            return int(path.read_text())
        time.sleep(0.02)
    raise AssertionError("nothing was started")


def when(happens: Callable[[], bool], work: Callable[[], None]) -> threading.Thread:
    """Do something once something has happened."""

    def wait() -> None:
        for _ in range(1000):
            if happens():
                return work()
            time.sleep(0.01)
        raise AssertionError("it never happened")

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def gone(board: Board, connections: set[int]) -> bool:
    """Whether connections have ended, or end in a moment."""
    for _ in range(100):
        if not connections & set(board.connections()):
            return True
        time.sleep(0.05)
    return False


# Where it is


@pytest.mark.parametrize(
    ("place", "meant", "words"),
    [
        ("pi@raspberrypi.local", Place("pi", "raspberrypi.local", None), ["--", "pi@raspberrypi.local"]),
        ("jetson", Place(None, "jetson", None), ["--", "jetson"]),
        ("u.v-w_1@10.0.0.2:2222", Place("u.v-w_1", "10.0.0.2", 2222), ["-p", "2222", "--", "u.v-w_1@10.0.0.2"]),
        ("pi@[fe80::1%eth0]:22", Place("pi", "[fe80::1%eth0]", 22), ["-p", "22", "--", "pi@fe80::1%eth0"]),
    ],
)
def test_places(place: str, meant: Place, words: list[str]) -> None:
    assert (parse_place(place), parse_place(place).words) == (meant, words)


BAD_PLACES = [
    *(None, "", "-oProxyCommand=x", "-l@host", "user@-host", "a b", "a;b", "$(x)", "`x`", "a\nb", "h\n", "a@b@c"),
    *("host:", "host:0", "host:65536", "host:x", "a/b", "../x", "user@", "@host", "h%h", "fe80::1", "hóst", "a'b", "~"),
]


@pytest.mark.parametrize("place", BAD_PLACES)
def test_what_is_no_place_starts_no_ssh(place: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_module, "_find_ssh", lambda: pytest.fail("it went on"))
    with pytest.raises(UserError) as caught:
        get_device("ssh" if place is None else f"ssh:{place}")
    assert "ssh:USER@HOST:PORT" in caught.value.fix


def test_without_ssh_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError) as caught:
        get_device("ssh:pi@board")
    assert caught.value.fix == "sudo apt-get install openssh-client"


def test_what_a_board_is_and_how(board: Board, device: Ssh) -> None:
    here = Local().info()
    assert device.info() == here.model_copy(update={"spec": board.spec})
    assert device.state().load is not None


def test_a_host_of_the_users_configuration(board: Board) -> None:
    named = get_device("ssh:board")
    assert named.info().spec == "ssh:board"


def test_the_users_configuration_cannot_break_it(board: Board, fresh: Ssh) -> None:
    local = f"PermitLocalCommand yes\nLocalCommand touch '{board.temporary}/made'"
    more = f"RequestTTY force\nRemoteCommand echo hijacked\n{local}"
    board.write_client("key", f"{more}\nControlMaster auto\nControlPath none\nLogLevel DEBUG\nForwardX11 yes")
    assert fresh.run(["echo", "out"], timeout=10).stdout == "out\n"
    assert fresh.run(["echo", "out"], timeout=10).stderr == ""
    assert board.left() == []


def test_one_connection_is_enough_and_ends(board: Board, fresh: Ssh) -> None:
    before = set(board.connections())
    fresh.run(["true"], timeout=10)
    ours = set(board.connections()) - before
    fresh.run(["true"], timeout=10)
    assert set(board.connections()) - before == ours != set()
    folder = fresh._clients._folder
    assert folder.stat().st_mode & 0o777 == 0o700
    fresh.close()
    assert not folder.exists()
    assert gone(board, ours)


# Hosts that are listed


def list_hosts(text: str) -> None:
    hosts_file().parent.mkdir(exist_ok=True)
    hosts_file().write_text(text)


def test_only_listed_hosts_are_devices(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{board.ssh}:/usr/bin:/bin")
    monkeypatch.setattr("deploy_kit.devices.registry.attached_serials", dict)
    hosts_file().unlink(missing_ok=True)
    assert not [spec for spec, _ in attached() if spec.startswith("ssh")]
    list_hosts(f'ssh = ["{board.place}", "board", "nobody@127.0.0.1:1", "-oX"]\n')
    found = dict(attached())
    assert [spec for spec in found if spec.startswith("ssh")] == [
        *(board.spec, "ssh:board", "ssh:nobody@127.0.0.1:1", "ssh:-oX")
    ]
    assert isinstance(found[board.spec], tuple)
    assert isinstance(found["ssh:board"], tuple)
    assert "has no ssh server that listens" in str(found["ssh:nobody@127.0.0.1:1"])
    assert isinstance(found["ssh:-oX"], UserError)


def test_a_listed_host_is_connected_to_once(
    board: Board, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("deploy_kit.devices.registry.attached_serials", dict)
    list_hosts('ssh = ["board"]\n')
    places: list[str] = []
    connect = Ssh.__init__

    def connected(self: Ssh, place: str, **limits: float) -> None:
        places.append(place)
        assert limits == {"connect_s": LISTED_S, "answer_s": LISTED_S}
        connect(self, place, **limits)

    monkeypatch.setattr(Ssh, "__init__", connected)
    command(json=True)
    (found,) = [each for each in json.loads(capsys.readouterr().out) if each["spec"] == "ssh:board"]
    assert found["info"]
    assert found["state"]
    assert places == ["board"]


def test_the_list_is_in_the_users_folder_of_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert hosts_file() == tmp_path / "deploykit" / "devices.toml"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert hosts_file() == Path.home() / ".config" / "deploykit" / "devices.toml"


@pytest.mark.parametrize(
    ("text", "told"),
    [("ssh = [", "is damaged"), ("ssh = 'pi'", "is no list"), ("ssh = [1]", "is no list"), ("shh = ['pi']", "'shh'")],
)
def test_a_damaged_list_is_told_with_its_path(
    board: Board, text: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy_kit.devices.registry.attached_serials", dict)
    list_hosts(text)
    with pytest.raises(UserError, match=told) as caught:
        listed_hosts()
    assert str(hosts_file()) in str(caught.value)
    found = dict(attached())
    assert isinstance(found["local"], tuple)
    assert isinstance(found["ssh"], UserError)


def test_a_host_that_does_not_answer_is_not_waited_for(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy_kit.devices.registry.LISTED_S", 1.0)
    monkeypatch.setattr("deploy_kit.devices.registry.attached_serials", dict)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"pi@127.0.0.1:{silent.getsockname()[1]}"
        list_hosts(f'ssh = ["{place}", "board"]\n')
        began = time.monotonic()
        found = dict(attached())
    assert time.monotonic() - began < 8
    assert "does not answer" in str(found[f"ssh:{place}"])
    assert isinstance(found["ssh:board"], tuple)


# Running


def test_words_arrive_as_they_were_given(device: Ssh, board: Board) -> None:
    more = ["*", "\\", "\\\\", "~", "-n", "line\nline", "ümlaut", "#", "{a,b}", "|", "!x"]
    words = [each.replace("PLACE", f"'{board.temporary}/made'") for each in (*WORDS, *more)]
    assert device.run(["printf", "%s\\0", *words], timeout=10).stdout == "".join(f"{word}\0" for word in words)
    assert board.left() == []


def test_output_errors_and_code_are_those_of_the_program(device: Ssh) -> None:
    done = device.run(["sh", "-c", "printf out; printf err >&2; exit 42"], timeout=10)
    assert (done.returncode, done.stdout, done.stderr) == (42, "out", "err")
    assert device.run(["sh", "-c", "exit 255"], timeout=10).returncode == 255
    assert device.run(["sh", "-c", "kill -9 $$"], timeout=10).returncode == 137
    assert device.run(["no-such-program"], timeout=10).returncode == 127
    long = device.run(["seq", "50000"], timeout=30).stdout
    assert long == "".join(f"{number}\n" for number in range(1, 50001))


def test_variables_are_set_for_the_program(device: Ssh) -> None:
    values = {"FIRST": "a 'b' $HOME", "SECOND": ""}
    done = device.run(["sh", "-c", 'echo "$FIRST-$SECOND"; cat'], timeout=10, environment=values)
    assert done.stdout == "a 'b' $HOME-\n"
    with pytest.raises(UserError, match="no name of a variable"):
        device.run(["true"], timeout=10, environment={"A; touch x": "1"})


def test_what_takes_too_long_is_ended_on_the_board(device: Ssh, board: Board) -> None:
    command = ["sh", "-c", f"sleep 60 & echo $! > '{board.temporary}/pid'; wait"]
    with pytest.raises(DeviceError, match=rf"{board.spec} took more than 0.5 s and was stopped \(while 'sh' ran\)"):
        device.run(command, timeout=0.5)
    assert not is_running(started_pid(board))


def test_what_a_program_leaves_behind_is_ended(device: Ssh, board: Board) -> None:
    began = time.monotonic()
    done = device.run(["sh", "-c", f"sleep 60 & echo $! > '{board.temporary}/pid'; echo out"], timeout=30)
    assert (done.returncode, done.stdout) == (0, "out\n")
    assert time.monotonic() - began < 5
    assert not is_running(started_pid(board))


def test_the_board_ends_what_nobody_comes_back_for(device: Ssh, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the network is gone and neither side hears of it."""
    monkeypatch.setattr(ssh_module, "MARGIN_S", 0)
    monkeypatch.setattr(ssh_module, "ENDING_S", 0.1)
    frozen = when((board.temporary / "pid").exists, lambda: board.drop(signal.SIGSTOP))
    try:
        with pytest.raises(DeviceError, match=r"took more than 1 s"):
            device.run(["sh", "-c", f"sleep 60 & echo $! > '{board.temporary}/pid'; wait"], timeout=1)
        frozen.join()
        assert not is_running(started_pid(board))
    finally:
        board.drop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_runs_on_the_board_ends_with_this_process(board: Board, number: signal.Signals) -> None:
    before = set(board.connections())
    script = f"""
        from deploy_kit.devices.ssh import Ssh
        device = Ssh({board.place!r})
        with device.scratch() as folder:
            place = {str(board.temporary)!r}
            device.run(["sh", "-c", f"echo x > '{{folder}}/x'; sleep 60 & echo $! > '{{place}}/pid'; wait"], timeout=60)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    running = started_pid(board)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    process.communicate(timeout=20)
    assert not is_running(running)
    assert (board.left() != ["pid"]) == (number == signal.SIGKILL)  # which leaves nobody to clean up
    assert gone(board, set(board.connections()) - before)


def test_a_program_for_another_machine_is_told(device: Ssh, tmp_path: Path) -> None:
    source = written(tmp_path / "runner", FOREIGN, 0o755)
    with device.scratch() as folder:
        device.push(source, f"{folder}/runner")
        with pytest.raises(DeviceError, match="cannot run 'runner', which is made for another machine"):
            device.run([f"{folder}/runner"], timeout=10, environment={"A": "1"})


# Files


def test_files_go_there_and_back(device: Ssh, board: Board, tmp_path: Path) -> None:
    modes = {"model.ptl": 0o644, "a b": 0o755, "$(touch x)": 0o600, "-rf": 0o644, "ümlaut's": 0o700, "empty": 0o644}
    data = {name: b"" if name == "empty" else os.urandom(100_000) for name in modes}
    (tmp_path / "back").mkdir()
    with device.scratch() as folder:
        for name, mode in modes.items():
            device.push(written(tmp_path / name, data[name], mode), f"{folder}/{name}")
            device.pull(f"{folder}/{name}", tmp_path / "back" / name)
        there = {path.name: path for path in board.temporary.rglob("*") if path.is_file()}
        assert {name: path.stat().st_mode & 0o777 for name, path in there.items()} == modes
        assert {name: path.read_bytes() for name, path in there.items()} == data
    assert {path.name: path.read_bytes() for path in (tmp_path / "back").iterdir()} == data
    assert board.left() == []


def test_a_program_that_was_pushed_runs(device: Ssh, tmp_path: Path) -> None:
    source = written(tmp_path / "hello", b"#!/bin/sh\necho hello $1\n", 0o755)
    with device.scratch() as folder:
        device.push(source, f"{folder}/hello")
        assert device.run([f"{folder}/hello", "there"], timeout=10).stdout == "hello there\n"


def test_a_folder_that_runs_no_programs_is_not_taken(device: Ssh, board: Board) -> None:
    board.program("chmod", 'case "$2" in */"board tmp"/*/try) exit 0;; esac\nexec /bin/chmod "$@"')  # as with noexec
    with device.scratch() as folder:
        assert folder.startswith("/var/tmp/deploykit-")
        assert Path(folder).is_dir()
        assert board.left() == []
    assert not Path(folder).exists()


def test_a_board_that_runs_no_programs_anywhere(device: Ssh, board: Board) -> None:
    board.program("chmod", "exit 0")
    with pytest.raises(
        DeviceError, match=r"has no folder that programs can be run from: .*Permission denied"
    ) as caught:
        device.make_folder()
    assert "noexec" in caught.value.fix
    assert board.left() == []


def test_what_a_shell_prints_by_itself_is_no_part_of_a_file(device: Ssh, board: Board, tmp_path: Path) -> None:
    config = board._folder / "sshd_config"
    text = config.read_text()
    config.write_text(text + 'ForceCommand echo "Welcome to the board"; eval "$SSH_ORIGINAL_COMMAND"\n')
    try:
        board.stop()
        board.start()
        with device.scratch() as folder:
            device.push(written(tmp_path / "x", b"data"), f"{folder}/x")
            device.pull(f"{folder}/x", tmp_path / "y")
        assert (tmp_path / "y").read_bytes() == b"data"
    finally:
        config.write_text(text)
        board.stop()
        board.start()


@pytest.mark.parametrize("name", ["nothing", "folder", "pipe"])
def test_only_files_are_pulled(device: Ssh, board: Board, tmp_path: Path, name: str) -> None:
    (board.temporary / "folder").mkdir()
    os.mkfifo(board.temporary / "pipe")
    with pytest.raises(DeviceError, match=f"has no file '.*/{name}'"):
        device.pull(f"{board.temporary}/{name}", tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_name_on_the_board_never_decides_where_a_file_lands(device: Ssh, board: Board, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    written(board.temporary / "result", b"mine")
    (board.temporary / "x").mkdir()
    device.pull(f"{board.temporary}/x/../result", tmp_path / "here" / "result")
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["result"]


def test_a_file_that_arrives_short_is_no_file(device: Ssh, board: Board, tmp_path: Path) -> None:
    written(board.temporary / "result.json", b"x" * 50_000)
    board.program("dd", '/bin/dd "$@" | head -c 20000')
    board.program("cat", 'exec head -c 20000 "$@"')
    target = written(tmp_path / "old.json", b"old")
    with pytest.raises(DeviceError, match="as a file of 50000 bytes"):
        device.pull(f"{board.temporary}/result.json", target)
    assert target.read_bytes() == b"old"
    with pytest.raises(DeviceError, match="it did not arrive whole"), device.scratch() as folder:
        device.push(written(tmp_path / "x", b"x" * 30_000), f"{folder}/x")
    assert board.left() == ["result.json"]


def test_there_has_to_be_room_and_a_folder_here(
    device: Ssh, board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(board.temporary / "file", b"x" * 100)
    with pytest.raises(DeviceError, match=r"cannot be written to .*No such file"):
        device.pull(f"{board.temporary}/file", tmp_path / "missing" / "file")
    full = shutil.disk_usage(tmp_path)._replace(free=99)
    monkeypatch.setattr("deploy_kit.devices.shell.shutil.disk_usage", lambda path: full)
    with pytest.raises(DeviceError, match=r"no space for .* of 100 bytes"):
        device.pull(f"{board.temporary}/file", tmp_path / "file")


def test_a_file_comes_in_pieces(device: Ssh, board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy_kit.devices.ssh.PIECE", 1000)
    for size in (0, 999, 1000, 2500):
        data = written(board.temporary / "file", os.urandom(size)).read_bytes()
        device.pull(f"{board.temporary}/file", tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == data


def test_a_file_that_is_too_large_is_not_taken(device: Ssh, board: Board, tmp_path: Path) -> None:
    board.program("dd", 'touch "$TMPDIR/read"; exec /bin/dd "$@"')
    os.truncate(written(board.temporary / "file", b""), LARGEST_PULL + 1)
    with pytest.raises(DeviceError, match=f"file' on {board.spec} has {LARGEST_PULL + 1} bytes"):
        device.pull(f"{board.temporary}/file", tmp_path / "file")
    assert not (board.temporary / "read").exists()
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("said", ["many", "12 34", "-1"])
def test_a_board_that_counts_rubbish(device: Ssh, board: Board, tmp_path: Path, said: str) -> None:
    written(board.temporary / "file", b"x")
    board.program("wc", f"echo '{said}'")
    with pytest.raises(DeviceError, match=f"does not tell the size of .*'{said}'"):
        device.pull(f"{board.temporary}/file", tmp_path / "file")


@pytest.mark.parametrize(
    ("cat", "told"),
    [
        ("/bin/cat > /dev/full", "is full"),
        ("echo 'cat: x: Read-only file system' >&2; exit 1", "cannot be written there"),
        ("echo 'sh: cannot create x: Permission denied' >&2; exit 1", "does not permit it"),
        ("echo 'x: Rubbish' >&2; exit 1", "failed while 'model.ptl' was pushed.*Rubbish"),
    ],
)
def test_what_the_board_says_of_a_push_is_told(device: Ssh, board: Board, tmp_path: Path, cat: str, told: str) -> None:
    source = written(tmp_path / "model.ptl", os.urandom(3_000_000))
    board.program("cat", cat)
    with pytest.raises(DeviceError, match=told) as caught, device.scratch() as folder:
        device.push(source, f"{folder}/model.ptl")
    assert board.spec in str(caught.value)
    assert caught.value.fix
    assert board.left() == []


def test_what_is_not_there_to_push_is_the_users_mistake(device: Ssh, board: Board, tmp_path: Path) -> None:
    for source in (tmp_path / "nothing", tmp_path):
        with pytest.raises(UserError, match="there is no file"):
            device.push(source, f"{board.temporary}/x")
    with pytest.raises(UserError, match="no place on a device"):
        device.push(written(tmp_path / "x", b""), "-p")
    (board.temporary / "folder").mkdir()
    with pytest.raises(DeviceError, match="it is a folder"):
        device.push(tmp_path / "x", f"{board.temporary}/folder")
    with pytest.raises(DeviceError, match="was pushed"):
        device.push(tmp_path / "x", f"{board.temporary}/no/such/x")
    assert board.left() == ["folder"]


def test_only_folders_of_its_own_are_removed(device: Ssh) -> None:
    for folder in ("/", "/tmp", "/tmp/deploykit-1/../..", "/tmp/../deploykit-1", "/tmp/deploykit-*", "deploykit-1"):
        with pytest.raises(ValueError, match="no folder that was made here"):
            device.remove(folder)


def test_an_interruption_while_the_folder_is_made_leaves_none(
    device: Ssh, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = device._shell

    def interrupted(command: str, *words: object) -> object:
        answer = shell(command, *words)  # type: ignore[arg-type]
        if "mkdir" in command:
            raise KeyboardInterrupt
        return answer

    monkeypatch.setattr(device, "_shell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        device.make_folder()
    assert board.left() == []


# Not to be reached


def test_a_host_that_is_not_known_is_not_trusted(board: Board, fresh: Ssh, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody is asked, though there would be a program to ask with."""
    asked = board.program("ask", f"touch '{board.temporary}/asked'; echo yes")
    monkeypatch.setenv("SSH_ASKPASS", str(asked))
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    board.known.write_text("")
    with pytest.raises(DeviceError, match=rf"{board.spec} has a host key that is not known here") as caught:
        fresh.info()
    assert f"`ssh -p {board.port} " in caught.value.fix
    assert board.known.read_text() == ""
    assert board.left() == []


def test_a_host_key_that_changed(board: Board, fresh: Ssh) -> None:
    board.trust("stranger")
    with pytest.raises(DeviceError, match="has another host key than it had") as caught:
        fresh.make_folder()
    assert f"ssh-keygen -R '[127.0.0.1]:{board.port}'" in caught.value.fix
    assert "somebody may be in between" in caught.value.fix


def test_a_key_that_is_not_accepted_asks_nothing(board: Board, fresh: Ssh) -> None:
    board.write_client("stranger")
    with pytest.raises(DeviceError, match="does not accept this user or key") as caught:
        fresh.state()
    assert f"ssh-copy-id -p {board.port} " in caught.value.fix


def test_a_damaged_configuration(board: Board, fresh: Ssh) -> None:
    board.write_client("key", "Rubbish yes")
    with pytest.raises(DeviceError, match="the ssh configuration here is damaged"):
        fresh.state()


def test_a_host_that_does_not_exist(board: Board) -> None:
    with pytest.raises(DeviceError, match=r"ssh:pi@no-such-host\.invalid has no such host"):
        get_device("ssh:pi@no-such-host.invalid").info()


def test_a_stopped_server(board: Board, device: Ssh, tmp_path: Path) -> None:
    assert device.run(["true"], timeout=10).returncode == 0
    board.stop()
    try:
        for work in (
            lambda: device.run(["true"], timeout=10),
            device.state,
            device.make_folder,
            lambda: device.push(written(tmp_path / "x", b"x"), "/x"),
            lambda: device.pull("/x", tmp_path / "y"),
        ):
            with pytest.raises(DeviceError, match="has no ssh server that listens"):
                work()
    finally:
        board.start()
    assert device.run(["true"], timeout=10).returncode == 0  # it is there again


# Going away


def test_lost_in_a_push(board: Board, device: Ssh, tmp_path: Path) -> None:
    source = written(tmp_path / "model.ptl", os.urandom(10_000_000))
    board.program("cat", SLOW_CAT)
    lost = when((board.temporary / "read").exists, board.drop)
    with (
        pytest.raises(DeviceError, match=r"'model.ptl' was pushed .*the connection to it was lost"),
        device.scratch() as folder,
    ):
        device.push(source, f"{folder}/model.ptl")
    lost.join()
    assert board.left() == ["read"]  # a new connection has removed the rest


def test_lost_in_a_pull_leaves_nothing_here(board: Board, device: Ssh, tmp_path: Path) -> None:
    written(board.temporary / "result", os.urandom(10_000_000))
    board.program("dd", 'touch "$TMPDIR/read"; sleep 0.5; exec /bin/dd "$@"')
    lost = when((board.temporary / "read").exists, board.drop)
    with pytest.raises(DeviceError, match=r"result' was pulled\): the connection to it was lost"):
        device.pull(f"{board.temporary}/result", tmp_path / "result")
    lost.join()
    assert not (tmp_path / "result").exists()


def test_lost_in_a_run_is_no_success(board: Board, device: Ssh) -> None:
    lost = when((board.temporary / "pid").exists, board.drop)
    with pytest.raises(DeviceError, match=r"while 'sh' ran\): the connection to it was lost"), device.scratch():
        device.run(["sh", "-c", f"echo $$ > '{board.temporary}/pid'; echo half; sleep 60"], timeout=30)
    lost.join()
    assert not is_running(started_pid(board))
    assert board.left() == ["pid"]


def test_a_server_that_stops_in_a_run_and_does_not_come_back(board: Board, device: Ssh) -> None:
    lost = when((board.temporary / "pid").exists, board.stop)
    try:
        with pytest.raises(DeviceError, match="the connection to it was lost"), device.scratch():
            device.run(["sh", "-c", f"echo $$ > '{board.temporary}/pid'; sleep 60"], timeout=30)
        lost.join()
        assert not is_running(started_pid(board))
    finally:
        board.start()


# A measurement over it

SAMPLES = [10_000 + (index * 7 % 13) for index in range(50)]
DOCUMENT = json.dumps(runner_document(SAMPLES, warmup_ns=[11_000] * 10))


def runner(folder: Path, body: str) -> Path:
    """A runner that is a shell script; its last option names the ``$result``."""
    return written(folder / "runner", f'#!/bin/sh\nfor word; do result="$word"; done\n{body}\n'.encode(), 0o755)


def test_an_artifact_is_measured_and_the_board_left_clean(
    board: Board,
    deploykit: Callable[..., Ended],
    tmp_path: Path,
    tiny_onnx: Artifact,
) -> None:
    program = runner(tmp_path, f"cat > \"$result\" <<'END'\n{DOCUMENT}\nEND")
    ended = deploykit("bench", tiny_onnx.folder, "--device", board.spec, "--runner", program, "--json")
    assert ended.err == "" or "measure" in ended.err
    (found,) = ended.json
    assert found["device"]["spec"] == board.spec
    assert found["rounds"][0]["result"]["samples_ns"] == SAMPLES
    assert board.left() == []


def test_a_runner_that_writes_half_a_document(
    board: Board, deploykit: Callable[..., Ended], tmp_path: Path, tiny_onnx: Artifact
) -> None:
    half = runner(tmp_path, f"head -c 200 > \"$result\" <<'END'\n{DOCUMENT}\nEND")
    ended = deploykit("bench", tiny_onnx.folder, "--device", board.spec, "--runner", half)
    assert ended.code == 1
    assert "wrote a damaged result" in ended.err
    assert "Traceback" not in ended.err
    assert board.left() == []


def test_a_runner_that_hangs(
    board: Board,
    deploykit: Callable[..., Ended],
    tmp_path: Path,
    tiny_onnx: Artifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deploy_kit.benchmarks.runners.program.LIMIT", 0.5)
    ended = deploykit("bench", tiny_onnx.folder, "--device", board.spec, "--runner", runner(tmp_path, "sleep 60"))
    assert ended.code == 1
    assert "took more than 0.5 s and was stopped" in ended.err
    assert board.left() == []


def test_lost_while_it_measures(
    board: Board,
    deploykit: Callable[..., Ended],
    tmp_path: Path,
    tiny_onnx: Artifact,
) -> None:
    program = runner(tmp_path, f"echo $$ > '{board.temporary}/pid'; sleep 60")
    lost = when((board.temporary / "pid").exists, board.drop)
    out = tmp_path / "measured.json"
    ended = deploykit("bench", tiny_onnx.folder, "--device", board.spec, "--runner", program, "--out", out)
    lost.join()
    assert ended.code == 1
    assert "the connection to it was lost" in ended.err
    assert not out.exists()
    assert board.left() == ["pid"]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["torchscript-lite", "executorch"])
def test_the_native_runner_computes_on_a_board_what_this_machine_computes(
    board: Board, device: Ssh, tmp_path: Path, target: str
) -> None:
    protocol = Protocol(warmup=1, iterations=3)
    try:
        native = choose_runner(device, target, 1)
    except MissingDependencyError as error:
        pytest.skip(f"{error}: {error.fix}")
    artifact = export_to(tmp_path, load_tiny(), target)
    there = bench(artifact, device, native, protocol, command="x")
    here = bench(artifact, Local(), local_runner(target, 1), protocol, command="x")
    assert there.outputs[0] == pytest.approx(here.outputs[0], rel=1e-4, abs=1e-5)
    assert there.measurement.device.spec == board.spec
    assert there.measurement.rounds[0].result.runner == f"deploykit-{target} 1"
    assert board.left() == []
