"""Boards and other machines, through the `ssh` program.

Commands of a device share one connection, which a process of `ssh` holds until the device is no longer used. The keys,
the user's configuration and the known hosts are `ssh`'s own business: nothing is asked, and no unknown host is trusted.
Files go through `cat` and `dd`, as small boards have no other server of files. As with `adb`, words are quoted, and a
guard on the board ends what was started there when the connection or this process is gone, or the time is up.
"""

from __future__ import annotations

import math
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from deploy_kit.devices.base import Completed, Device, DeviceError, DeviceInfo, DeviceState
from deploy_kit.devices.description import SCRIPT, describe, observe
from deploy_kit.devices.shell import arriving, check_path, reason, refusal, size_of, words_of
from deploy_kit.errors import MissingDependencyError, UserError
from deploy_kit.worker import GUARD

INSTALL = "sudo apt-get install openssh-client"

OPTIONS = (
    *("-T", "-x", "-a"),
    *("-o", "BatchMode=yes"),
    *("-o", "LogLevel=ERROR"),
    *("-o", "ServerAliveInterval=10"),
    *("-o", "ServerAliveCountMax=3"),
    *("-o", "ClearAllForwardings=yes"),
    *("-o", "PermitLocalCommand=no"),
    *("-o", "RemoteCommand=none"),
    *("-o", "EscapeChar=none"),
)
"""No terminal, no forwarding, no questions; a connection that is silent for 30 s is lost."""

GUARDED = """exec 3<&0; echo {mark}
( {command} ) </dev/null 3<&- & child=$!
end() {{ kill -9 -$$ || kill -9 $child; }}
( read -r _ <&3; end ) >/dev/null 2>&1 & guard=$!
( sleep {seconds}; end ) >/dev/null 2>&1 3<&- & timer=$!
exec 3<&-; wait $child; code=$?; echo {mark}$code
kill -9 -$$ 2>/dev/null || kill -9 $guard $timer"""
"""Run a command and say how it ended, between marks; end it when standard input closes, or when its time is up and
nobody has come back for it. sshd makes the shell the leader of its process group: at the end all of it is ended."""

FED = """echo {mark}
( {command} ); echo {mark}$?"""
"""The same for a command that reads standard input, and ends with it."""

PUSHED = """fail() {{ [ -z "$1" ] || echo "$1" >&2; rm -f {part}; exit 1; }}
cat > {part} || fail
[ "$(wc -c < {part})" -eq {size} ] || fail "it did not arrive whole"
[ ! -d {place} ] || fail "it is a folder"
chmod {mode} {part} && mv -f {part} {place} || fail"""
"""Take a file from standard input, whole or not at all."""

FOLDER = """for place in "${{TMPDIR:-}}" /var/tmp /tmp "$HOME"; do
  folder=$place/{name}
  [ -d "$place" ] && mkdir -m 700 "$folder" || continue
  printf '#!/bin/sh\\n' > "$folder/try" && chmod 700 "$folder/try" && "$folder/try" && rm "$folder/try" &&
    {{ echo "$folder"; exit 0; }}
  rm -rf "$folder"
done
exit 1"""
"""Make a folder that programs can be run from, which some boards do not allow in /tmp; the disk before memory."""

UNMADE = 'rm -rf "${{TMPDIR:-/tmp}}/{name}" /var/tmp/{name} /tmp/{name} "$HOME/{name}"'
"""Remove the folder of that name, wherever it was made."""

MARGIN_S = 10
"""How much later than here the time is up on the board."""

ENDING_S = 5.0
"""How long a program on the board may take to be gone once it is told to end."""

BYTES_PER_S = 100_000
"""A transfer slower than this is given up."""

PIECE = 4 << 20
"""Bytes of a file that are taken at a time."""

_PLACE = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][\w.-]*)@)?(?P<host>[A-Za-z0-9_][\w.-]*|\[[0-9A-Fa-f:.]+(?:%\w+)?\])(?::(?P<port>\d{1,5}))?",
    re.ASCII,
)

_WRONG_ABI = re.compile(r"Exec format error|cannot execute binary file|\x7fELF|wrong ELF class|is for EM_\w+ \(\d+\)")

