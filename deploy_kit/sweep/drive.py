"""A sweep from its recipe to its results: what is not done yet is done, and kept as it comes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from deploy_kit.cells.commit import commit_of
from deploy_kit.cells.entry import Entry
from deploy_kit.cells.recipe import CellSpec, Recipe
from deploy_kit.cells.result import GOOD, CellResult
from deploy_kit.check.keys import Keys
from deploy_kit.disk import FULL, explain
from deploy_kit.errors import DeployKitError, UserError
from deploy_kit.manifest import MANIFEST
from deploy_kit.sweep.claims import Worker
from deploy_kit.sweep.local import Executor, Finished, Local
from deploy_kit.sweep.store import Key, Store, Unit
from deploy_kit.sweep.work import REAL, Task, Work, tasks_of

LOOK = 1.0
"""Seconds between two looks at what others have done, where there is nothing else to do."""

PARTIAL = ".partial-"
"""Begins the name of a folder that an export is at work on; the worker's name and a tilde follow."""

LEFT_S = 30 * 86400.0
"""Seconds after which what a sweep that nobody goes on with has in the cache is removed."""

REFERENCES = ".references"

AGAIN = ("failed", "invalid")
"""Outcomes of a measurement that is made again where failures are tried again."""


class SweepReport(BaseModel):
    """A sweep as it ended; ``seconds`` are those of this call, which did ``done_now`` units.

    ``failed`` are the cells and measurements (``CELL on DEVICE``) that failed, ``invalid`` the measurements that do not
    count, and ``impossible`` those that nothing can make; each with the reason.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    run: str
    store: str
    commit: str | None
    seconds: float
    done_now: int
    done_before: int
    failed: dict[str, str]
    invalid: dict[str, str]
    impossible: dict[str, str]
    entries: list[Entry]


@dataclass(frozen=True)
class Progress:
    """How far a sweep is: units done, of how many, the last of them, and about how many seconds the rest takes."""

    done: int
    total: int
    unit: Unit
    rest_s: float | None


@dataclass
class Pace:
    """How long units take, and so the rest."""

    begun: float = field(default_factory=time.perf_counter)
    busy_s: float = 0.0
    of_kind: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})

    def add(self, key: Key, seconds: float, *, now: bool) -> None:
        """Count a unit; ``now`` says that it was done in this call."""
        self.of_kind[key.is_export].append(seconds)
        self.busy_s += seconds if now else 0

    def rest_s(self, left: Iterable[Key]) -> float | None:
        """Seconds that the rest takes, of units as long as those before and as many at a time; None: not known yet."""
        expected = 0.0
        for key in left:
            known = self.of_kind[key.is_export]
            if not known:
                return None
            expected += sum(known) / len(known)
        at_once = self.busy_s / max(time.perf_counter() - self.begun, 1e-9)
        return expected / at_once if at_once > 0 else None


@dataclass
class Sweep:
    """A run at work.

    ``root`` is the folder that artifacts are in, ``keep`` whether they stay when the run is finished. With
    ``retry_failed`` what failed is done again, and measurements that do not count.
    """

    recipe: Recipe
    store: Store
    run: str
    executor: Executor
    root: Path
    keep: bool
    retry_failed: bool = False
    progress: Callable[[Progress], None] = lambda progress: None
    note: Callable[[str], None] = lambda text: None

    def __post_init__(self) -> None:
        cells = self.recipe.cells()
        self._tasks = {cell.id: tasks_of(self.recipe, cell) for cell in cells}
        self._names = folder_names(cells)
        self._units: dict[Key, Unit] = {}
        self._again: dict[Key, str] = {}
        """When the result of a unit was made that is to be replaced."""
        self._running: dict[Key, Path] = {}
        self._pace = Pace()
        self._done_now = 0

    def prepare(self) -> None:
        """See that what is not done can be.

        Raises:
            UserError: the run has its artifacts in another folder.
            DeployKitError: a device is not there.
        """
        self._look()
        self._choose_again()
        for unit in self._units.values():
            if unit.artifact and unit.host == socket.gethostname():
                self._check_place(Path(unit.artifact).parent)
        keys = [key for key in self._keys() if self._is_open(key)]
        self.executor.prepare(sorted({key.device for key in keys if not key.is_export}))

    def _check_place(self, folder: Path) -> None:
        if folder != self.root.resolve():
            same = f"--artifacts {folder.parent}" if folder != default_root(self.run).resolve() else "no --artifacts"
            raise UserError(
                f"the run {self.run} has its artifacts in {str(folder)!r}, where they stay until it is finished",
                fix=f"give the same command with {same}, or begin another run with --new",
            )

    def _choose_again(self) -> None:
        """Choose what is to be done again."""
        again = [unit for unit in self._units.values() if self.retry_failed and _is_again(unit)]
        self._again = {unit.key: unit.created for unit in again}

    def go(self) -> SweepReport:
        """Do what is not done, alone or with others at the same run, until all is.

        Raises:
            DeployKitError: it cannot go on; what was done is kept.
        """
        before = self._look()
        for unit in self._units.values():
            self._pace.add(unit.key, unit.seconds or 0.0, now=False)
        self._choose_again()
        try:
            with Worker(self.store, self.run) as worker:
                (self.root / REFERENCES).mkdir(parents=True, exist_ok=True)
                os.utime(self.root)
                _remove_dead(worker)
                _remove_partial(self.root, worker.alive())
                scratch_of(worker.id).mkdir(mode=0o700)
                try:
                    waiting, undone = self._open(worker)
                    while undone:
                        if not self._pass(waiting, worker):
                            time.sleep(LOOK)  # others have what there is
                        self._look()
                        waiting, undone = self._open(worker)
                finally:
                    self.executor.stop()
                    _remove_partial(self.root, worker.others())
                    shutil.rmtree(scratch_of(worker.id), ignore_errors=True)
        except OSError as error:
            raise _told(error, self.root) from error
        self._end()
        return self._report(before)

    def _look(self) -> int:
        """See what is done, by this worker or others; how many units."""
        self._units = {unit.key: unit for unit in self.store.units(self.run)}
        return len(self._units)

    def _pass(self, waiting: list[Task], worker: Worker) -> bool:
        """Do all of some tasks that this worker can have; whether there was any."""
        before = self._done_now
        while waiting or self._running:
            tried, waiting = waiting, self._begin(waiting, worker)
            if not self._running:
                if len(waiting) < len(tried):
                    continue  # others have those
                break
            waiting = [*self._ended(self.executor.wait(LOOK), worker), *waiting]  # no device waits for exports
        return self._done_now > before

    def _begin(self, waiting: Sequence[Task], worker: Worker) -> list[Task]:
        """Begin the tasks that can be; those that have to wait, which are not those that another has."""
        chosen: list[Task] = []
        later: list[Task] = []
        for task in waiting:
            (chosen if self._can_begin(task, chosen, waiting) else later).append(task)
        taken = worker.take_all({task.key: self._again.get(task.key) for task in chosen}) if chosen else set()
        for task in chosen:
            if task.key in taken:
                folder = self._folder(task, worker)
                self._running[task.key] = folder
                self.executor.start(replace(task, scratch=scratch_of(worker.id)), folder)
        return later

    def _can_begin(self, task: Task, beside: Sequence[Task], waiting: Sequence[Task]) -> bool:
        if task.of_this_machine and any(key.is_export for key in (*self._running, *(each.key for each in waiting))):
            return False  # they would disturb it
        return self.executor.has_room(task, beside)

    def _folder(self, task: Task, worker: Worker) -> Path:
        if task.key.is_export:
            return self.root / f"{PARTIAL}{worker.id}~{self._names[task.cell.id]}"
        return Path(str(self._units[Key(task.cell.id)].artifact))

    def _open(self, worker: Worker) -> tuple[list[Task], bool]:
        """What this worker may take, and whether anything is not done."""
        found: list[Task] = []
        undone = False
        for export, measurements in self._tasks.values():
            unit = self._units.get(export.key)
            if unit is None or self._is_open(export.key):
                found.append(export)
                continue
            missing = [task for task in measurements if self._is_open(task.key)] if unit.outcome in GOOD else []
            undone = undone or bool(missing)
            if not missing or self._is_here(unit):
                found += missing
            elif not worker.others():  # who may have it
                self.note(f"the artifact of {export.cell.id} is not here any more: it is exported again")
                self._again[export.key] = unit.created
                found.append(export)
        return found, undone or bool(found)

    def _is_open(self, key: Key) -> bool:
        unit = self._units.get(key)
        return unit is None or self._again.get(key) == unit.created

    def _is_here(self, unit: Unit) -> bool:
        here = unit.artifact is not None and unit.host == socket.gethostname()
        return here and Path(str(unit.artifact), MANIFEST).is_file()

    def _ended(self, finished: Sequence[Finished], worker: Worker) -> list[Task]:
        """Keep results; what can be done now that they are there."""
        if not finished:
            return []
        units = [self._unit(each) for each in finished]
        kept = worker.done_all(units)
        next_: list[Task] = []
        for each, unit in zip(finished, units, strict=True):
            if unit.key not in kept:
                self.note(f"{called(unit.key)}: another did it, when no sign of life came from here in time")
                continue
            self._units[unit.key] = unit
            self._done_now += 1
            self._pace.add(unit.key, each.result.seconds, now=True)
            keys = self._keys()
            left = [key for key in keys if self._is_open(key)]
            self.progress(Progress(len(keys) - len(left), len(keys), unit, self._pace.rest_s(left)))
            measurements = self._tasks[each.task.cell.id][1] if unit.artifact else []
            next_ += [task for task in measurements if self._is_open(task.key)]
        return next_

    def _unit(self, finished: Finished) -> Unit:
        """A result as it is kept; an export's artifact is put where it stays."""
        task, result = finished.task, finished.result
        folder, artifact = self._running.pop(task.key), None
        if isinstance(result, CellResult) and result.works:
            artifact = self.root / self._names[task.cell.id]
            shutil.rmtree(artifact, ignore_errors=True)
            folder.rename(artifact)
        return Unit(
            key=task.key,
            outcome=str(result.outcome),
            document=result.model_dump(mode="json", by_alias=True),
            created=datetime.now(UTC).isoformat(timespec="microseconds"),
            host=socket.gethostname(),
            place=finished.place,
            seconds=result.seconds,
            artifact=None if artifact is None else str(artifact.resolve()),
        )

    def _keys(self) -> list[Key]:
        """Every unit that there is to do, as far as is known: a cell that fails is not measured."""
        found = []
        for export, measurements in self._tasks.values():
            unit = self._units.get(export.key)
            found.append(export.key)
            if unit is None or unit.outcome in GOOD or self._is_open(export.key):
                found += [task.key for task in measurements]
        return found

    def _end(self) -> None:
        if self.keep:
            shutil.rmtree(self.root / REFERENCES, ignore_errors=True)
        else:
            self.store.forget_artifacts(self.run, socket.gethostname(), self.root.resolve())
            shutil.rmtree(self.root, ignore_errors=True)
        self.store.finish(self.run)

    def _report(self, before: int) -> SweepReport:
        units = self.store.units(self.run)

        def told(which: Callable[[Unit], bool]) -> dict[str, str]:
            return {called(unit.key): reason_of(unit) for unit in units if which(unit)}

        run = next(each for each in self.store.runs() if each.id == self.run)
        return SweepReport(
            run=self.run,
            store=self.store.url,
            commit=run.commit,
            seconds=time.perf_counter() - self._pace.begun,
            done_now=self._done_now,
            done_before=before,
            failed=told(is_failure),
            invalid=told(lambda unit: unit.outcome == "invalid"),
            impossible=told(lambda unit: not unit.key.is_export and unit.outcome == "unavailable"),
            entries=self.store.entries(self.run),
        )


