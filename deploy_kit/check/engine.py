"""Checking cells: what has changed is exported and proven again, and all is compared with the baseline."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from deploy_kit.cells.commit import commit_of
from deploy_kit.cells.pool import run_all
from deploy_kit.cells.recipe import CellSpec, Recipe
from deploy_kit.cells.result import CellResult
from deploy_kit.cells.run import Stop, run_cell
from deploy_kit.check import latency
from deploy_kit.check.baseline import UPDATE, Baseline, Known, updated
from deploy_kit.check.cache import Cache, default_folder
from deploy_kit.check.compare import compare_cell, gone
from deploy_kit.check.findings import Checked, CheckReport, Finding, Kind, Level
from deploy_kit.check.keys import Keys
from deploy_kit.check.ready import require
from deploy_kit.errors import DeployKitError, UserError
from deploy_kit.outcome import Outcome

CACHE_LIMIT = 5_000_000_000
BASELINE_FILES = "baseline"
"""The folder, in that of the cache, of what later checks are timed against."""

GB_IN_KB = 1_000_000

NO_KEY = ""
"""The key of a cell whose files changed while it was exported: what came of it is of no state of them."""
CHANGED = "its files changed while it was exported"


@dataclass(frozen=True)
class Settings:
    """How a check is done; None is as the recipe says.

    With ``changed_only`` a cell that is made of the same as one in the cache is taken from there.
    """

    cache_folder: Path = field(default_factory=default_folder)
    cache_limit_bytes: int = CACHE_LIMIT
    changed_only: bool = False
    jobs: int | None = None
    command: str = ""
    """What repeats the check; it is kept with what is timed."""


@dataclass(frozen=True)
class Exported:
    """What came of an export, and the key of its files, read again before it and after it; `NO_KEY` where they differ.

    A change that was taken back before the end is not seen.
    """

    result: CellResult
    key: str


class Checker:
    """What the cells of one check share: their keys, the cache, a folder to work in and what models compute.

    It is a context; what it made, but for the cache, goes at its end.

    Args:
        shared: what it shares with other checkers; None is nothing.
        cache: of the same settings; what it has from there is held until its end, or that of the cache's `holding`.
    """

    def __init__(
        self,
        recipe: Recipe,
        baseline: Baseline | None,
        settings: Settings,
        shared: Shared | None = None,
        cache: Cache | None = None,
    ):
        self.recipe, self.baseline, self.settings = recipe, baseline, settings
        self.cache = open_cache(settings) if cache is None else cache
        self.stop = Stop()
        self._shared = shared
        self._keys = Keys(recipe) if shared is None else shared.keys
        self._open = ExitStack()
        self._work: Path | None = None

    def __enter__(self) -> Checker:
        self._open.enter_context(self.cache.holding())
        self._work = self._open.enter_context(self.cache.workspace())
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def known(self, cell: CellSpec) -> Known | None:
        """What the baseline expects of a cell."""
        return None if self.baseline is None else self.baseline.cells.get(cell.id)

    def key(self, cell: CellSpec) -> str:
        """The key of a cell, by files as this check has first read them; `UserError` where one cannot be read."""
        with _readable():
            return self._keys.of(cell)

    def unchanged(self, cell: CellSpec) -> Checked | None:
        """A cell from the cache; None where it is not there, or has to be tried again.

        A failure is, unless the baseline expects it: what should work gets another chance.
        """
        if not self.settings.changed_only:
            return None
        key, known = self.key(cell), self.known(cell)
        result = self.cache.get(key)
        if result is None or not (result.works or (known is not None and known.outcome == result.outcome)):
            return None
        return self._compared(result.model_copy(update={"cell": cell}), key, cached=True)

    def export(self, cell: CellSpec) -> Exported:
        """Export and prove a cell; the artifact is in the folder to work in, until `keep`."""
        before, references = self._read(cell)
        result = self._run(cell, references)
        after, _ = self._read(cell)
        if before == after:
            return Exported(result, after)
        references.unlink(missing_ok=True)
        shutil.rmtree(self._folder(cell), ignore_errors=True)
        kept = result.model_dump(include={"cell", "seconds", "peak_kb", "created"})
        return Exported(CellResult(outcome=Outcome.UNAVAILABLE, reason=CHANGED, **kept), NO_KEY)

    def _read(self, cell: CellSpec) -> tuple[str, Path]:
        """The key of a cell's files as they are now, and the file of what its model, as it is now, computes."""
        assert self._work is not None
        with _readable():
            keys = Keys(self.recipe)
            folder = self._work if self._shared is None else self._shared.references
            return keys.of(cell), folder / f"{keys.of_model(cell)}.pt"

    def _run(self, cell: CellSpec, references: Path) -> CellResult:
        accuracy = self.recipe.accuracy
        asked = accuracy is not None and (not accuracy.models or cell.model in accuracy.models)
        return run_cell(
            cell,
            self._folder(cell),
            limit=self.recipe.limit,
            references=references,
            accuracy=accuracy.data if accuracy is not None and asked else None,
            instructions=self.recipe.instructions,
            stop=self.stop,
            scratch=self._work,
        )

    def keep(self, exported: Exported) -> Checked:
        """Put an exported cell into the cache, and compare it with the baseline; one without a key is an error."""
        result, key = exported.result, exported.key
        if key == NO_KEY:
            return Checked(result=result, findings=[_of_no_state(result)], key=key, cached=False)
        artifact = self.cache.put(key, result, self._folder(result.cell) if result.works else None)
        return self._compared(result, key, cached=False, artifact=artifact)

    def timed(self, checked: Checked) -> Checked:
        """A cell with how long it takes, where the recipe asks for that and it is not what it was."""
        if self.recipe.latency is None or checked.artifact is None:
            return checked
        known = self.known(checked.result.cell)
        timing = latency.time_against(known, checked, self.recipe.latency, self.files, command=self.settings.command)
        return checked.model_copy(update={"findings": [*checked.findings, *timing.findings], "ratio": timing.ratio})

    @property
    def files(self) -> latency.BaselineFiles:
        """What the baseline's cells are timed by."""
        return baseline_files(self.settings)

    def _folder(self, cell: CellSpec) -> Path:
        assert self._work is not None
        number = hashlib.sha256(cell.id.encode()).hexdigest()[:8]  # two cells may have one slug
        return self._work / f"{cell.slug}-{number}"

    def _compared(self, result: CellResult, key: str, *, cached: bool, artifact: Path | None = None) -> Checked:
        findings = compare_cell(self.known(result.cell), result, self.recipe.tolerances)
        artifact = self.cache.artifact(key) if cached and result.works else artifact
        return Checked(result=result, findings=findings, key=key, cached=cached, artifact=artifact)


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{str(error.filename)!r} cannot be read: {error.strerror}", fix="mend the recipe") from error


