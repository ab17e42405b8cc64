from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from deploy_kit.benchmarks.suites import sweep_scaling
from deploy_kit.cells import run as cells_run
from deploy_kit.cells.result import CellResult
from deploy_kit.errors import DeployKitError, UserError
from deploy_kit.outcome import Outcome
from deploy_kit.sweep import claims, drive, work
from deploy_kit.sweep.claims import Worker
from deploy_kit.sweep.drive import Pace, Progress, SweepReport, called, decides, folder_names, scratch_of, sweep
from deploy_kit.sweep.local import Local
from deploy_kit.sweep.store import Key, Store, open_store, workers_table
from deploy_kit.sweep.work import BenchResult, Task, Work, command, tasks_of
from tests.cli.support import ROOT, environment
from tests.sweep.fakes import EPOCH, measure, recipe_of


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cell of these tests has code that a hash could be of; their artifacts and locks are their own."""
    monkeypatch.setattr(drive, "LOOK", 0.02)
    monkeypatch.setattr(drive, "decides", lambda recipe: recipe.model_dump_json())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{tmp_path}/s.db")
    yield opened
    opened.close()


class Lab:
    """Counts what is done, and says what was at work together; some of it fails while it is in ``broken``."""

    def __init__(self) -> None:
        self.done: list[Key] = []
        self.together: set[frozenset[str]] = set()
        self.broken: set[str] = set()
        self.absent: set[str] = set()
        self.error: BaseException | None = None
        self.erring = threading.Event()
        """When the error comes."""
        self.seconds = 0.02
        self._now: list[str] = []
        self._changed = threading.Condition()

    @property
    def work(self) -> Work:
        return Work(self.export, self.measure, self.look)

    def look(self, device: str) -> None:
        if device in self.absent:
            raise DeployKitError(f"{device} is not there")

    def export(self, task: Task, folder: Path, references: Path | None) -> CellResult:
        with self._at_work(task):
            if self.error is not None and task.key.cell.startswith("tests.sweep.fakes:b"):
                folder.mkdir()
                assert self.erring.wait(300)
                raise self.error
            if task.key.cell in self.broken:
                return CellResult(cell=task.cell, outcome=Outcome.CRASHED, reason="boom", seconds=0.1, created=EPOCH)
            return sweep_scaling.export(task, folder, references)

    def measure(self, task: Task, folder: Path) -> BenchResult:
        with self._at_work(task):
            if called(task.key) in self.broken:
                return BenchResult(outcome="failed", failure="no answer", seconds=0.1)
            return measure(task, folder)

    def has_met(self, name: str) -> bool:
        """Whether there was the company that a kind of work waits for."""
        return True

    def _at_work(self, task: Task) -> _AtWork:
        return _AtWork(self, task.key)


class _AtWork:
    def __init__(self, lab: Lab, key: Key):
        self.lab, self.key, self.name = lab, key, key.device or "export"

    def __enter__(self) -> None:
        with self.lab._changed:
            self.lab._now.append(self.name)
            counted = Counter(self.lab._now)
            self.lab.together.add(frozenset(f"{name} {count}" for name, count in counted.items()))
            self.lab.done.append(self.key)
            self.lab._changed.notify_all()
            assert self.lab._changed.wait_for(lambda: self.lab.has_met(self.name), timeout=60)
        time.sleep(self.lab.seconds)

    def __exit__(self, *error: object) -> None:
        with self.lab._changed:
            self.lab._now.remove(self.name)


def go(store: Store, lab: Lab, *models: str, devices: tuple[str, ...] = ("sim:1",), **options: object) -> SweepReport:
    recipe = recipe_of(*models, devices=devices).model_copy(update={"jobs": 3, "memory_gb": 1000.0})
    return sweep(recipe, store, work=lab.work, **options)  # type: ignore[arg-type]


def cell(model: str) -> str:
    return f"tests.sweep.fakes:{model}/onnx/fp32"


def test_every_cell_is_exported_and_measured_on_every_device_once(store: Store) -> None:
    lab = Lab()
    seen: list[Progress] = []
    report = go(store, lab, *"abc", devices=("sim:1", "adb:2"), progress=seen.append)
    assert Counter(lab.done) == Counter(
        Key(cell(model), *where) for model in "abc" for where in ((), ("sim:1", 1), ("adb:2", 1))
    )
    assert [(made.done, made.total) for made in seen] == [(count, 9) for count in range(1, 10)]
    assert [len(entry.measurements) for entry in report.entries] == [2, 2, 2]
    assert (report.failed, report.done_now, report.done_before) == ({}, 9, 0)
    assert store.entries(report.run) == report.entries
    assert store.runs()[0].finished is not None


@pytest.mark.parametrize("after", ["after", DeployKitError("a file is gone")])
def test_files_that_changed_during_a_sweep_are_told(
    after: str | DeployKitError, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, notes, states = Lab(), list[str](), iter(["one", "one", "before", after])

    def decided(recipe: object) -> str:
        state = next(states)
        if isinstance(state, DeployKitError):
            raise state
        return state

    monkeypatch.setattr(drive, "decides", decided)
    go(store, lab, "a", note=notes.append)
    assert notes == []
    report = go(store, lab, "a", note=notes.append)
    assert notes == [
        f"files changed during the sweep: cells of {report.run} are of before and of after; --new makes all again"
    ]


class Sociable(Lab):
    """A lab whose first exports wait for each other, and its first phone for whatever else may be at work."""

    @property
    def exports_met(self) -> bool:
        return any({"export 2"} <= each or {"export 3"} <= each for each in self.together)

    @property
    def others_met(self) -> bool:
        return any(len(each) > 1 for each in self.together)

    def has_met(self, name: str) -> bool:
        return name == "local" or (self.exports_met if name == "export" else self.others_met)


def test_a_device_is_used_by_one_at_a_time_and_this_machine_for_nothing_else(store: Store) -> None:
    lab = Sociable()
    lab.seconds = 0.05
    go(store, lab, *"abcd", devices=("adb:1", "adb:2", "local"))
    assert not any(f"{device} 2" in each for each in lab.together for device in ("adb:1", "adb:2", "local"))
    with_local = [each for each in lab.together if "local 1" in each]
    assert with_local
    assert not any(name.startswith("export") for each in with_local for name in each)
    assert lab.exports_met
    assert lab.others_met


def test_failures_are_results_and_are_done_again_when_that_is_asked_for(store: Store) -> None:
    lab = Lab()
    lab.broken = {cell("a"), f"{cell('b')} on sim:1"}
    report = go(store, lab, *"abc")
    assert report.failed == {cell("a"): "crashed: boom", f"{cell('b')} on sim:1": "no answer"}
    by_model = {entry.result.cell.model[-1]: entry for entry in report.entries}
    assert by_model["a"].result.outcome == Outcome.CRASHED
    assert by_model["b"].failures == {"sim:1": "no answer"}
    lab.broken, lab.done = {f"{cell('b')} on sim:1"}, []
    again = go(store, lab, *"abc", retry_failed=True)
    assert again.run == report.run
    assert again.failed == {f"{cell('b')} on sim:1": "no answer"}
    assert set(lab.done) == {Key(cell("a")), Key(cell("a"), "sim:1", 1), Key(cell("b")), Key(cell("b"), "sim:1", 1)}
    assert sorted(len(entry.measurements) for entry in again.entries) == [0, 1, 1]


def test_nothing_is_waited_for_when_all_is_done(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "LOOK", 60.0)
    assert go(store, Lab(), "a").seconds < drive.LOOK


def test_a_finished_recipe_begins_another_run_and_so_does_new(store: Store) -> None:
    first = go(store, Lab(), "a")
    second = go(store, Lab(), "a")
    other = go(store, Lab(), "b")
    assert len({first.run, second.run, other.run}) == 3


def test_what_was_done_is_not_done_again_after_an_error(store: Store, tmp_path: Path) -> None:
    lab = Lab()
    lab.error = OSError(errno.ENOSPC, "No space left on device")

    def progress(made: Progress) -> None:
        if made.done == 4:
            lab.erring.set()

    with pytest.raises(DeployKitError, match="no space left") as found:
        go(store, lab, *"abc", artifacts=tmp_path / "kept", progress=progress)
    assert "what was done is kept" in found.value.fix
    assert not list((tmp_path / "kept").rglob(".partial*"))
    lab.error, lab.done = None, []
    notes: list[str] = []
    report = go(store, lab, *"abc", artifacts=tmp_path / "kept", note=notes.append)
    assert any("goes on" in note for note in notes)
    assert len(store.units(report.run)) == 6
    assert len(store.runs()) == 1
    assert lab.done == [Key(cell("b")), Key(cell("b"), "sim:1", 1)]
    assert (report.done_before, report.done_now) == (4, 2)


def test_artifacts_are_kept_where_that_is_asked_for_and_go_otherwise(store: Store, tmp_path: Path) -> None:
    kept = go(store, Lab(), "a", artifacts=tmp_path / "kept")
    assert kept.entries[0].artifact == str(tmp_path / "kept" / kept.run / "tests.sweep.fakes-a--onnx--fp32")
    assert sorted(path.name for path in (tmp_path / "kept" / kept.run).iterdir()) == ["tests.sweep.fakes-a--onnx--fp32"]
    gone = go(store, Lab(), "a")
    assert gone.entries[0].artifact is None
    assert list((tmp_path / "cache/deploykit/sweeps").iterdir()) == []


class LostPowerError(BaseException):
    """The sweep ends without its end."""


def interrupted(store: Store, lab: Lab, **options: object) -> None:
    def progress(made: Progress) -> None:
        if made.done == 3:
            raise LostPowerError

    with pytest.raises(LostPowerError):
        go(store, lab, *"ab", progress=progress, **options)


def test_artifacts_of_a_run_stay_where_it_was_begun(store: Store, tmp_path: Path) -> None:
    kept, lab = tmp_path / "kept", Lab()
    interrupted(store, lab, artifacts=kept)
    for other in (None, tmp_path / "other"):
        with pytest.raises(UserError, match="has its artifacts in") as found:
            go(store, lab, *"ab", artifacts=other)
        assert f"--artifacts {kept}," in found.value.fix
    report = go(store, lab, *"ab", artifacts=kept)
    assert all(entry.artifact and Path(entry.artifact).is_dir() for entry in report.entries)
    again, lab = Lab(), Lab()
    again.broken = {cell("a")}
    interrupted(store, again)
    with pytest.raises(UserError, match="has its artifacts in") as found:
        go(store, lab, *"ab", artifacts=kept)
    assert "with no --artifacts" in found.value.fix
    assert go(store, lab, *"ab").entries[0].artifact is None


def test_a_sweep_forgets_no_artifact_that_another_keeps(store: Store, tmp_path: Path) -> None:
    """Two sweeps of one run began together, when neither had made one yet."""
    kept = tmp_path / "kept"

    def progress(made: Progress) -> None:
        if made.done == 1:
            go(store, Lab(), "b", "c", artifacts=kept)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(drive, "decides", lambda recipe: "same")
        patched.setattr(drive.Sweep, "_check_place", lambda sweep, folder: None)
        report = go(store, Lab(), "a", progress=progress)
    artifacts = {entry.result.cell.model[-1]: entry.artifact for entry in report.entries}
    assert artifacts["a"] is None
    assert Path(str(artifacts["b"])).is_dir()


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_is_told_before_anything_is_begun(store: Store, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be used: (Not a directory|File exists)"):
        go(store, Lab(), "a", artifacts=tmp_path / place)
    assert store.runs() == []


def test_an_error_of_a_folder_is_told(store: Store, tmp_path: Path) -> None:
    class Gone(Lab):
        def export(self, task: Task, folder: Path, references: Path | None) -> CellResult:
            result = super().export(task, folder, references)
            folder.rename(tmp_path / "moved")
            return result

    with pytest.raises(UserError, match="cannot be used: No such file") as found:
        go(store, Gone(), "a", artifacts=tmp_path / "kept")
    assert "--artifacts" in found.value.fix


def test_a_finished_run_stays_finished_where_a_device_is_not_there(store: Store) -> None:
    lab = Lab()
    lab.broken = {f"{cell('a')} on sim:1"}
    go(store, lab, "a")
    before, lab.absent = store.runs(), {"sim:1"}
    with pytest.raises(DeployKitError, match="sim:1 is not there"):
        go(store, lab, "a", retry_failed=True)
    assert store.runs() == before
    assert before[0].finished is not None


def killed_worker(store: Store, run: str) -> str:
    """A worker of this machine whose process was killed; its name."""
    worker = Worker(store, run)
    with subprocess.Popen(["sleep", "600"]) as process:
        row = {"id": worker.id, "run": run, "machine": claims.machine(), "pid": process.pid, "seen": time.time()}
        with store.transaction() as connection:
            connection.execute(insert(workers_table).values(started=claims.started(process.pid), **row))
        process.kill()
    return worker.id


def test_what_a_killed_sweep_left_is_removed(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    other = go(store, Lab(), "b").run
    name = killed_worker(store, other)
    left = scratch_of(name)
    (left / "deploykit-1").mkdir(parents=True)
    used: list[Path] = []
    lab = Lab()

    def export(task: Task, folder: Path, references: Path | None) -> CellResult:
        assert task.scratch is not None
        assert task.scratch.is_dir()
        used.append(task.scratch)
        return lab.export(task, folder, references)

    with Worker(store, other) as alive:
        scratch_of(alive.id).mkdir()
        sweep(recipe_of("a"), store, work=Work(export, measure, lab.look))
        assert list((tmp_path / "tmp").glob("deploykit-*-*-*")) == [scratch_of(alive.id)]
        with store.transaction() as connection:
            assert connection.execute(select(workers_table.c.id)).scalars().all() == [alive.id]
    assert len(used) == 1
    assert not left.exists()


def test_the_temporary_files_of_a_unit_are_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says = (
        "import json, os, sys; word = os.environ['TMPDIR'] + ' ' + sys.argv[1]; json.dump({}, open(sys.argv[2], 'w'))"
    )
    exported = says.replace("{}", "{'outcome': 'crashed', 'reason': word}")
    measured = says.replace("{}", "{'outcome': 'failed', 'failure': word}")
    monkeypatch.setattr(cells_run, "WORKER", ("-c", exported))
    monkeypatch.setattr(work, "MEASURE", ("-c", measured))
    (tmp_path / "scratch").mkdir()
    recipe = recipe_of("a")
    tasks = tasks_of(recipe, recipe.cells()[0])
    task, (measurement,) = dataclasses.replace(tasks[0], scratch=tmp_path / "scratch"), tasks[1]
    words = str(work.export(task, tmp_path / "artifact", None).reason).split()
    measurement = dataclasses.replace(measurement, scratch=tmp_path / "scratch")
    words += str(work.measure(measurement, tmp_path).failure).split()
    assert len(words) == 4
    assert all(Path(word).is_relative_to(tmp_path / "scratch") for word in words)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_what_nobody_goes_on_with_leaves_the_cache(store: Store, tmp_path: Path) -> None:
    cache = tmp_path / "cache/deploykit/sweeps"
    interrupted(store, Lab())
    (first,) = cache.iterdir()
    (cache / "of-another-store").mkdir()
    (cache / "long-left").mkdir()
    os.utime(cache / "long-left", (0, 0))
    with Worker(store, first.name):
        interrupted(store, Lab(), new=True)
        assert first.is_dir()  # somebody is at work on it
    assert not (cache / "long-left").exists()
    interrupted(store, Lab(), new=True)
    assert {path.name for path in cache.iterdir()} == {store.runs()[-1].id, "of-another-store"}
    assert [unit.artifact for unit in store.units(first.name)] == [None] * 3


def test_an_artifact_that_is_gone_is_made_again(store: Store, tmp_path: Path) -> None:
    lab = Lab()
    lab.absent = {"sim:1"}
    recipe = recipe_of("a", devices=("sim:1",))
    with pytest.raises(DeployKitError, match="sim:1 is not there"):
        sweep(recipe, store, work=lab.work)
    assert lab.done == []
    lab.absent = set()
    lab.broken = {f"{cell('a')} on sim:1"}
    report = sweep(recipe, store, work=lab.work)
    notes: list[str] = []
    lab.broken = set()
    again = sweep(recipe, store, work=lab.work, retry_failed=True, note=notes.append)
    assert again.run == report.run
    assert any("exported again" in note for note in notes)
    assert len(again.entries[0].measurements) == 1


KILLED = """
import sys, time
from pathlib import Path
from deploy_kit.sweep import drive
from deploy_kit.sweep.drive import sweep
from deploy_kit.sweep.store import open_store
from tests.sweep.fakes import recipe_of
from tests.sweep.test_drive import Lab
drive.decides = lambda recipe: "x"
lab, told = Lab(), []
def progress(made):
    print(made.unit.key, flush=True)
    told.append(made)
    if len(told) == int(sys.argv[3]):
        time.sleep(600)  # it is killed here, and what is at work beside it