def sweep(
    recipe: Recipe,
    store: Store,
    *,
    artifacts: Path | None = None,
    hosts: Callable[[Work, Recipe], AbstractContextManager[Executor]] | None = None,
    new: bool = False,
    retry_failed: bool = False,
    work: Work = REAL,
    progress: Callable[[Progress], None] = lambda progress: None,
    note: Callable[[str], None] = lambda text: None,
) -> SweepReport:
    """Go on with the last run of a recipe where it is not finished, or begin one, and do what there is to do.

    Args:
        artifacts: artifacts are kept in a folder of the run's name in it; None is not to keep them.
        hosts: opens what does the work; None is this machine.
        new: begin a run whatever there is.
        retry_failed: do again what failed in the last run, also where that is finished.

    Raises:
        UserError: artifacts cannot be kept there, or those of the run that goes on are elsewhere.
        DeployKitError: a device is not there, or it cannot go on; what was done is kept.
    """

    def made(run: str) -> Sweep:
        root = default_root(run) if artifacts is None else artifacts / run
        keep = artifacts is not None
        return Sweep(recipe, store, run, executor, root, keep, retry_failed, progress=progress, note=note)

    hash_, host, commit = decides(recipe), socket.gethostname(), commit_of(Path.cwd())
    with (hosts or _this_machine)(work, recipe) as executor:
        made((None if new else _to_go_on(store, hash_, finished=retry_failed)) or "").prepare()
        _check_folder(artifacts or _cache())
        if new:
            run = store.begin("sweep", commit, host, recipe, hash_)
        else:
            run, begun = store.go_on("sweep", commit, host, recipe, hash_, finished=retry_failed)
            if not begun:
                note(f"the run {run} goes on; --new begins another")
        _prune(store, run, hash_)
        this = made(run)
        if isinstance(executor, Local):
            executor.references = this.root / REFERENCES
        report = this.go()
    if _changed(recipe, hash_):
        note(f"files changed during the sweep: cells of {run} are of before and of after; --new makes all again")
    return report


