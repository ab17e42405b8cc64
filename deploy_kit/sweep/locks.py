"""Locks between all programs of this machine, which the system takes from one that ends, however it ends."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deploy_kit.errors import UserError

POLL = 0.1
"""Seconds between two looks at a lock that another has."""

MACHINE = "machine"


class StoppedError(Exception):
    """The wait for a lock was given up."""


@contextmanager
def held(name: str, stop: threading.Event, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock that several may share, or one alone may have.

    Raises:
        StoppedError: ``stop`` was set before.
        UserError: the folder of the locks is not this user's.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    folder = _folder()
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


def _folder() -> Path:
    """The folder of this user's locks."""
    user = os.getuid()
    folder = Path(tempfile.gettempdir(), f"deploykit-locks-{user}")
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if found.st_uid != user or not stat.S_ISDIR(found.st_mode):
        raise UserError(
            f"{str(folder)!r} is not a folder of this user, whose number it has",
            fix="have it removed, or name another folder for temporary files in TMPDIR",
        )
    return folder
