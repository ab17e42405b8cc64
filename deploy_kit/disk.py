"""Files that are written whole, folders that are locked, and errors of a full disk or the temporary folder."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deploy_kit.errors import DeployKitError, UserError

FULL = (errno.ENOSPC, errno.EDQUOT)


def explain(error: OSError) -> DeployKitError | None:
    """What to tell of a full disk or a temporary folder that cannot be used; None for every other error."""
    folder = temporary_folder()
    if error.errno in FULL:
        return DeployKitError(
            f"there is no space left for temporary files in {str(folder)!r}",
            fix="free some space, or name another temporary folder in TMPDIR",
        )
    reason = error.strerror or str(error)
    named = isinstance(error.filename, str) and Path(error.filename).is_relative_to(folder)
    if named or reason.startswith("No usable temporary directory"):
        return UserError(
            f"temporary files cannot be written in {str(folder)!r}: {reason}",
            fix="name a folder that can be written, on a disk with space left, in TMPDIR",
        )
    return None


def temporary_folder() -> Path:
    """Where temporary files go, or would go if they could."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        return Path(os.environ.get("TMPDIR", "/tmp"))


@contextmanager
def explained() -> Iterator[None]:
    """Raise what `explain` tells of an error in the body instead of it."""
    try:
        yield
    except OSError as error:
        told = explain(error)
        if told is None:
            raise
        raise told from error


@contextmanager
def locked(folder: Path, *, shared: bool = False) -> Iterator[bool]:
    """Lock a folder, shared with others or for oneself alone, until the body or the process ends, however it ends.

    Yields:
        Whether it is locked: False where others have locked it, it is not there, or the system has no such locks.
    """
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):  # there is none on Windows
        yield False
        return
    try:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            same = os.path.samestat(os.fstat(handle), folder.stat())
        except OSError:  # it is locked, or was removed before it was
            same = False
        yield same
    finally:
        os.close(handle)


def replace(path: Path, text: str) -> None:
    """Write a file at once: it is whole, or as it was, whenever a run ends.

    A link stays, and what it names is written. What is no file, such as a pipe or ``/dev/stdout``, is written into.
    """
    real = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    new = real.with_name(f".{real.name[:100]}-{secrets.token_hex(4)}.new")
    try:
        new.write_text(text, encoding="utf-8")
        if real.exists():
            shutil.copymode(real, new)
        new.replace(real)
    finally:
        with suppress(OSError):  # nothing can be in a folder that cannot be there
            new.unlink()