def _changed(recipe: Recipe, decided: str) -> bool:
    """Whether a sweep of the recipe would be another one now."""
    try:
        return decides(recipe) != decided
    except DeployKitError:  # a file that it names is gone
        return True


def _to_go_on(store: Store, decided: str, *, finished: bool) -> str | None:
    """The run that `Store.go_on` takes; None where it begins one."""
    same = [run for run in store.runs() if run.kind == "sweep" and run.decides == decided]
    return same[-1].id if same and (finished or same[-1].finished is None) else None


def _check_folder(folder: Path) -> None:
    """Raise what is to be told where nothing can be written in a folder, which is made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _told(error, folder) from error


def _told(error: OSError, folder: Path) -> DeployKitError:
    """What to tell of an error while artifacts are kept in a folder."""
    place = Path(error.filename) if isinstance(error.filename, str) else folder
    if error.errno in FULL:
        return DeployKitError(
            f"there is no space left: {place}",
            fix="free some space, and give the same command again: what was done is kept",
        )
    said = f"{str(place)!r} cannot be used: {error.strerror or error}"
    if place.is_relative_to(folder) or folder.is_relative_to(place):
        return UserError(said, fix="name a folder that can be written with --artifacts")
    return explain(error) or UserError(said)


@contextmanager
def _this_machine(work: Work, recipe: Recipe) -> Iterator[Executor]:
    memory_kb = None if recipe.memory_gb is None else int(recipe.memory_gb * 1e6)
    yield Local(work, jobs=recipe.jobs, memory_kb=memory_kb)


def called(key: Key) -> str:
    """A unit's name for people."""
    if key.is_export:
        return key.cell
    threads = "" if key.threads == 1 else f" with {key.threads} threads"
    return f"{key.cell} on {key.device}{threads}"


