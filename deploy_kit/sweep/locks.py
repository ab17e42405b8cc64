"""Locks between all programs of this machine, which the system takes from one that ends, however it ends."""

from __future__ import annotations

import getpass
import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

POLL = 0.1
"""Seconds between two looks at a lock that another has."""

MACHINE = "machine"


class StoppedError(Exception):
    """The wait for a lock was given up."""


@contextmanager
def held(name: str, stop: threading.Event, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock that several may share, or one alone may have; `StoppedError` where ``stop`` is set before."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    folder = Path(tempfile.gettempdir(), f"deploykit-locks-{getpass.getuser()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    file = os.open(
        folder / hashlib.sha256(name.encode()).hexdigest()[:16], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(file, kind | fcntl.LOCK_NB)
                break
            if stop.wait(POLL):
                raise StoppedError
        yield
    finally:
        os.close(file)