sweep(recipe_of(*"abcdef"), open_store(sys.argv[1]), work=lab.work, progress=progress, artifacts=Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    url, seen = f"sqlite:///{tmp_path}/s.db", []
    words = [sys.executable, "-c", KILLED, url, str(tmp_path / "kept")]
    for kill_after in (2, 4, 0):
        with subprocess.Popen(
            [*words, str(kill_after)], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment()
        ) as process:
            assert process.stdout is not None
            for count, line in enumerate(process.stdout, 1):
                seen.append(line)
                if count == kill_after:
                    os.kill(process.pid, signal.SIGKILL)
        assert process.returncode == (-signal.SIGKILL if kill_after else 0)
    store = open_store(url)
    (run,) = store.runs()
    units = store.units(run.id)
    assert len(units) == 12
    assert len(seen) == len(set(seen))
    assert set(seen) <= {f"{unit.key}\n" for unit in units}
    assert [len(entry.measurements) for entry in store.entries()] == [1] * 6
    assert not list((tmp_path / "kept").rglob(".partial*"))


class Together(Lab):
    """A lab whose exports end when another lab has begun one too."""

    def __init__(self, begun: threading.Event, other: threading.Event) -> None:
        super().__init__()
        self.begun, self.other = begun, other

    def export(self, task: Task, folder: Path, references: Path | None) -> CellResult:
        self.begun.set()
        assert self.other.wait(300)
        return super().export(task, folder, references)


def test_two_sweeps_of_a_recipe_share_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "decides", lambda recipe: "x")
    url = f"sqlite:///{tmp_path}/s.db"
    open_store(url).close()
    first, second = threading.Event(), threading.Event()
    labs, reports = [Together(first, second), Together(second, first)], []

    def work(lab: Lab) -> None:
        opened = open_store(url)
        reports.append(go(opened, lab, *"abcdefgh", artifacts=tmp_path / "kept"))
        opened.close()

    threads = [threading.Thread(target=work, args=(lab,)) for lab in labs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({report.run for report in reports}) == 1
    assert len(labs[0].done) + len(labs[1].done) == 16
    assert len(set(labs[0].done) | set(labs[1].done)) == 16
    assert all(any(key.is_export for key in lab.done) for lab in labs)
    assert len(reports[0].entries) == len(reports[1].entries) == 8


def test_what_decides_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.py").write_text("size = 1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = recipe_of("a").model_copy(update={"models": ("net:make",)})
    first = decides(recipe)
    assert decides(recipe.model_copy(update={"jobs": 2, "limit": 5})) == first
    faster = recipe.bench and recipe.bench.model_copy(update={"iterations": 3})
    assert decides(recipe.model_copy(update={"bench": faster})) != first
    (tmp_path / "net.py").write_text("size = 2")
    assert decides(recipe) != first


def test_the_rest_takes_as_long_as_what_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace(begun=0.0)
    monkeypatch.setattr(time, "perf_counter", lambda: 10.0)
    export, bench = Key("a"), Key("a", "sim:1", 1)
    pace.add(export, 20.0, now=True)
    assert pace.rest_s([export]) == pytest.approx(10.0)  # two at a time
    assert pace.rest_s([export, bench]) is None
    pace.add(bench, 4.0, now=False)
    assert pace.rest_s([bench, bench]) == pytest.approx(4.0)


def test_two_cells_never_share_a_folder() -> None:
    cells = recipe_of("a/b", "a-b").cells()
    assert len(set(folder_names(cells).values())) == 2


def test_a_measurement_can_be_repeated_by_a_command() -> None:
    recipe = recipe_of("a", devices=("adb:1",), threads=(4,), cores="big", rounds=2)
    _, (task,) = tasks_of(recipe, recipe.cells()[0])
    assert command(task) == (
        "deploykit bench artifacts/tests.sweep.fakes.a/onnx --device adb:1 --threads 4 --warmup 10 --iterations 50 "
        "--rounds 2 --energy none --cores big"
    )


@pytest.mark.parametrize(("model", "folder"), [("timm/vit_tiny", "timm_vit_tiny"), ("/abs/my net.pt2", "my_net")])
def test_the_command_names_the_folder_that_export_writes(model: str, folder: str) -> None:
    recipe = recipe_of("a").model_copy(update={"models": (model,)})
    _, (task,) = tasks_of(recipe, recipe.cells()[0])
    assert command(task).startswith(f"deploykit bench artifacts/{folder}/onnx ")


def test_what_ended_well_is_not_lost_to_an_error_that_came_with_it(tmp_path: Path) -> None:
    lab = Lab()
    lab.error = OSError(errno.ENOSPC, "No space left on device")
    lab.erring.set()
    tasks = [tasks_of(recipe, recipe.cells()[0])[0] for recipe in (recipe_of("b"), recipe_of("a"))]
    executor = Local(lab.work, jobs=2, memory_kb=10**9)
    for index, task in enumerate(tasks):
        executor.start(task, tmp_path / str(index))
    for _, thread in executor._running.values():
        thread.join()
    assert [finished.task for finished in executor.wait(5)] == tasks[1:]
    with pytest.raises(OSError, match="No space"):
        executor.wait(5)
