"""An artifact: a folder that is whole or absent."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy_kit.disk import FULL, explain, locked, temporary_folder
from deploy_kit.errors import DeployKitError, UserError
from deploy_kit.manifest import MANIFEST, FileRecord, Manifest, read_manifest

NEW, OLD, MARK = "new", "old", "deploykit-export"
"""What is in the temporary folder of an export: the artifact, the one that it replaces, and a mark of whose it is."""


@dataclass(frozen=True)
class Artifact:
    """A published artifact: its folder and its manifest."""

    folder: Path
    manifest: Manifest

    @property
    def main_file(self) -> Path:
        """The file that a runtime loads."""
        return self.folder / self.manifest.main_file

    @property
    def size(self) -> int:
        """Bytes of the runtime's files."""
        return sum(file.bytes for file in self.manifest.files)


def open_artifact(path: str | Path) -> Artifact:
    """Read the artifact in a folder, or the one that a file or package in it belongs to, and check its files.

    Raises:
        UserError: no artifact there, a manifest of another version, or files that are missing or changed.
    """
    folder = Path(path)
    if folder.is_file() or (folder.parent / MANIFEST).is_file():
        folder = folder.parent
    manifest = read_manifest(folder)
    for record in manifest.files:
        file = folder / record.path
        if not file.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"the manifest names a file outside its folder: {record.path!r}")
        if not file.is_file():
            raise UserError(f"{str(file)!r} is missing from the artifact", fix="export it again with --force")
        if _sha256(file) != record.sha256:
            raise UserError(
                f"{str(file)!r} was changed after it was proven: its sha256 is not the manifest's",
                fix="export it again with --force",
            )
    main = manifest.main_file
    if not any(record.path == main or record.path.startswith(f"{main}/") for record in manifest.files):
        raise UserError(f"the manifest's main_file {manifest.main_file!r} is not one of its files")
    return Artifact(folder, manifest)


def check_free(folder: Path, *, force: bool) -> None:
    """Raise `UserError` where an artifact, or anything else, is in the way at ``folder``, or nothing can be there."""
    try:
        if _is_vacant(folder):
            return
        is_artifact = (folder / MANIFEST).is_file()
    except OSError as error:
        raise _write_error(folder, error) from error
    if not is_artifact:
        raise UserError(f"{str(folder)!r} exists and is not an artifact", fix="choose another --out")
    if not force:
        raise UserError(f"{str(folder)!r} exists already", fix="replace it with --force, or choose another --out")


def _is_vacant(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


@contextmanager
def workspace(folder: Path, *, force: bool) -> Iterator[Path]:
    """A temporary folder near ``folder``, which becomes ``folder`` when the body succeeds.

    It is written whole and then renamed into place; if the body fails in any way, it is removed, with the folders
    above it that were made for it, and what stood at ``folder`` is left as it was. What processes that were killed
    have left of theirs goes first.
    """
    missing: list[Path] = []
    try:
        _remove_leftovers(folder)
        check_free(folder, force=force)
        missing += [parent for parent in folder.parents if not parent.exists()]
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _place_beside(folder) as place:
            new = place / NEW
            new.mkdir()
            yield new
            new.chmod(0o755)
            check_free(folder, force=force)
            if folder.exists():
                os.rename(folder, place / OLD)
            os.rename(new, folder)
    except OSError as error:
        raise _write_error(folder, error) from error
    finally:
        _remove_empty(missing)


@contextmanager
def _place_beside(folder: Path) -> Iterator[Path]:
    """A hidden folder, which is locked while this process is at work in it, and marked from then on."""
    place = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    with locked(place) as is_held:
        try:
            if is_held:  # else others could not tell that this process is at work
                (place / MARK).touch()
            yield place
        finally:
            _remove_place(place, folder)


def _remove_leftovers(folder: Path) -> None:
    """Remove the hidden folders of exports to ``folder`` that are marked, and locked by none: those of killed ones."""
    random = "?" * 8  # as tempfile makes them
    for mark in folder.parent.glob(f".{glob.escape(folder.name)}-{random}/{MARK}"):
        with locked(mark.parent) as is_left:
            if is_left:
                _remove_place(mark.parent, folder)


def _remove_place(place: Path, folder: Path) -> None:
    """Remove a hidden folder, with its mark last; an artifact that was taken out of its place for a new one that is
    not there yet goes back, or is kept where it cannot."""
    new, old = place / NEW, place / OLD
    if new.exists() and old.exists() and _is_vacant(folder):
        try:
            os.rename(old, folder)
        except OSError:
            return
    for path in (new, old, place):
        shutil.rmtree(path, ignore_errors=True)


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders, the innermost first, up to the first that holds something."""
    for folder in folders:
        try:
            folder.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return


def _write_error(folder: Path, error: OSError) -> DeployKitError:
    if error.errno in FULL:
        return DeployKitError(
            f"there is no space left to write {str(folder)!r}, or temporary files in {str(temporary_folder())!r}; "
            "nothing was left behind",
            fix="free some space, choose an --out on another disk, or name another temporary folder in TMPDIR",
        )
    told = None if _is_about(folder, error) else explain(error)
    reason = error.strerror or error
    return told or UserError(f"{str(folder)!r} cannot be written: {reason}", fix="choose another --out")


def _is_about(folder: Path, error: OSError) -> bool:
    """Whether an error names a path above ``folder``, or beside it or in it."""
    if not isinstance(error.filename, str):
        return False
    path, folder = Path(error.filename).absolute(), folder.absolute()
    return path.is_relative_to(folder.parent) or folder.is_relative_to(path)


def describe_files(folder: Path) -> list[FileRecord]:
    """A record of every file under ``folder``, sorted by path, without the manifest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return [
        FileRecord(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=_sha256(path))
        for path in files
    ]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