_UNREACHED = (
    (
        "HOST IDENTIFICATION HAS CHANGED",
        "has another host key than it had",
        "where it was installed anew, `ssh-keygen -R {known}` and `{ssh}` once; otherwise somebody may be in between",
    ),
    (
        "Host key verification failed",
        "has a host key that is not known here",
        "`{ssh}` once, and compare the fingerprint that it shows",
    ),
    (
        "Permission denied",
        "does not accept this user or key",
        "`ssh-copy-id {words}`; a key with a passphrase has to be in the agent: `ssh-add`",
    ),
    ("Too many authentication failures", "was offered too many keys", "name one with IdentityFile and IdentitiesOnly"),
    ("Could not resolve hostname", "has no such host", "see that the name is right, or a Host of ~/.ssh/config"),
    ("Connection refused", "has no ssh server that listens", "start sshd on it, or name its port: ssh:USER@HOST:PORT"),
    ("timed out", "does not answer", "see that it is on and in this network"),
    ("No route to host", "cannot be reached", "see that it is on and in this network"),
    ("Network is unreachable", "cannot be reached", "see that this machine has a network"),
    (
        "onfiguration option",
        "cannot be reached: the ssh configuration here is damaged",
        "`ssh -G {words}` says where",
    ),
)
"""What `ssh` says where it does not connect, what that is, and what to do about it."""


@dataclass(frozen=True)
class Place:
    """Where a board is: a user, a host or a name in ``~/.ssh/config``, and a port; None are left to `ssh`."""

    user: str | None
    host: str
    port: int | None

    @property
    def words(self) -> list[str]:
        """The last words of an `ssh` command."""
        host = self.host.strip("[]")
        port = [] if self.port is None else ["-p", str(self.port)]
        return [*port, "--", host if self.user is None else f"{self.user}@{host}"]


def parse_place(place: str | None) -> Place:
    """What follows ``ssh:`` in a device's name; `UserError` where no place does."""
    found = _PLACE.fullmatch(place or "")
    port = int(found["port"]) if found and found["port"] else None
    if not found or port == 0 or (port or 0) > 65535:
        raise UserError(
            f"{place!r} is no place of a board" if place else "ssh: which board?",
            fix="ssh:USER@HOST, ssh:USER@HOST:PORT, or ssh:NAME for a Host of ~/.ssh/config",
        )
    return Place(found["user"], found["host"], port)


