"""A small adb daemon for tests: real commands by the local shell, in a folder of its own, and faults on demand.

It speaks what the real adb asks a device for: the connection, ``shell,v2``, and ``sync`` to push and to pull.
``/data/local/tmp`` is a folder of the test, in commands by replacing its name.
"""

from __future__ import annotations

import os
import queue
import socket
import stat
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TEMPORARY = "/data/local/tmp"
LARGEST = 64 * 1024
CHUNK = 16 * 1024
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
VERSION = 0x1000001
TOKEN, PUBLIC_KEY = 1, 3
"""A token to sign, and a key to ask a person about, who never answers."""


class DroppedError(Exception):
    """The connection ends here, as it does when a cable is pulled."""


@dataclass
class Faults:
    """What goes wrong; all of it can be set while the daemon runs.

    ``unauthorized`` accepts no key. ``drop_push`` and ``drop_pull`` are the bytes after which the cable is pulled,
    ``drop_run`` is a word in a command's output that does so, and ``hang_run`` one in a command that is never answered.
    ``push_error`` is what the device says of a file that it was given. ``cut_pull`` is how many bytes it gives of a
    file as if they were all, and ``list_as`` makes of every file a folder with one file of this name.
    """

    unauthorized: bool = False
    drop_push: int | None = None
    drop_pull: int | None = None
    drop_run: str | None = None
    hang_run: str | None = None
    push_error: str | None = None
    cut_pull: int | None = None
    list_as: str | None = None


