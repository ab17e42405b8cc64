"""A board for tests: a real sshd on loopback with keys, a port and folders of its own, and an `ssh` that reaches it."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
SEPARATION = Path("/run/sshd")
"""The folder that Debian's sshd wants where root starts it, which its service makes otherwise."""


def why_not() -> str:
    """Why there can be no board here; empty where there can."""
    if SSHD is None or shutil.which("ssh") is None:
        return "needs ssh and sshd: sudo apt-get install openssh-client openssh-server"
    if os.geteuid() == 0 and not SEPARATION.is_dir():
        try:
            SEPARATION.mkdir(mode=0o755)
        except OSError as error:
            return f"sshd needs {SEPARATION}, which cannot be made: {error.strerror}"
    return ""


class Board:
    """A machine at ``spec``, which is this one with other folders.

    ``programs`` come first on its path. ``temporary`` is its folder for temporary files. ``ssh`` is a folder with an
    `ssh` that has the key to it and knows its host key, as a user's would by ``~/.ssh``. Its shell is told that it is
    no first one: bash then leaves the user's ``.bashrc`` alone.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self.programs, self.temporary, self.ssh = folder / "programs", folder / "board tmp", folder / "ssh"
        for each in (self.programs, self.temporary, self.ssh):
            each.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        for name in ("host", "key", "stranger"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        self.known, self.config = folder / "known_hosts", folder / "config"
        self._write_server()
        self.trust("host")
        self.write_client("key")
        (self.ssh / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F "{self.config}" "$@"\n')
        (self.ssh / "ssh").chmod(0o755)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def place(self) -> str:
        return f"{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def spec(self) -> str:
        return f"ssh:{self.place}"

    def _write_server(self) -> None:
        folder = self._folder
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\n"
            f"HostKey {folder}/host\n"
            f"AuthorizedKeysFile {folder}/key.pub\n"
            "StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            "PermitRootLogin yes\nPidFile none\nPrintMotd no\nMaxStartups 100\nMaxSessions 3\n"
            f'SetEnv "PATH={self.programs}:{os.environ["PATH"]}" "TMPDIR={self.temporary}" SHLVL=2\n'
        )

    def trust(self, name: str) -> None:
        """Let the host key of that name be the one that `ssh` knows."""
        kind, key, *_ = (self._folder / f"{name}.pub").read_text().split()
        self.known.write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")

    def write_client(self, key: str, more: str = "") -> None:
        """Let `ssh` log in with the key of that name."""
        self.config.write_text(
            f"{more}\nHost board\n  HostName 127.0.0.1\n  Port {self.port}\nHost *\n"
            f"  IdentityFile {self._folder}/{key}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
            f"  UserKnownHostsFile {self.known}\n  GlobalKnownHostsFile /dev/null\n"
        )

    def start(self) -> None:
        assert SSHD
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", self._folder / "sshd_config"], stderr=log, process_group=0
            )
        for _ in range(250):
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.02)
        raise RuntimeError((self._folder / "log").read_text(errors="replace"))

    def stop(self) -> None:
        """End the server and its connections."""
        self.drop()
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def drop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Signal the server's connections, and not what they have started."""
        for pid in self.connections():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def connections(self) -> list[int]:
        """The processes of the server for its connections."""
        if self._process is None:
            return []
        found, waiting = [], [self._process.pid]
        while waiting:
            parent = waiting.pop()
            children = [pid for pid in _processes() if _parent(pid) == parent and _name(pid).startswith("sshd")]
            found += children
            waiting += children
        return found

    def program(self, name: str, script: str) -> Path:
        """Install a program on the board; ``script`` has the line with its interpreter where that is not the shell."""
        path = self.programs / name
        path.write_text(script if script.startswith("#!") else f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def left(self) -> list[str]:
        """What lies in its folder for temporary files."""
        return sorted(str(path.relative_to(self.temporary)) for path in self.temporary.rglob("*"))


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _parent(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return -1


def _name(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""