def _of_no_state(result: CellResult) -> Finding:
    text = f"{CHANGED}: what came of it is neither of what they were nor of what they are"
    fix = "check again: with --changed-only only what has changed is exported"
    return Finding(kind=Kind.NOT_COMPARED, level=Level.ERROR, cell=result.cell.id, message=text, fix=fix)


class Shared:
    """What all cells of a recipe have in common that are checked one by one: their keys, and what models compute.

    Whoever made it closes it.
    """

    def __init__(self, recipe: Recipe):
        self.keys = Keys(recipe)
        self._folder = tempfile.TemporaryDirectory(prefix="deploykit-")  # it goes with this object

    def close(self) -> None:
        """Remove what it made."""
        self._folder.cleanup()

    @property
    def references(self) -> Path:
        """The folder of what models compute."""
        return Path(self._folder.name)


def check_cell(
    cell: CellSpec, recipe: Recipe, baseline: Baseline | None, settings: Settings, shared: Shared | None = None
) -> Checked:
    """Check one cell, alone; see `check`. Calls with one ``shared``, of the same recipe, read what it names once."""
    with Checker(recipe, baseline, settings, shared) as checker:
        found = checker.unchanged(cell) or checker.keep(checker.export(cell))
        found = checker.timed(found)
    trim(baseline, settings)
    return found


def check(
    recipe: Recipe,
    baseline: Baseline | None,
    settings: Settings,
    announce: Callable[[str], None] = lambda text: None,
    *,
    whole: bool = True,
    called: str | None = None,
    cache: Cache | None = None,
) -> CheckReport:
    """Check all cells of a recipe, several at a time, and then time those that changed, one at a time.

    However it ends, the cells that were done are in the cache. What is in it over its limit goes before anything is
    done; call `tidy` when the artifacts of the report are no longer needed.

    Args:
        baseline: what the cells are compared with; None is nothing.
        announce: is told of each cell when it is done.
        whole: whether the recipe has all cells of the baseline; those that are gone are then found.
        called: the baseline's file, for the report.
        cache: see `open_cache`; the report's artifacts are there at least until its `holding` ends.

    Raises:
        UserError: the recipe asks for what cannot be, or names what is not there; nothing is exported then.
        DeviceError: what is to time is not there.
        OSError: a disk is full.
    """
    created, start = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    require(recipe)
    cells = recipe.cells()
    with Checker(recipe, baseline, settings, cache=cache) as checker:
        trim(baseline, settings)
        found = _exported(checker, cells, announce)
        done = [_timed(checker, found[cell.id], announce) for cell in cells]
    return CheckReport(
        created=created,
        commit=commit_of(Path.cwd()),
        baseline=called,
        seconds=time.perf_counter() - start,
        cells=done,
        findings=gone(baseline, cells, recipe.elsewhere()) if baseline is not None and whole else [],
    )