def is_failure(unit: Unit) -> bool:
    """Whether a unit went wrong: a cell that does not work, or a measurement that could have been made."""
    return unit.outcome not in GOOD if unit.key.is_export else unit.outcome == "failed"


def reason_of(unit: Unit) -> str:
    """Why a unit is not what it should be, in its own words."""
    if unit.key.is_export:
        return f"{unit.outcome}: {unit.document.get('reason') or 'no reason is known'}"
    measured = unit.document.get("measurement") or {}
    return unit.document.get("failure") or "; ".join(measured.get("reasons", []))


def _is_again(unit: Unit) -> bool:
    return is_failure(unit) or (not unit.key.is_export and unit.outcome in AGAIN)


def folder_names(cells: Sequence[CellSpec]) -> dict[str, str]:
    """A folder for each cell, by its id; two whose names come to the same have their hashes in them."""
    slugs = [cell.slug for cell in cells]
    return {
        cell.id: cell.slug
        if slugs.count(cell.slug) == 1
        else f"{cell.slug}-{hashlib.sha256(cell.id.encode()).hexdigest()[:8]}"
        for cell in cells
    }


def scratch_of(worker: str) -> Path:
    """The folder for temporary files of what a worker does on its machine."""
    return Path(tempfile.gettempdir(), f"deploykit-{worker}")


