"""Who does which unit of a run: a worker takes it before it begins, and no other has it until that one is lost."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import Connection, delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from deploy_kit.errors import DeployKitError
from deploy_kit.sweep.store import Key, Store, Unit, columns_of, units_table, workers_table

RENEWED_S = 10.0
"""Seconds between two signs of life of a worker."""

LOST_S = 90.0
"""Seconds without a sign of life after which a worker elsewhere is lost; of one on this machine the system knows."""

FORGOTTEN_S = 86400.0
"""Seconds without a sign of life after which one elsewhere does not come back."""


class Worker:
    """This process at work on a run, from ``with`` to its end, when what it took and did not do is free again."""

    def __init__(self, store: Store, run: str):
        self.store, self.run = store, run
        self.id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> Worker:
        row = {
            "id": self.id,
            "run": self.run,
            "machine": machine(),
            "pid": os.getpid(),
            "started": started(os.getpid()),
        }
        with self.store.transaction() as connection:
            connection.execute(insert(workers_table).values(seen=_now(connection), **row))
        self._renewing.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._renewing.join()
        with suppress(DeployKitError), self.store.transaction() as connection:
            self._free(connection, units_table.c.worker == self.id)
            connection.execute(delete(workers_table).where(workers_table.c.id == self.id))

    def take(self, key: Key, *, instead_of: str | None = None) -> bool:
        """Take a unit; False where another has it or has done it.

        Args:
            instead_of: when a result of it was made that is to be replaced; it stays until the new one is there.
        """
        try:
            with self.store.transaction() as connection:
                return self._take(connection, key, instead_of)
        except IntegrityError:  # another was quicker
            return False

    def take_all(self, wanted: Mapping[Key, str | None]) -> set[Key]:
        """Take what can be taken of units, each with its ``instead_of``, in one transaction; those that were."""
        ordered = sorted(wanted)  # as all workers have them, so that no two wait for each other
        try:
            with self.store.transaction() as connection:
                return {key for key in ordered if self._take(connection, key, wanted[key])}
        except IntegrityError:  # another was quicker at one of them
            return {key for key in ordered if self.take(key, instead_of=wanted[key])}

    def done(self, unit: Unit) -> bool:
        """Keep the result of a unit that this worker took; False where it was thought lost, and another has it."""
        return bool(self.done_all([unit]))

    def done_all(self, ended: Sequence[Unit]) -> set[Key]:
        """Keep the results of units that this worker took, in one transaction; those that it still had."""
        kept = set()
        with self.store.transaction() as connection:
            for unit in sorted(ended, key=lambda unit: unit.key):
                mine = update(units_table).where(self._is(unit.key), units_table.c.worker == self.id)
                if connection.execute(mine.values(**columns_of(unit))).rowcount == 1:
                    kept.add(unit.key)
        return kept

    def give_back(self, key: Key) -> None:
        """Let another do a unit that this worker took."""
        with self.store.transaction() as connection:
            self._free(connection, self._is(key) & (units_table.c.worker == self.id))

    def others(self) -> set[str]:
        """The other workers of the run that are alive."""
        return self.alive() - {self.id}

    def alive(self) -> set[str]:
        """The workers of the run that are alive."""
        with self.store.transaction(writes=False) as connection:
            found = connection.execute(select(workers_table.c.id).where(workers_table.c.run == self.run)).scalars()
            return {name for name in found.all() if _alive(connection, name)}

    def dead(self) -> set[str]:
        """The workers of any run that are no more for certain: of this machine, or silent for very long."""
        with self.store.transaction(writes=False) as connection:
            rows = connection.execute(select(workers_table)).mappings().all()
            silent = {row["id"] for row in rows if _now(connection) - row["seen"] > FORGOTTEN_S}
            here = [row for row in rows if row["machine"] == machine()]
            return silent | {row["id"] for row in here if not is_running(row["pid"], row["started"])}

    def bury(self, names: Collection[str]) -> None:
        """Remove workers; what they took and did not do is free again."""
        with self.store.transaction() as connection:
            self._free(connection, units_table.c.worker.in_(names))
            connection.execute(delete(workers_table).where(workers_table.c.id.in_(names)))

    def _take(self, connection: Connection, key: Key, instead_of: str | None) -> bool:
        units = units_table
        row = connection.execute(select(units).where(self._is(key))).mappings().one_or_none()
        if row is None:
            values = {"run": self.run, "cell": key.cell, "device": key.device, "threads": key.threads}
            connection.execute(insert(units).values(worker=self.id, **values))
            return True
        if row["document"] is not None and row["created"] != instead_of:
            return False
        if row["worker"] is not None and row["worker"] != self.id and _alive(connection, row["worker"]):
            return False
        unchanged = (units.c.worker.is_not_distinct_from(row["worker"]),)
        same = (*unchanged, units.c.created.is_not_distinct_from(row["created"]))
        return connection.execute(update(units).where(self._is(key), *same).values(worker=self.id)).rowcount == 1

    def _is(self, key: Key) -> Any:
        units = units_table.c
        same = (units.cell == key.cell) & (units.device == key.device) & (units.threads == key.threads)
        return (units.run == self.run) & same

    def _free(self, connection: Connection, those: Any) -> None:
        """Units with a result keep it; of the others there is no row any more."""
        connection.execute(delete(units_table).where(those, units_table.c.document.is_(None)))
        connection.execute(update(units_table).where(those).values(worker=None))

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED_S):
            with suppress(DeployKitError), self.store.transaction() as connection:  # the next may come through
                seen = _now(connection)
                connection.execute(update(workers_table).where(workers_table.c.id == self.id).values(seen=seen))


def _now(connection: Connection) -> float:
    """Seconds by the database's clock, which is the same for all workers."""
    if connection.dialect.name == "sqlite":
        return time.time()
    return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())


def _alive(connection: Connection, worker: str) -> bool:
    row = connection.execute(select(workers_table).where(workers_table.c.id == worker)).mappings().one_or_none()
    if row is None:
        return False
    if row["machine"] == machine():
        return is_running(row["pid"], row["started"])
    return bool(_now(connection) - row["seen"] < LOST_S)


def machine() -> str:
    """This machine since it was started, as processes see it: one of another machine or container has another."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def started(pid: int) -> str:
    """When a process of this machine was started, in the system's words; empty where it does not tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def is_running(pid: int, since: str) -> bool:
    """Whether a process that was started then is there; another one with its number is not it."""
    if sys.platform == "linux":
        return bool(since) and started(pid) == since and not _is_zombie(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except (OSError, IndexError):
        return True
