"""Results in a database: runs of checks and sweeps, and each unit of their work, once.

A unit is an export of a cell, or a measurement of it on a device with a number of threads. Its row is made when a
worker takes it, in one transaction and under a key that it shares with no other, and holds the result when it is
done; so what was done is there however a worker ends, and nothing is done twice. A worker that is lost has its row in
the table of workers, which stops being renewed, and what it had taken and not done is free again.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Engine,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from deploy_kit.errors import DeployKitError, MissingDependencyError, UserError

if TYPE_CHECKING:
    from deploy_kit.cells.entry import Entry
    from deploy_kit.cells.recipe import Recipe

DEFAULT_STORE = "sqlite:///deploykit.db"

SCHEMA = 1
"""The version of the tables; a database says in a table which it has."""

BUSY_S = 30.0
"""Seconds to wait for another program's transaction."""

CONNECT_S = 10
"""Seconds that a server has to answer."""

EXPORT = ""
"""The device of an export's unit; its number of threads is 0."""

Kind = Literal["check", "sweep"]

_tables = MetaData()
_schema = Table("deploykit_schema", _tables, Column("version", Integer, nullable=False))
_runs = Table(
    "deploykit_runs",
    _tables,
    Column("id", String(40), primary_key=True),
    Column("kind", String(10), nullable=False),
    Column("created", String(40), nullable=False),
    Column("commit", String(80)),
    Column("host", String(255), nullable=False),
    Column("recipe", Text, nullable=False),
    Column("decides", String(64), nullable=False, index=True),
    Column("finished", String(40)),
)
units_table = Table(
    "deploykit_units",
    _tables,
    Column("run", ForeignKey("deploykit_runs.id"), primary_key=True),
    Column("cell", String(500), primary_key=True),
    Column("device", String(200), primary_key=True),
    Column("threads", Integer, primary_key=True),
    Column("worker", String(120), index=True),
    Column("created", String(40)),
    Column("host", String(255)),
    Column("place", String(255)),
    Column("outcome", String(40)),
    Column("seconds", Double),
    Column("artifact", Text),
    Column("document", Text),
)
workers_table = Table(
    "deploykit_workers",
    _tables,
    Column("id", String(120), primary_key=True),
    Column("run", ForeignKey("deploykit_runs.id"), nullable=False, index=True),
    Column("machine", String(255), nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("started", String(40), nullable=False),
    Column("seen", Double, nullable=False),
)


@dataclass(frozen=True)
class Run:
    """A check or a sweep; ``recipe`` is what it was told, ``decides`` a hash of what decides its results."""

    id: str
    kind: str
    created: str
    commit: str | None
    host: str
    recipe: dict[str, Any]
    decides: str
    finished: str | None


@dataclass(frozen=True, order=True)
class Key:
    """A unit of a run: the export of a cell, or a measurement of it on a device with a number of threads."""

    cell: str
    device: str = EXPORT
    threads: int = 0

    @property
    def is_export(self) -> bool:
        return self.device == EXPORT


@dataclass(frozen=True)
class Unit:
    """A unit that is done.

    ``outcome`` is the export's, or ``measured``, ``invalid``, ``failed`` or ``unavailable`` of a measurement. ``place``
    is the host that it was done on, ``host`` the one that has the ``artifact``.
    """

    key: Key
    outcome: str
    document: dict[str, Any]
    created: str
    host: str
    place: str | None = None
    seconds: float | None = None
    artifact: str | None = None


def store_url(url: str | Path) -> URL:
    """The address of a store: of a SQLite file, whatever characters its name has, or as a URL says; see `open_store`.

    Raises:
        UserError: a URL of no such database.
    """
    return URL.create("sqlite", database=str(url)) if isinstance(url, Path) else _parse(url)


def open_store(url: str | Path = DEFAULT_STORE, *, must_exist: bool = False) -> Store:
    """The store at a URL such as ``sqlite:///results.db`` or ``postgresql://USER:PASSWORD@HOST/DATABASE``.

    A path is one of a SQLite file.

    Its tables are made where they are not there yet; with ``must_exist`` a file that is not there is an error.

    Raises:
        UserError: a URL of no such database, a file that is none, or one of a later version of deploykit.
        MissingDependencyError: what speaks to the database is not installed.
        DeployKitError: it cannot be reached, read or written.
    """
    parsed = store_url(url)
    if parsed.get_backend_name() == "sqlite":
        _check_file(parsed, must_exist=must_exist)
    store = Store(_engine(parsed), _shown(parsed))
    store.prepare()
    return store


def _parse(url: str) -> URL:
    fix = "name one such as sqlite:///deploykit.db or postgresql://USER:PASSWORD@HOST/DATABASE"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise UserError("the store is no URL of a database", fix=fix) from None
    backend = parsed.get_backend_name()
    if backend == "postgres":
        parsed = parsed.set(drivername="postgresql")
        backend = "postgresql"
    if backend not in ("sqlite", "postgresql"):
        raise UserError(f"results are kept by SQLite or PostgreSQL, not by {backend}", fix=fix)
    return parsed.set(drivername="postgresql+psycopg") if parsed.drivername == "postgresql" else parsed


def _shown(url: URL) -> str:
    """A URL without its passwords, which may stand before the host or among the parameters."""
    secret = [name for name in url.query if "password" in name.lower() or "secret" in name.lower()]
    return url.difference_update_query(secret).render_as_string(hide_password=True)


def _check_file(url: URL, *, must_exist: bool) -> None:
    if url.database in (None, "", ":memory:"):
        raise UserError("a store is a file, so that it is there later", fix=f"name one, such as {DEFAULT_STORE}")
    file = Path(str(url.database))
    if must_exist and not file.is_file():
        raise UserError(f"there is no store {str(file)!r}", fix="make one with `deploykit sweep`, or name another")
    if not file.absolute().parent.is_dir():
        raise UserError(f"there is no folder {str(file.parent)!r} for the store", fix="make it first")


def _engine(url: URL) -> Engine:
    sqlite = url.get_backend_name() == "sqlite"
    waits: dict[str, Any] = {"timeout": BUSY_S} if sqlite else {"connect_timeout": CONNECT_S}
    try:
        engine = create_engine(url, connect_args=waits, pool_pre_ping=not sqlite)
    except (ImportError, NoSuchModuleError) as error:
        raise MissingDependencyError(
            f"PostgreSQL needs a package that is not installed: {error}", fix="pip install 'deploy-kit[postgres]'"
        ) from error
    if sqlite:
        event.listen(engine, "connect", _leave_transactions_to_us)
        event.listen(engine, "begin", _begin)
    return engine


def _leave_transactions_to_us(connection: Any, record: Any) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys = ON")


def _begin(connection: Connection) -> None:
    """Take the lock for writing at once, so that two writers wait for each other and neither fails half-way."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


class Store:
    """Runs and their units in a database; ``url`` is without its password.

    Every method raises `DeployKitError` where the database cannot be reached, read or written.
    """

    def __init__(self, engine: Engine, url: str):
        self._engine, self.url = engine, url

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    @contextmanager
    def transaction(self, *, writes: bool = True) -> Iterator[Connection]:
        """A connection whose changes are all kept or none; errors are those of the class."""
        try:
            with self._engine.connect().execution_options(writes=writes) as connection, connection.begin():
                yield connection
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            raise _explained(self.url, error) from error

    def prepare(self) -> None:
        """Make the tables that are not there; see `open_store`."""
        with self.transaction() as connection:
            _alone(connection)
            _schema.create(connection, checkfirst=True)
            version = connection.execute(select(_schema.c.version)).scalar()
            if version is None:
                _tables.create_all(connection)
                connection.execute(insert(_schema).values(version=SCHEMA))
            elif version != SCHEMA:
                raise UserError(
                    f"the store {self.url} was written by another deploykit: its tables are of version {version}, and "
                    f"this one knows {SCHEMA}",
                    fix="use that deploykit, or another store",
                )

    def begin(self, kind: Kind, commit: str | None, host: str, recipe: Recipe, decides: str = "") -> str:
        """Begin a run; the name that it is known by, which sorts by time."""
        with self.transaction() as connection:
            return _begun(connection, kind, commit, host, recipe, decides)

    def go_on(
        self, kind: Kind, commit: str | None, host: str, recipe: Recipe, decides: str, *, finished: bool = False
    ) -> tuple[str, bool]:
        """The last run that the same decides, if it is not finished, or a new one; and whether it is new.

        Args:
            finished: take the last one also if it is finished, which it then is no more.
        """
        with self.transaction() as connection:
            _alone(connection)
            same = select(_runs).where(_runs.c.kind == kind, _runs.c.decides == decides)
            last = connection.execute(same.order_by(_runs.c.created.desc()).limit(1)).mappings().one_or_none()
            if last is None or (last["finished"] is not None and not finished):
                return _begun(connection, kind, commit, host, recipe, decides), True
            connection.execute(update(_runs).where(_runs.c.id == last["id"]).values(finished=None))
            return str(last["id"]), False

    def finish(self, run: str) -> None:
        """Say that all of a run is done."""
        with self.transaction() as connection:
            connection.execute(update(_runs).where(_runs.c.id == run).values(finished=_iso()))

    def forget_artifacts(self, run: str, host: str, folder: Path) -> None:
        """Say that a host has no artifacts of a run in a folder any more."""
        inside = units_table.c.artifact.startswith(f"{folder}{os.sep}", autoescape=True)
        those = (units_table.c.run == run) & (units_table.c.host == host) & inside
        with self.transaction() as connection:
            connection.execute(update(units_table).where(those).values(artifact=None))

    def runs(self) -> list[Run]:
        """All runs, the oldest first."""
        with self.transaction(writes=False) as connection:
            rows = connection.execute(select(_runs).order_by(_runs.c.created, _runs.c.id)).mappings().all()
        return [Run(**{**row, "recipe": json.loads(row["recipe"])}) for row in rows]

    def add(self, entry: Entry) -> None:
        """Keep a cell's result with its measurements, all at once.

        Raises:
            UserError: there is no such run, or it has a result of the cell already.
        """
        rows = [_of_entry(entry, unit) for unit in _units_of(entry)]
        try:
            with self.transaction() as connection:
                connection.execute(insert(units_table), rows)
        except IntegrityError as error:
            raise UserError(
                f"the run {entry.run} has a result of {entry.result.cell.id} already, or there is no such run"
            ) from error

    def entries(self, run: str | None = None) -> list[Entry]:
        """What is done of a run, cell by cell as they were exported; None are all runs, the oldest first.

        Raises:
            UserError: there is no such run, or a result that this deploykit does not understand.
        """
        from pydantic import ValidationError

        runs = self.runs()
        if run is not None:
            runs = [each for each in runs if each.id == run]
            if not runs:
                raise UserError(f"the store {self.url} has no run {run!r}")
        try:
            return [entry for each in runs for entry in _entries(each, self.units(each.id))]
        except ValidationError as error:
            wrong = error.errors()[0]
            raise UserError(
                f"the store {self.url} has a result that cannot be understood: {wrong['loc']}: {wrong['msg']}",
                fix="it may be of another version of deploykit: use that one",
            ) from error

    def units(self, run: str) -> list[Unit]:
        """What is done of a run, in the order in which it was done."""
        done = select(units_table).where(units_table.c.run == run, units_table.c.document.is_not(None))
        with self.transaction(writes=False) as connection:
            rows = connection.execute(done.order_by(units_table.c.created, units_table.c.cell)).mappings().all()
        return [_unit(row) for row in rows]


def _alone(connection: Connection) -> None:
    """Let no other program do at the same time what follows in this transaction; SQLite has one that writes anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(7225443)"))


def _begun(connection: Connection, kind: Kind, commit: str | None, host: str, recipe: Recipe, decides: str) -> str:
    now = datetime.now(UTC)
    run = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    row = {"kind": kind, "created": _iso(now), "commit": commit, "host": host, "decides": decides}
    connection.execute(insert(_runs).values(id=run, recipe=recipe.model_dump_json(), **row))
    return run


def _unit(row: Any) -> Unit:
    names = ("outcome", "created", "host", "place", "seconds", "artifact")
    key = Key(row["cell"], row["device"], row["threads"])
    return Unit(key=key, document=json.loads(row["document"]), **{name: row[name] for name in names})


def _units_of(entry: Entry) -> list[Unit]:
    """An entry's result, its measurements and its failures."""
    result, cell = entry.result, entry.result.cell.id
    units = [
        Unit(
            key=Key(cell),
            outcome=str(result.outcome),
            document=result.model_dump(mode="json"),
            created=entry.created,
            host=entry.host,
            seconds=result.seconds,
            artifact=entry.artifact,
        )
    ]
    for measured in entry.measurements:
        document = {"measurement": measured.model_dump(mode="json", by_alias=True)}
        key = Key(cell, measured.device.spec, measured.protocol.threads)
        outcome = "measured" if measured.valid else "invalid"
        units.append(Unit(key=key, outcome=outcome, document=document, created=entry.created, host=entry.host))
    for device, reason in entry.failures.items():
        key = Key(cell, device)
        units.append(
            Unit(key=key, outcome="failed", document={"failure": reason}, created=entry.created, host=entry.host)
        )
    return units


def _of_entry(entry: Entry, unit: Unit) -> dict[str, Any]:
    key = unit.key
    return {"run": entry.run, "cell": key.cell, "device": key.device, "threads": key.threads, **columns_of(unit)}


def columns_of(unit: Unit) -> dict[str, Any]:
    """The columns of a unit that is done, but for its key."""
    return {
        "worker": None,
        "created": unit.created,
        "host": unit.host,
        "place": unit.place,
        "outcome": unit.outcome,
        "seconds": unit.seconds,
        "artifact": unit.artifact,
        "document": json.dumps(unit.document),
    }


def _entries(run: Run, units: Sequence[Unit]) -> Iterator[Entry]:
    from deploy_kit.benchmarks.measurement import Measurement
    from deploy_kit.cells.entry import Entry
    from deploy_kit.cells.result import CellResult

    for export in units:
        if not export.key.is_export:
            continue
        measured = [unit for unit in units if unit.key.cell == export.key.cell and not unit.key.is_export]
        documents = [unit.document["measurement"] for unit in measured if unit.document.get("measurement")]
        yield Entry(
            run=run.id,
            kind=run.kind,  # type: ignore[arg-type]  # one of its two words
            created=export.created,
            commit=run.commit,
            host=export.host,
            result=CellResult.model_validate(export.document),
            measurements=[Measurement.model_validate(document) for document in documents],
            failures={_called(unit.key): unit.document["failure"] for unit in measured if unit.document.get("failure")},
            artifact=export.artifact,
        )


def _called(key: Key) -> str:
    return key.device if key.threads <= 1 else f"{key.device}, {key.threads} threads"


def _iso(moment: datetime | None = None) -> str:
    return (moment or datetime.now(UTC)).isoformat(timespec="microseconds")


def _explained(url: str, error: SQLAlchemyError) -> DeployKitError:
    """What to tell of a database's error: its own first line, and what to do."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    said = lines[0] if lines else type(cause).__name__
    fixes = {
        "is locked": "another program holds it for long: end that one, or name another --store",
        "not a database": "name another --store: this file is something else",
        "disk is full": "free some space, and give the same command again: what was done is kept",
        "No space left": "free some space on the server, and give the same command again: what was done is kept",
        "readonly": "make the file and its folder writable, or name another --store",
        "unable to open": "make the file and its folder writable, or name another --store",
    }
    fix = next((fix for words, fix in fixes.items() if words in said), "see that it runs and that the URL is right")
    return DeployKitError(f"the store {url} cannot be used: {said}", fix=fix)
