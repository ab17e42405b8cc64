"""What a report is made from: folders of artifacts, JSON that commands wrote, and stores; told apart by content."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from deploy_kit.benchmarks.comparison import Comparison
from deploy_kit.benchmarks.measurement import SCHEMA, ArtifactRecord, Measurement
from deploy_kit.benchmarks.papers.report import SCHEMA as PAPERS_SCHEMA
from deploy_kit.benchmarks.papers.report import Results
from deploy_kit.cells.entry import Entry
from deploy_kit.check.findings import CheckReport
from deploy_kit.errors import DeployKitError, UserError
from deploy_kit.manifest import MANIFEST, Manifest, read_manifest

DEFAULT_STORE, DEFAULT_FOLDER = Path("deploykit.db"), Path("artifacts")
"""What a report is made from where no source is named: the first that is there."""

SQLITE = b"SQLite format 3\0"
CHECK_SCHEMA = 1

KNOWN = (
    "a folder of artifacts, what `deploykit check --format json`, `bench`, `compare` or `papers` wrote with --out, "
    "or a store such as sqlite:///deploykit.db"
)
"""What can be a source, in words."""

Model = TypeVar("Model", bound=BaseModel)


class Counted(BaseModel):
    """What ``bench --metric instructions`` writes of an artifact."""

    artifact: ArtifactRecord
    counts: list[int]
    pins: dict[str, str]


@dataclass
class Source:
    """What a source has; ``name`` is what the user called it, without a password."""

    name: str
    kind: str
    manifests: list[tuple[Path, Manifest]] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    checks: list[CheckReport] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    failed: list[tuple[str, str, str, str]] = field(default_factory=list)
    """Model, target, device (with its threads, where they are more than one) and reason of what was not measured."""
    counted: list[Counted] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def holds(self) -> str:
        """What it has, in words."""
        runs = {entry.run for entry in self.entries}
        counts = (
            (len(self.manifests), "artifact"),
            (len(runs), "run"),
            (len(self.entries), "cell of runs" if len(self.entries) == 1 else "cells of runs"),
            (sum(len(check.cells) for check in self.checks), "checked cell"),
            (len(self.measurements), "measurement"),
            (len(self.counted), "count"),
            (len(self.comparisons), "comparison"),
        )
        words = [f"{count} {word}{'s' if count > 1 and 'cells' not in word else ''}" for count, word in counts if count]
        return ", ".join(words) or "nothing"


def default_sources(folder: Path = Path()) -> list[str]:
    """What is taken where nothing is named; `UserError` where nothing is there."""
    if (folder / DEFAULT_STORE).is_file():
        return [str(folder / DEFAULT_STORE)]
    if (folder / DEFAULT_FOLDER).is_dir():
        return [str(folder / DEFAULT_FOLDER)]
    raise UserError(
        f"there is neither {str(DEFAULT_STORE)!r} nor a folder {str(DEFAULT_FOLDER)!r} here to report on",
        fix=f"name a source: {KNOWN}",
    )


def read_source(name: str) -> Source:
    """Read a source.

    Raises:
        UserError: nothing there, nothing in it, damaged, not deploykit's, or of a newer version.
    """
    if "://" in name:
        return _store(name)
    path = Path(name)
    try:
        if path.is_dir():
            return _folder(path, name)
        if path.name == MANIFEST and path.is_file():
            return _folder(path.parent, name)
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"there is no file or folder {name!r}", fix=f"name {KNOWN}") from None
    except OSError as error:
        raise UserError(f"{name!r} cannot be read: {error.strerror}", fix="make it readable") from error
    if content.startswith(SQLITE):
        return dataclasses.replace(_store(path), name=name)
    return _document(content, name)


def _store(url: str | Path) -> Source:
    from deploy_kit.sweep.store import open_store, store_url

    address = store_url(url)
    if address.get_backend_name() == "sqlite" and address.database:
        _check_sqlite(Path(address.database))
    store = open_store(url, must_exist=True)
    try:
        entries = store.entries()
    finally:
        store.close()
    if not entries:
        raise UserError(f"the store {store.url} is empty", fix="fill it with `deploykit sweep`, or a check's --store")
    return Source(store.url, "store", entries=entries)


def _check_sqlite(file: Path) -> None:
    """Raise `UserError` for a SQLite file that is no store: opening it would make the tables of one in it."""
    if not file.is_file():
        return
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    except sqlite3.Error as error:
        raise UserError(f"{str(file)!r} cannot be read: {error}", fix="name another store") from error
    if "deploykit_schema" not in tables:
        raise UserError(f"{str(file)!r} is a database, but no store of deploykit's", fix="name the --store of a sweep")


def _folder(folder: Path, name: str) -> Source:
    """The artifacts in a folder and below it; one that cannot be read is left out with a note, unless it is alone."""
    source = Source(name, "artifacts")
    first: DeployKitError | None = None
    for place in _artifacts(folder):
        try:
            source.manifests.append((place, read_manifest(place)))
        except DeployKitError as error:
            first = first or error
            source.notes.append(f"{place} is left out: {error}")
    if source.manifests:
        return source
    if first is not None:
        raise first
    raise UserError(
        f"there is no artifact in the folder {name!r}",
        fix="name the folder that `deploykit export` wrote into, such as artifacts",
    )


def _artifacts(folder: Path) -> Iterator[Path]:
    """Folders with a manifest, in the order of their names; hidden folders are not looked into, nor are artifacts."""
    for place, folders, files in os.walk(folder):
        if MANIFEST in files:
            folders.clear()
            yield Path(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def _document(content: bytes, name: str) -> Source:
    """What a JSON file has."""
    if not content.strip():
        raise UserError(f"{name!r} is empty", fix=f"name {KNOWN}")
    try:
        document = json.loads(content, parse_constant=lambda text: None, parse_float=_number)
    except (ValueError, RecursionError):
        raise UserError(f"{name!r} is no JSON, or is cut off", fix=f"name {KNOWN}") from None
    if isinstance(document, list):
        return _list(document, name)
    fields = set(document) if isinstance(document, dict) else set()
    if fields >= {"cells", "findings", "baseline"}:
        return Source(name, "check", checks=[_valid(CheckReport, document, name, CHECK_SCHEMA)])
    if fields >= {"rows", "published", "protocol"}:
        return _papers(_valid(Results, document, name, PAPERS_SCHEMA), name)
    if fields >= {"pairs", "ratio", "verdict"}:
        return Source(name, "comparison", comparisons=[_valid(Comparison, document, name, SCHEMA)])
    if fields >= {"rounds", "summary", "artifact"}:
        return Source(name, "measurements", measurements=[_valid(Measurement, document, name, SCHEMA)])
    raise UserError(f"{name!r} is nothing that a report is made from", fix=f"name {KNOWN}")


def _number(text: str) -> float | None:
    """A number of JSON; None where it is too large to be one."""
    value = float(text)
    return value if math.isfinite(value) else None


def _list(document: Sequence[Any], name: str) -> Source:
    """What ``bench --out`` has written: measurements, or counts of instructions."""
    if not document:
        raise UserError(f"{name!r} has no measurement in it", fix="measure again, with `deploykit bench --out`")
    if not all(isinstance(each, dict) for each in document):
        raise UserError(f"{name!r} is nothing that a report is made from", fix=f"name {KNOWN}")
    if all({"artifact", "counts"} <= set(each) for each in document):
        return Source(name, "instructions", counted=[_valid(Counted, each, name, SCHEMA) for each in document])
    if all({"rounds", "summary", "artifact"} <= set(each) for each in document):
        found = [_valid(Measurement, each, name, SCHEMA) for each in document]
        return Source(name, "measurements", measurements=found)
    raise UserError(f"{name!r} is nothing that a report is made from", fix=f"name {KNOWN}")


def _papers(results: Results, name: str) -> Source:
    source, threads = Source(name, "papers"), results.protocol.threads
    device = results.device.spec if threads == 1 else f"{results.device.spec}, {threads} threads"
    for row in results.rows:
        if row.measurement is not None:
            source.measurements.append(row.measurement)
        elif row.failure is not None:
            source.failed.append((row.model, row.target, device, row.failure.message))
    if not source.measurements and not source.failed:
        raise UserError(f"{name!r} has no measurement in it", fix="run `deploykit papers` to its end")
    source.notes.append(f"{name}: the published figures in it are not shown; its own figure.html has them")
    return source


def _valid(model: type[Model], document: Any, name: str, known: int) -> Model:
    """A document as its type; `UserError` where it is of another version, or damaged."""
    version = document.get("schema_version", known)
    if version != known:
        raise UserError(
            f"{name!r} has schema version {version!r}; this deploykit reads version {known}",
            fix="use the deploykit that wrote it, or a newer one",
        )
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise UserError(f"{name!r} is damaged: {where}: {first['msg']}", fix="have it written again") from error
