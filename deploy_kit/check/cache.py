"""Results and artifacts of cells, by the key of what they are made of.

A folder that several processes use at once. An entry is written beside and renamed into place, so that it is whole or
absent; what was not used for longest goes when there is more than the limit, but for what a run has in `Cache.holding`.
What was damaged is not there. Nothing here needs a lock file: a folder can be locked itself.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from deploy_kit.cells.result import CellResult
from deploy_kit.disk import locked
from deploy_kit.errors import DeployKitError
from deploy_kit.outcome import Outcome

ENTRY, ARTIFACT = "entry.json", "artifact"
ENTRIES, WORK = "cells", "work"
HELD = "held-"
"""Begins the name of a file in a working folder that keeps the entry of the rest of its name."""

NEW_S = 60.0
"""Seconds in which a working folder may not be locked yet."""

NEVER_KEPT = (Outcome.CRASHED, Outcome.TOO_SLOW, Outcome.UNAVAILABLE)
"""Outcomes that another try may not have."""


class _File(BaseModel):
    """A file of an artifact; ``changed`` is its time in ns, by which it is known to be the same without reading it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    bytes: int
    changed: int
    sha256: str


class _Entry(BaseModel):
    """What is written of a cell; ``files`` is None where there is no artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    key: str
    result: CellResult
    files: list[_File] | None


def default_folder() -> Path:
    """Where checks keep what they made: ``~/.cache/deploykit/check``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deploykit" / "check"


class Cache:
    """The entries in a folder.

    Args:
        folder: is made where it is not there.
        limit_bytes: what `trim` leaves at most.

    Raises:
        DeployKitError: the folder cannot be written.
    """

    def __init__(self, folder: Path, limit_bytes: int):
        self.folder, self.limit_bytes = folder, limit_bytes
        self._marks: Path | None = None
        with _explained(folder):
            for part in (ENTRIES, WORK):
                (folder / part).mkdir(parents=True, exist_ok=True)
        self._sweep()

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """A folder to work in, on the same disk; it goes with all that is in it, now or, of a killed run, later."""
        with _explained(self.folder):
            work = Path(tempfile.mkdtemp(dir=self.folder / WORK))
        with locked(work):
            try:
                yield work
            finally:
                shutil.rmtree(work, ignore_errors=True)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """No run removes what is put or found in the body until its end, whatever it puts or trims."""
        if self._marks is not None:
            yield
            return
        with self.workspace() as self._marks:
            try:
                yield
            finally:
                self._marks = None

    def put(self, key: str, result: CellResult, artifact: Path | None) -> Path | None:
        """Keep a result, and the artifact that it has in a folder of a `workspace`, which is moved.

        Returns:
            Where the artifact is now; None where there is none, or the result may be another when it is tried again.
        """
        if result.outcome in NEVER_KEPT:
            return None
        with _explained(self.folder):
            place = Path(tempfile.mkdtemp(dir=self.folder / WORK))
            try:
                files = None
                if artifact is not None:
                    os.rename(artifact, place / ARTIFACT)
                    files = [_describe(path, place / ARTIFACT) for path in _files_in(place / ARTIFACT)]
                entry = _Entry(key=key, result=result, files=files)
                (place / ENTRY).write_text(entry.model_dump_json(indent=1), encoding="utf-8")
                place.chmod(0o755)
                self._mark(place)
                published = self._publish(place, key)
            finally:
                shutil.rmtree(place, ignore_errors=True)
        for older in self._places(key):
            if older != published:
                self._remove(older)
        return published / ARTIFACT if files is not None else None

    def get(self, key: str) -> CellResult | None:
        """The result with a key, whose artifact is there and is what it was; None where there is none."""
        found = self._find(key)
        return None if found is None else found[0].result

    def artifact(self, key: str) -> Path | None:
        """The folder of the artifact with a key; None where there is none. It is used in `holding`."""
        found = self._find(key)
        return None if found is None or found[0].files is None else found[1] / ARTIFACT

    def _find(self, key: str) -> tuple[_Entry, Path] | None:
        """The newest whole entry with a key, and where it is; damaged ones go."""
        for place in self._places(key):
            with locked(place, shared=True) as lock:
                entry = _read(place, key) if lock else None
                if entry is not None:
                    _touch(place)
                    self._mark(place)
                    return entry, place
            if lock:
                self._remove(place)
        return None

    def _mark(self, place: Path) -> None:
        """Keep an entry, which this process has locked or alone knows of, while `holding`."""
        if self._marks is not None:
            with _explained(self.folder):
                (self._marks / f"{HELD}{place.name}").touch()

    def _is_held(self, place: Path) -> bool:
        for work in _listed(self.folder / WORK):
            if (work / f"{HELD}{place.name}").exists():
                with locked(work) as free:
                    if not free:
                        return True
        return False

    def trim(self) -> int:
        """Remove what was used longest ago, and is not in use, until the rest fits the limit; how many went."""
        places = sorted((place for key in _listed(self.folder / ENTRIES) for place in _listed(key)), key=_last_use)
        sizes = [size_of(place) for place in places]
        total, removed = sum(sizes), 0
        for place, size in zip(places, sizes):
            if total <= self.limit_bytes:
                break
            if self._remove(place):
                total, removed = total - size, removed + 1
        return removed

    def _places(self, key: str) -> list[Path]:
        """The entries of a key, the newest first: two runs may have written one at once."""
        return sorted(_listed(self.folder / ENTRIES / key), key=_last_use, reverse=True)

    def _publish(self, place: Path, key: str) -> Path:
        while True:
            folder = self.folder / ENTRIES / key
            folder.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):  # another run has just removed the empty folder
                return place.rename(folder / place.name)

    def _remove(self, place: Path) -> bool:
        """Remove an entry that nobody uses; whether it is gone."""
        if self._is_held(place):  # known without a lock, with which others would not find it
            return False
        with locked(place) as lock:
            if not lock or self._is_held(place):
                return False
            trash = self.folder / WORK / f"{place.name}.old"
            try:
                place.rename(trash)
            except OSError:
                return not place.exists()
            shutil.rmtree(trash, ignore_errors=True)
        with suppress(OSError):  # there is another entry of the same key
            place.parent.rmdir()
        return True

    def _sweep(self) -> None:
        """Remove what killed runs have left."""
        for work in _listed(self.folder / WORK):
            if time.time() - _last_use(work) < NEW_S:
                continue
            with locked(work) as lock:
                if lock:
                    shutil.rmtree(work, ignore_errors=True)