def _remove_dead(worker: Worker) -> None:
    """Remove workers that are no more, and their temporary files."""
    dead = worker.dead()
    for name in dead:
        shutil.rmtree(scratch_of(name), ignore_errors=True)
    if dead:
        worker.bury(dead)


def _prune(store: Store, run: str, decided: str) -> None:
    """Remove the artifacts in the cache that a run has taken the place of, or that nobody came back to for long."""
    same = [each.id for each in store.runs() if each.kind == "sweep" and each.decides == decided]
    replaced = set(same[: same.index(run)])
    for folder in _cache().glob("*"):
        with suppress(OSError):  # another removes it too
            left = time.time() - folder.stat().st_mtime > LEFT_S
            if folder.name != run and (left or folder.name in replaced) and not Worker(store, folder.name).alive():
                store.forget_artifacts(folder.name, socket.gethostname(), folder.resolve())
                shutil.rmtree(folder, ignore_errors=True)


def _remove_partial(root: Path, alive: Iterable[str]) -> None:
    """Remove what exports of workers that are no more have left."""
    names = set(alive)
    for folder in root.glob(f"{PARTIAL}*"):
        if folder.name.removeprefix(PARTIAL).partition("~")[0] not in names:
            shutil.rmtree(folder, ignore_errors=True)


def decides(recipe: Recipe) -> str:
    """A hash of what decides a sweep's results: the cells with the content of all they are made of, and the protocol.

    Raises:
        UserError: a file that the recipe names cannot be read.
    """
    keys = Keys(recipe)
    try:
        bench = {} if recipe.bench is None else recipe.bench.model_dump(mode="json")
        if bench.get("runner") and Path(bench["runner"]).is_file():
            bench["runner"] = hashlib.sha256(Path(bench["runner"]).read_bytes()).hexdigest()
        cells = sorted((cell.id, keys.of(cell)) for cell in recipe.cells())
    except OSError as error:
        raise UserError(f"{str(error.filename)!r} cannot be read: {error.strerror}", fix="mend the recipe") from error
    what = json.dumps([cells, bench, version("deploy-kit")], sort_keys=True)
    return hashlib.sha256(what.encode()).hexdigest()


def default_root(run: str) -> Path:
    """Where the artifacts of a run are while it is not finished, and nobody asked for them."""
    return _cache() / run


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deploykit" / "sweeps"