def _exported(checker: Checker, cells: Sequence[CellSpec], announce: Callable[[str], None]) -> dict[str, Checked]:
    """Every cell, by its id: from the cache, or exported."""
    found: dict[str, Checked] = {}
    for cell in cells:
        unchanged = checker.unchanged(cell)
        if unchanged is not None:
            found[cell.id] = unchanged
    waiting = [cell for cell in cells if cell.id not in found]
    if checker.settings.changed_only:
        announce(f"{len(found)} of {len(cells)} cells are unchanged")
    recipe, start = checker.recipe, time.perf_counter()
    exported = run_all(
        waiting,
        checker.export,
        lambda done: done.result.peak_kb,
        at_once=checker.settings.jobs or recipe.jobs,
        memory_kb=None if recipe.memory_gb is None else int(recipe.memory_gb * GB_IN_KB),
        stop=checker.stop.ask,
    )
    for count, (cell, done) in enumerate(exported, 1):
        found[cell.id] = checker.keep(done)
        result = done.result
        left = (time.perf_counter() - start) / count * (len(waiting) - count)
        rest = f"; about {lasting(left)} left" if count < len(waiting) else ""
        announce(f"[{count}/{len(waiting)}] {cell.id}: {result.outcome}, {result.seconds:.1f} s{rest}")
    return found


def _timed(checker: Checker, checked: Checked, announce: Callable[[str], None]) -> Checked:
    start = time.perf_counter()
    timed = checker.timed(checked)
    if timed.ratio is not None:
        seconds = time.perf_counter() - start
        cell = checked.result.cell.id
        announce(f"{cell}: timed, {timed.ratio.estimate:.3f} times as long as the baseline's, {seconds:.1f} s")
    return timed


def lasting(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def new_baseline(
    report: CheckReport, recipe: Recipe, baseline: Baseline | None, settings: Settings, *, whole: bool = True
) -> Baseline:
    """A baseline that expects what a check found; what later ones are timed against is kept.

    Raises:
        DeployKitError: there is nothing to expect of a cell, as its files changed while it was exported.
    """
    torn = [each.result.cell.id for each in report.cells if each.key == NO_KEY]
    if torn:
        raise DeployKitError(
            f"the baseline is not written: files changed while what they make was exported: {', '.join(torn)}",
            fix=f"leave them as they are meanwhile; what was done is in the cache: {UPDATE} --changed-only",
        )
    runners: dict[str, str] = {}
    files = baseline_files(settings)
    if recipe.latency is not None:
        runners = latency.keep(report.cells, recipe.latency, files)
    return updated(baseline, report.cells, whole=whole, runners=runners, elsewhere=recipe.elsewhere())


def open_cache(settings: Settings) -> Cache:
    """The cache of some settings; what `check` and `new_baseline` use is to be in one `Cache.holding` of it."""
    return Cache(settings.cache_folder, settings.cache_limit_bytes)


def baseline_files(settings: Settings) -> latency.BaselineFiles:
    """The folder of what later checks are timed against."""
    return latency.BaselineFiles(settings.cache_folder / BASELINE_FILES)


def trim(baseline: Baseline | None, settings: Settings) -> None:
    """Make the cache no larger than its limit, with what cells are timed against.

    What ``baseline`` does not need of that has half of the limit; what it needs goes only where it is over the limit.
    """
    limit, files = settings.cache_limit_bytes, baseline_files(settings)
    files.trim(limit // 2, latency.needed(baseline))
    kept = files.trim(limit)
    Cache(settings.cache_folder, limit - kept).trim()


def tidy(report: CheckReport, baseline: Baseline | None, settings: Settings) -> CheckReport:
    """Make the cache no larger than its limit; the report without the artifacts that are gone then."""
    trim(baseline, settings)
    there = [
        each if each.artifact is None or each.artifact.is_dir() else each.model_copy(update={"artifact": None})
        for each in report.cells
    ]
    return report.model_copy(update={"cells": there})