def _read(place: Path, key: str) -> _Entry | None:
    """An entry that is whole; None where it is damaged."""
    try:
        entry = _Entry.model_validate_json((place / ENTRY).read_bytes())
        folder = place / ARTIFACT
        found = {path.relative_to(folder).as_posix() for path in _files_in(folder)}
        whole = found == {file.path for file in entry.files or ()} and (entry.files is not None) == folder.is_dir()
        if entry.key == key and whole and all(_is_same(file, folder) for file in entry.files or ()):
            return entry
    except (OSError, ValidationError, UnicodeDecodeError):
        pass
    return None


def _is_same(file: _File, folder: Path) -> bool:
    """Whether a file is what it was: by its size and time, or where its time is another, by its content."""
    path = folder / file.path
    found = path.stat()
    if found.st_size != file.bytes:
        return False
    return found.st_mtime_ns == file.changed or _sha256(path) == file.sha256


def _describe(path: Path, folder: Path) -> _File:
    found = path.stat()
    relative = path.relative_to(folder).as_posix()
    return _File(path=relative, bytes=found.st_size, changed=found.st_mtime_ns, sha256=_sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _listed(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir()]
    except OSError:
        return []


def _last_use(place: Path) -> float:
    try:
        return place.stat().st_mtime
    except OSError:
        return 0.0


def _touch(place: Path) -> None:
    with suppress(OSError):  # a cache that may only be read
        os.utime(place)


def size_of(place: Path) -> int:
    """The bytes of the files in a folder."""
    total = 0
    for folder, _, names in os.walk(place):  # what others remove meanwhile is passed over
        for name in names:
            with suppress(OSError):
                total += os.stat(os.path.join(folder, name)).st_size
    return total


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DeployKitError(
            f"the cache {str(folder)!r} cannot be written: {error.strerror or error}",
            fix="free some space, or name another folder with --cache",
        ) from error