class Ssh(Device):
    """A machine that `ssh` reaches; the connection is made when it is needed, and again where it was lost.

    Args:
        place: ``USER@HOST``, ``USER@HOST:PORT``, or a ``Host`` of the user's ssh configuration.
        connect_s: how long it may take to answer at all.
        answer_s: how long it may take over a question, such as what it is.

    Raises:
        UserError: that is no place.
        MissingDependencyError: there is no ssh.
    """

    def __init__(self, place: str | None, *, connect_s: float = 10.0, answer_s: float = 30.0):
        self._place = parse_place(place)
        self._connect_s, self._answer_s = connect_s, answer_s
        self.spec = f"ssh:{place}"
        self._clients = _Clients(_find_ssh())
        self._close = weakref.finalize(self, self._clients.end)

    def close(self) -> None:
        """End the connection; it also ends with this process."""
        self._close()

    def info(self) -> DeviceInfo:
        return describe(self.spec, self._describe())

    def state(self) -> DeviceState:
        return observe(self._describe())

    def run(self, command: Sequence[str], *, timeout: float, environment: Mapping[str, str] | None = None) -> Completed:
        name = command[0].rpartition("/")[2]
        done = self._shell(words_of(command, environment), timeout, f"while {name!r} ran")
        if done.code != 0 and _WRONG_ABI.search(done.err):
            raise DeviceError(
                f"{self.spec} cannot run {name!r}, which is made for another machine: {reason(done.err)}",
                fix="use a file for the ABI that `deploykit devices` shows for it",
            )
        return Completed(returncode=done.code, stdout=done.out.decode(errors="replace"), stderr=done.err)

    def push(self, source: Path, target: str) -> None:
        check_path(target)
        if not source.is_file():
            raise UserError(f"there is no file {str(source)!r} to push")
        found = source.stat()
        folder, _, _ = target.rpartition("/")
        part, place = shlex.quote(f"{folder}/.deploykit-{secrets.token_hex(8)}"), shlex.quote(target)
        mode = f"{found.st_mode & 0o777:o}"
        command = PUSHED.format(part=part, place=place, size=found.st_size, mode=mode)
        with source.open("rb") as data:
            limit = self._answer_s + found.st_size / BYTES_PER_S
            self._ask(command, f"while {source.name!r} was pushed to {target!r}", limit, data)

    def pull(self, source: str, target: Path) -> None:
        check_path(source)
        what, place = f"while {source!r} was pulled", shlex.quote(source)
        told = self._ask(size_of(source), what, self._answer_s).decode(errors="replace")
        with arriving(self.spec, source, target, told) as (part, size), part.open("wb") as file:
            for index in range(math.ceil(size / PIECE)):
                command = f"dd if={place} bs={PIECE} skip={index} count=1"
                file.write(self._ask(command, what, self._answer_s + PIECE / BYTES_PER_S))

    def make_folder(self) -> str:
        name, what = f"deploykit-{secrets.token_hex(8)}", "while a folder was made"
        try:
            done = self._shell(FOLDER.format(name=name), self._answer_s, what)
        except BaseException:  # the board may have made it
            with suppress(DeviceError):
                self._shell(UNMADE.format(name=name), self._answer_s, what)
            raise
        folder = done.out.decode(errors="replace").strip()
        if done.code == 0 and folder.startswith("/") and folder.endswith(f"/{name}"):
            return folder
        if "No space left" in done.err:
            raise refusal(self.spec, done.err, what)
        raise DeviceError(
            f"{self.spec} has no folder that programs can be run from: {reason(done.err)}",
            fix="set TMPDIR for its user to a folder on a disk that is not mounted with noexec",
        )

    def remove(self, folder: str) -> None:
        if not re.fullmatch(r"(/.*)?/deploykit-\w+", folder) or "/../" in folder:
            raise ValueError(f"{folder} is no folder that was made here")
        self._ask(f"rm -rf {shlex.quote(folder)}", f"while {folder} was removed", self._answer_s)

    def _describe(self) -> str:
        done = self._shell(words_of(["sh", "-c", SCRIPT]), self._answer_s, "while it described itself")
        return done.out.decode(errors="replace")

    def _ask(self, command: str, what: str, timeout: float, source: IO[bytes] | None = None) -> bytes:
        """What a short command prints, which has to succeed."""
        done = self._shell(f"export LC_ALL=C; {command}", timeout, what, source)
        if done.code != 0:
            raise refusal(self.spec, done.err, what)
        return done.out

    def _shell(self, command: str, timeout: float, what: str, source: IO[bytes] | None = None) -> _Answer:
        """Run a line of shell on the board to its end; it is ended with this process, and where time runs out.

        With ``source`` that is what it reads; it has to end when that does.
        """
        self._connect(what)
        mark = f"deploykit-{secrets.token_hex(8)}"
        script = (GUARDED if source is None else FED).format(
            mark=mark, command=command, seconds=math.ceil(timeout) + MARGIN_S
        )
        words = [*self._place.words, f"exec /bin/sh -c {shlex.quote(script)}"]
        try:
            out, err = self._clients.call(words, timeout, source)
        except subprocess.TimeoutExpired:
            raise DeviceError(
                f"{self.spec} took more than {timeout:g} s and was stopped ({what})",
                fix="see that it is not busy, and that the connection to it is good",
            ) from None
        _, body, end = [*out.split(mark.encode()), b"", b""][:3]
        if not re.fullmatch(rb"\d+\n", end):
            text = err.decode(errors="replace")
            if mark.encode() not in out and "ssh: connect to host" in text:  # the shared connection had just ended
                raise self._unreached(text, what)
            said = "" if mark.encode() in out else reason(text)
            raise DeviceError(
                f"{self.spec} did not say how it ended ({what}): {said or 'the connection to it was lost'}",
                fix="see that it is on and in this network, and try it again",
            )
        return _Answer(int(end), body.removeprefix(b"\n"), err.decode(errors="replace"))

    def _connect(self, what: str) -> None:
        """Make the connection, where there is none."""
        try:
            said = self._clients.connect(self._place.words, self._connect_s, self._answer_s)
        except subprocess.TimeoutExpired:
            said = "timed out"
        if said is not None:
            raise self._unreached(said, what)

    def _unreached(self, said: str, what: str) -> DeviceError:
        place = self._place
        names = {
            "words": shlex.join(word for word in place.words if word != "--"),
            "ssh": shlex.join(["ssh", *(word for word in place.words if word != "--")]),
            "known": shlex.quote(place.host if place.port is None else f"[{place.host.strip('[]')}]:{place.port}"),
        }
        for words, problem, fix in _UNREACHED:
            if words in said:
                return DeviceError(f"{self.spec} {problem} ({what})", fix=fix.format(**names))
        return DeviceError(
            f"{self.spec} cannot be reached ({what}): {reason(said)}", fix=f"see what `{names['ssh']}` says"
        )