class Daemon:
    """One device, at ``serial``, until `unplug`; `plug` again at the same place."""

    def __init__(self, folder: Path, programs: Path, *, shell: str = "/bin/sh", features: str = "shell_v2,cmd,stat_v2"):
        self.folder, self.programs, self.shell, self.features = folder, programs, shell, features
        self.faults = Faults()
        self.port = 0
        self._connections: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.plug()

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self.port}"

    def plug(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def unplug(self) -> None:
        """Close what is open and accept nothing more."""
        if self._listener:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._connections.add(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        link = Link(connection)
        streams: dict[int, Stream] = {}
        with suppress(OSError):
            for command, first, second, data in link.messages():
                self._answer(link, streams, command, first, second, data)
        for stream in streams.values():
            stream.end()
        self._connections.discard(connection)
        connection.close()

    def _answer(
        self, link: Link, streams: dict[int, Stream], command: bytes, first: int, second: int, data: bytes
    ) -> None:
        if command == b"CNXN":
            self._greet(link)
        elif command == b"AUTH" and first != PUBLIC_KEY:
            link.send(b"AUTH", TOKEN, 0, os.urandom(20))
        elif command == b"OPEN":
            stream = streams[len(streams) + 1] = Stream(link, len(streams) + 1, first)
            service = data.rstrip(b"\0").decode()
            threading.Thread(target=self._service, args=(stream, service), daemon=True).start()
        elif command == b"WRTE" and second in streams:
            streams[second].arrived.put(data)
            link.send(b"OKAY", second, first)
        elif command == b"OKAY" and second in streams:
            streams[second].may_write.release()
        elif command == b"CLSE" and second in streams:
            streams[second].end()

    def _greet(self, link: Link) -> None:
        if self.faults.unauthorized:
            link.send(b"AUTH", TOKEN, 0, os.urandom(20))
        else:
            banner = f"device::ro.product.name=toy;ro.product.model=Toy;ro.product.device=toy;features={self.features}"
            link.send(b"CNXN", VERSION, LARGEST, banner.encode())

    def _service(self, stream: Stream, service: str) -> None:
        name, _, rest = service.partition(":")
        try:
            if name.split(",")[:2] == ["shell", "v2"]:
                stream.accept()
                self._shell(stream, rest)
            elif name == "sync":
                stream.accept()
                self._sync(stream)
        except DroppedError:
            self.unplug()
        except (OSError, EOFError):
            pass
        finally:
            with suppress(OSError):
                stream.close()

    def _shell(self, stream: Stream, command: str) -> None:
        if self.faults.hang_run and self.faults.hang_run in command:
            stream.wait_for_end()
            return
        process = subprocess.Popen(
            [self.shell, "-c", command.replace(TEMPORARY, str(self.folder))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PATH": f"{self.programs}:{os.environ['PATH']}"},
            start_new_session=True,  # as the real one does
        )
        assert process.stdin
        assert process.stdout
        assert process.stderr
        threading.Thread(target=_feed, args=(stream, process.stdin), daemon=True).start()
        errors = threading.Thread(target=_copy, args=(stream, STDERR, process.stderr.fileno()), daemon=True)
        errors.start()
        try:
            _copy(stream, STDOUT, process.stdout.fileno(), (self.faults.drop_run or "").encode())
        finally:
            with suppress(OSError):
                process.stdin.close()
        errors.join()
        code = process.wait()
        stream.send(struct.pack("<BIB", EXIT, 1, code if code >= 0 else 128 - code))

    def _sync(self, stream: Stream) -> None:
        while True:
            kind, length = struct.unpack("<4sI", stream.receive(8))
            name = stream.receive(length).decode()
            if kind == b"QUIT":
                return
            path = Path(name.replace(TEMPORARY, str(self.folder)))
            if kind in (b"STAT", b"STA2", b"LST2"):
                self._stat(stream, kind, path)
            elif kind == b"LIST":
                entry = (self.faults.list_as or "").encode()
                stream.send(struct.pack("<4sIIII", b"DENT", stat.S_IFREG | 0o644, 4, 0, len(entry)) + entry)
                stream.send(struct.pack("<4sIIII", b"DONE", 0, 0, 0, 0))
            elif kind == b"SEND":
                self._receive_file(stream, name)
            elif kind == b"RECV":
                self._send_file(stream, path)
            else:
                _fail(stream, f"unknown command {kind!r}")

    def _stat(self, stream: Stream, kind: bytes, path: Path) -> None:
        try:
            found = path.stat() if kind == b"STA2" else path.lstat()
        except OSError as error:
            empty = struct.pack("<4sIII", kind, 0, 0, 0)
            stream.send(empty if kind == b"STAT" else struct.pack("<4sI64x", kind, error.errno))
            return
        mode = stat.S_IFDIR | 0o755 if self.faults.list_as and stat.S_ISREG(found.st_mode) else found.st_mode
        size, changed = found.st_size, int(found.st_mtime)
        if kind == b"STAT":
            stream.send(struct.pack("<4sIII", kind, mode, size, changed))
            return
        stream.send(struct.pack("<4sIQQIIIIQqqq", kind, 0, 1, found.st_ino, mode, 1, 0, 0, size, *(changed,) * 3))

    def _receive_file(self, stream: Stream, described: str) -> None:
        name, _, mode = described.rpartition(",")
        path = Path(name.replace(TEMPORARY, str(self.folder)))
        problem = self.faults.push_error
        total = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            while True:
                kind, length = struct.unpack("<4sI", stream.receive(8))
                if kind == b"DONE":
                    break
                file.write(stream.receive(length))
                total += length
                if self.faults.drop_push is not None and total > self.faults.drop_push:
                    raise DroppedError
        if problem:
            path.unlink()
            _fail(stream, problem)
            return
        path.chmod(int(mode) & 0o777)
        stream.send(struct.pack("<4sI", b"OKAY", 0))

    def _send_file(self, stream: Stream, path: Path) -> None:
        if self.faults.list_as:
            stream.send(struct.pack("<4sI4s4sI", b"DATA", 4, b"evil", b"DONE", 0))
            return
        try:
            data = path.read_bytes()[: self.faults.cut_pull]
        except OSError as error:
            _fail(stream, str(error.strerror))
            return
        for start in range(0, len(data), CHUNK):
            if self.faults.drop_pull is not None and start > self.faults.drop_pull:
                raise DroppedError
            part = data[start : start + CHUNK]
            stream.send(struct.pack("<4sI", b"DATA", len(part)) + part)
        stream.send(struct.pack("<4sI", b"DONE", 0))


class Link:
    """Messages over one connection."""

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, command: bytes, first: int, second: int, data: bytes = b"") -> None:
        number = int.from_bytes(command, "little")
        head = struct.pack("<6I", number, first, second, len(data), sum(data) & 0xFFFFFFFF, number ^ 0xFFFFFFFF)
        with self._lock:
            self._connection.sendall(head + data)

    def messages(self) -> Iterator[tuple[bytes, int, int, bytes]]:
        with self._connection.makefile("rb") as file, suppress(OSError):
            while len(head := file.read(24)) == 24:
                number, first, second, length, _, _ = struct.unpack("<6I", head)
                yield number.to_bytes(4, "little"), first, second, file.read(length)


class Stream:
    """One opened service: bytes that arrive, and bytes sent one message at a time."""

    def __init__(self, link: Link, here: int, there: int):
        self._link, self._here, self._there = link, here, there
        self.arrived: queue.Queue[bytes] = queue.Queue()
        self.may_write = threading.Semaphore(1)
        self._rest = b""
        self._lock = threading.Lock()
        self._ended = False

    def accept(self) -> None:
        self._link.send(b"OKAY", self._here, self._there)

    def send(self, data: bytes) -> None:
        with self._lock:
            for start in range(0, len(data), CHUNK):
                self.may_write.acquire()
                if self._ended:
                    raise EOFError
                self._link.send(b"WRTE", self._here, self._there, data[start : start + CHUNK])

    def receive(self, length: int) -> bytes:
        """Exactly so many bytes; EOFError where the other side has ended."""
        while len(self._rest) < length:
            data = self.arrived.get()
            if not data:
                self.arrived.put(b"")
                raise EOFError
            self._rest += data
        data, self._rest = self._rest[:length], self._rest[length:]
        return data

    def wait_for_end(self) -> None:
        while self.arrived.get():
            pass

    def end(self) -> None:
        """The other side is gone: wake whoever waits for it."""
        self._ended = True
        self.arrived.put(b"")
        self.may_write.release()

    def close(self) -> None:
        self._link.send(b"CLSE", self._here, self._there)


def _copy(stream: Stream, channel: int, source: int, drop: bytes = b"") -> None:
    while data := os.read(source, CHUNK - 5):
        stream.send(struct.pack("<BI", channel, len(data)) + data)
        if drop and drop in data:
            raise DroppedError


def _feed(stream: Stream, target: object) -> None:
    """What arrives goes to the process's standard input, which is closed when the other side closes it or is gone."""
    close: Callable[[], None] = target.close  # type: ignore[attr-defined]
    with suppress(EOFError, OSError, ValueError):
        while True:
            channel, length = struct.unpack("<BI", stream.receive(5))
            data = stream.receive(length)
            if channel == CLOSE_STDIN:
                break
            if channel == STDIN:
                target.write(data)  # type: ignore[attr-defined]
                target.flush()  # type: ignore[attr-defined]
    with suppress(OSError):
        close()


def _fail(stream: Stream, message: str) -> None:
    stream.send(struct.pack("<4sI", b"FAIL", len(message)) + message.encode())


def device_program(folder: Path, name: str, script: str) -> None:
    """A program of the device, in its shell's language."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
