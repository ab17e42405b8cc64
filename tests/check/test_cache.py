from __future__ import annotations

import fcntl
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy_kit.cells.result import CellResult
from deploy_kit.check import cache as module
from deploy_kit.check.cache import ARTIFACT, ENTRIES, ENTRY, WORK, Cache
from deploy_kit.errors import DeployKitError
from deploy_kit.outcome import Outcome
from tests.check.fakes import failing, working

LIMIT = 1_000_000


def put(cache: Cache, key: str, text: str = "model", result: CellResult | None = None) -> Path | None:
    with cache.workspace() as work:
        folder = work / "cell"
        (folder / "weights").mkdir(parents=True)
        (folder / "model.onnx").write_text(text)
        (folder / "weights" / "data").write_text(text * 2)
        return cache.put(key, result or working(), folder)


def entry(cache: Cache, key: str) -> Path:
    (place,) = (cache.folder / ENTRIES / key).iterdir()
    return place


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", LIMIT)


def test_a_cell_is_kept_with_its_artifact(cache: Cache) -> None:
    artifact = put(cache, "k1")
    assert artifact is not None
    assert (artifact / "weights" / "data").read_text() == "modelmodel"
    again = Cache(cache.folder, LIMIT)
    assert again.get("k1") == working()
    assert again.artifact("k1") == artifact
    assert (again.get("k2"), again.artifact("k2")) == (None, None)
    assert list((cache.folder / WORK).iterdir()) == []


def test_a_newer_result_takes_the_place_of_an_older_one(cache: Cache) -> None:
    put(cache, "k1", "old")
    put(cache, "k1", "new", working(bytes=7))
    found = cache.artifact("k1")
    assert found is not None
    assert (found / "model.onnx").read_text() == "new"
    assert cache.get("k1") == working(bytes=7)
    assert found.parent == entry(cache, "k1")


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_failure_is_kept_where_another_try_would_fail_too(outcome: Outcome, cache: Cache) -> None:
    result = failing(outcome)
    assert cache.put("k1", result, None) is None
    perhaps = outcome in (Outcome.CRASHED, Outcome.TOO_SLOW, Outcome.UNAVAILABLE)
    assert cache.get("k1") == (None if perhaps else result)
    assert cache.artifact("k1") is None