@dataclass(frozen=True)
class _Answer:
    """How a line of shell ended."""

    code: int
    out: bytes
    err: str


class _Clients:
    """Processes of `ssh` that share one connection and end with this process, even where that is killed."""

    def __init__(self, ssh: str):
        self._ssh = ssh
        # A socket's path has to be short.
        place = tempfile.gettempdir() if len(tempfile.gettempdir()) < 40 else "/tmp"
        self._folder = Path(tempfile.mkdtemp(prefix="deploykit-", dir=place))
        self._socket = self._folder / "socket"
        self._master: subprocess.Popen[bytes] | None = None
        self._guard = subprocess.Popen(GUARD, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, process_group=0)

    def connect(self, place: Sequence[str], connect_s: float, answer_s: float) -> str | None:
        """Connect, where that is to be done; what `ssh` says where it cannot, None where all is well.

        Raises:
            subprocess.TimeoutExpired: it neither connects nor gives up.
        """
        if self._master and self._master.poll() is None and self._socket.exists():
            return None
        self._disconnect()
        log = self._folder / "log"
        options = ["-M", "-N", "-S", str(self._socket), "-o", f"ConnectTimeout={math.ceil(connect_s)}"]
        with log.open("wb") as err:
            self._master = self._start([*options, *place], stdin=subprocess.DEVNULL, stderr=err)
        until = time.monotonic() + connect_s + answer_s
        while not self._socket.exists():
            if self._master.poll() is not None:
                return log.read_text(errors="replace") or "ssh ended and said nothing"
            if time.monotonic() > until:
                self._disconnect()
                raise subprocess.TimeoutExpired(self._ssh, connect_s + answer_s)
            time.sleep(0.02)
        return None

    def call(self, words: Sequence[str], timeout: float, source: IO[bytes] | None) -> tuple[bytes, bytes]:
        """What a command over the connection prints; its standard input is ``source``, or open until it has ended.

        Raises:
            subprocess.TimeoutExpired: it did not end, and was ended.
        """
        reading, writing = os.pipe()
        try:
            process = self._start(
                ["-S", str(self._socket), "-o", "ControlMaster=no", *words],
                stdin=reading if source is None else source,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except BaseException:
            os.close(writing)
            raise
        finally:
            os.close(reading)
        try:
            return process.communicate(timeout=timeout)
        finally:
            os.close(writing)
            with suppress(subprocess.TimeoutExpired):
                process.wait(ENDING_S if source is None else 0)
            process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream:
                    stream.close()

    def end(self) -> None:
        """End all of them."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._guard.pid, signal.SIGKILL)
        self._guard.wait()
        if self._guard.stdin:
            self._guard.stdin.close()
        if self._master:
            self._master.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, words: Sequence[str], **streams: Any) -> subprocess.Popen[bytes]:
        """Start `ssh` in the guard's group, where the terminal's Ctrl-C does not reach it."""
        return subprocess.Popen(
            [self._ssh, *OPTIONS, *words], process_group=self._guard.pid, **{"stdout": subprocess.DEVNULL, **streams}
        )

    def _disconnect(self) -> None:
        if self._master:
            self._master.kill()
            self._master.wait()
        self._socket.unlink(missing_ok=True)


def _find_ssh() -> str:
    found = shutil.which("ssh")
    if not found:
        raise MissingDependencyError("ssh is not installed, which boards are reached with", fix=INSTALL)
    return found