DAMAGE: dict[str, Callable[[Path], object]] = {
    "another byte": lambda place: (place / ARTIFACT / "model.onnx").write_text("mOdel"),
    "cut off": lambda place: (place / ARTIFACT / "weights" / "data").write_text("mod"),
    "a file less": lambda place: (place / ARTIFACT / "weights" / "data").unlink(),
    "a file more": lambda place: (place / ARTIFACT / "other").touch(),
    "no artifact": lambda place: shutil.rmtree(place / ARTIFACT),
    "no entry": lambda place: (place / ENTRY).unlink(),
    "half an entry": lambda place: (place / ENTRY).write_text((place / ENTRY).read_text()[:200]),
    "a newer entry": lambda place: (place / ENTRY).write_text('{"schema_version": 2}'),
    "not text": lambda place: (place / ENTRY).write_bytes(b"\xff\xfe"),
    "of another key": lambda place: (place / ENTRY).write_text((place / ENTRY).read_text().replace('"k1"', '"k2"')),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_was_damaged_is_not_there_and_can_be_made_again(damage: str, cache: Cache) -> None:
    put(cache, "k1")
    DAMAGE[damage](entry(cache, "k1"))
    assert cache.get("k1") is None
    assert cache.artifact("k1") is None
    put(cache, "k1")
    assert cache.get("k1") == working()


def test_a_cache_that_was_copied_is_whole(cache: Cache, tmp_path: Path) -> None:
    put(cache, "k1")
    shutil.copytree(cache.folder, tmp_path / "restored", copy_function=shutil.copyfile)  # with other times
    assert Cache(tmp_path / "restored", LIMIT).get("k1") == working()


def test_what_was_not_used_for_longest_goes_when_there_is_too_much(cache: Cache) -> None:
    for age, key in enumerate(("old", "used", "held", "new")):
        put(cache, key, "x" * 10_000)
        os.utime(entry(cache, key), (1000 + age, 1000 + age))
    assert cache.get("used") is not None
    small = Cache(cache.folder, 75_000)  # each has 30 kB, and some
    with cache.holding():
        assert cache.artifact("held") is not None
        os.utime(entry(cache, "held"), (1002, 1002))
        assert small.trim() == 2
    assert [key for key in ("old", "used", "held", "new") if small.get(key)] == ["used", "held"]
    assert sorted(path.name for path in (cache.folder / ENTRIES).iterdir()) == ["held", "used"]
    Cache(cache.folder, 1).trim()
    assert list((cache.folder / ENTRIES).iterdir()) == []


def test_what_a_run_holds_stays_though_another_puts_the_same_cell(cache: Cache) -> None:
    other = Cache(cache.folder, 1)
    with cache.holding():
        mine = put(cache, "k1", "mine")
        theirs = put(other, "k1", "theirs")
        assert mine is not None
        assert theirs is not None
        assert (mine / "model.onnx").read_text() == "mine"
        assert other.trim() == 1  # of what is not held
        assert not theirs.exists()
        assert (mine / "model.onnx").read_text() == "mine"
        assert cache.get("k1") == working()
    assert other.trim() == 1
    assert not mine.exists()
    assert list((cache.folder / WORK).iterdir()) == []


def killed_holding(folder: Path) -> None:
    cache = Cache(folder, LIMIT)
    with cache.holding():
        put(cache, "k1")
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_run_held_is_held_no_more(cache: Cache) -> None:
    process = multiprocessing.get_context("fork").Process(target=killed_holding, args=(cache.folder,))
    process.start()
    process.join()
    assert cache.get("k1") is not None
    assert Cache(cache.folder, 1).trim() == 1


def test_a_run_that_is_ended_in_the_middle_leaves_nothing_half_written(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.Cache, "_publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        put(cache, "k1")
    assert list(cache.folder.rglob("*.onnx")) == []
    assert list((cache.folder / WORK).iterdir()) == []


def killed_at_work(folder: Path, ready: Path) -> None:
    with Cache(folder, LIMIT).workspace() as work:
        (work / "half").touch()
        ready.touch()
        time.sleep(600)


def test_what_a_killed_run_left_goes_and_what_others_work_in_stays(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = multiprocessing.get_context("fork").Process(
        target=killed_at_work, args=(cache.folder, tmp_path / "ready")
    )
    process.start()
    while not (tmp_path / "ready").exists():
        assert process.is_alive()
        time.sleep(0.01)
    monkeypatch.setattr(module, "NEW_S", -1)
    Cache(cache.folder, LIMIT)
    assert len(list((cache.folder / WORK).iterdir())) == 1
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    monkeypatch.setattr(module, "NEW_S", 600)
    Cache(cache.folder, LIMIT)
    assert len(list((cache.folder / WORK).iterdir())) == 1
    monkeypatch.setattr(module, "NEW_S", -1)
    Cache(cache.folder, LIMIT)
    assert list((cache.folder / WORK).iterdir()) == []


def busy(folder: Path, number: int, failed: Path) -> None:
    """Write, read and evict the same few keys as others do; what is read is whole."""
    try:
        end, turn = time.monotonic() + 1.5, number
        while time.monotonic() < end:
            turn += 1
            key, cache = f"k{turn % 3}", Cache(folder, 40_000 if turn % 5 == 0 else LIMIT)
            put(cache, key, f"{key} {number}" * 1000)
            result = cache.get(f"k{(turn + 1) % 3}")
            assert result in (None, working())
            with cache.holding():
                artifact = cache.artifact(key)
                if artifact is not None:
                    text = (artifact / "model.onnx").read_text()
                    time.sleep(0.002)
                    assert (artifact / "weights" / "data").read_text() == text * 2
            cache.trim()
    except BaseException as error:
        failed.write_text(repr(error))
        raise


def test_several_runs_use_it_at_once(cache: Cache, tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    runs = [fork.Process(target=busy, args=(cache.folder, n, tmp_path / f"failed{n}")) for n in range(4)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [path.read_text() for path in tmp_path.glob("failed*")] == []
    for key in ("k0", "k1", "k2"):
        assert cache.get(key) in (None, working())
    assert list((cache.folder / WORK).iterdir()) == []


def test_an_entry_that_is_being_removed_is_not_there(cache: Cache) -> None:
    put(cache, "k1")
    handle = os.open(entry(cache, "k1"), os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert cache.get("k1") is None
    os.close(handle)
    assert cache.get("k1") is not None


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DeployKitError, match="cannot be written") as found:
        Cache(tmp_path / "file" / "cache", LIMIT)
    assert "--cache" in found.value.fix
