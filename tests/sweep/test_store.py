from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy_kit.benchmarks.measurement import Measurement
from deploy_kit.cells.entry import Entry
from deploy_kit.cells.recipe import CellSpec
from deploy_kit.cells.result import CellResult
from deploy_kit.errors import DeployKitError, MissingDependencyError, UserError
from deploy_kit.outcome import Outcome
from deploy_kit.sweep import store as module
from deploy_kit.sweep.store import Key, Store, open_store
from deploy_kit.sweep.work import Task
from tests.sweep.fakes import EPOCH, measure, recipe_of

RECIPE = recipe_of("a")

NO_PSYCOPG = "needs psycopg: pip install 'deploy-kit[postgres]'"


def entry_of(run: str, model: str, folder: Path, **changes: object) -> Entry:
    """A result with a measurement of a device and a failure of another."""
    cell = CellSpec(model=model, target="onnx", precision="fp32")
    folder.mkdir(exist_ok=True)
    (folder / "model.bin").write_text(model)
    measured: Measurement | None = measure(Task(Key(cell.id, "sim:phone", 1), cell, 1), folder).measurement
    assert measured is not None
    result = CellResult(cell=cell, outcome=Outcome.OK, seconds=1.5, created=EPOCH, operators={"Conv": 3})
    values = {"run": run, "kind": "sweep", "created": EPOCH, "commit": "abc", "host": "here", "result": result}
    values |= {"measurements": [measured], "failures": {"adb:x": "it is gone"}, "artifact": "/a/b"}
    return Entry.model_validate({**values, **changes})


def test_what_was_kept_comes_back(store: Store, open_again: Callable[[], Store], tmp_path: Path) -> None:
    first = store.begin("sweep", "abc", "here", RECIPE, "hash")
    second = store.begin("check", None, "there", RECIPE)
    entries = [entry_of(first, name, tmp_path / "a") for name in ("a", "b")]
    other = entry_of(second, "a", tmp_path / "a", kind="check", commit=None, measurements=[], failures={})
    for entry in (*entries, other):
        store.add(entry)
    again = open_again()
    assert again.entries(first) == entries
    assert again.entries() == [*entries, other]
    runs = again.runs()
    assert [(run.id, run.kind, run.commit, run.host, run.decides, run.finished) for run in runs] == [
        (first, "sweep", "abc", "here", "hash", None),
        (second, "check", None, "there", "", None),
    ]
    assert runs[0].recipe["models"] == list(RECIPE.models)
    store.finish(first)
    assert again.runs()[0].finished is not None


def test_a_cell_has_one_result_in_a_run(store: Store, tmp_path: Path) -> None:
    run = store.begin("check", None, "here", RECIPE)
    store.add(entry_of(run, "a", tmp_path / "a"))
    with pytest.raises(UserError, match="has a result of a/onnx/fp32 already"):
        store.add(entry_of(run, "a", tmp_path / "a", measurements=[]))
    assert len(store.entries(run)) == 1
    with pytest.raises(UserError, match="there is no such run"):
        store.add(entry_of("none", "a", tmp_path / "a"))
    with pytest.raises(UserError, match="no run 'none'"):
        store.entries("none")


def test_an_unfinished_run_goes_on_and_a_finished_one_does_not(store: Store) -> None:
    def go_on(decides: str = "x", *, finished: bool = False) -> tuple[str, bool]:
        return store.go_on("sweep", None, "here", RECIPE, decides, finished=finished)

    run, new = go_on()
    assert new
    assert go_on() == (run, False)
    assert go_on("y")[0] != run
    store.finish(run)
    assert go_on(finished=True) == (run, False)
    assert store.runs()[0].finished is None
    store.finish(run)
    other, new = go_on()
    assert new
    assert other != run
    assert go_on() == (other, False)


def test_a_store_of_another_version_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    open_store(url).close()
    with sqlite3.connect(tmp_path / "s.db") as connection:
        connection.execute("UPDATE deploykit_schema SET version = 2")
    with pytest.raises(UserError, match="its tables are of version 2, and this one knows 1") as found:
        open_store(url)
    assert found.value.fix


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("results.db", "no URL of a database"),
        ("mysql://u@h/d", "not by mysql"),
        ("sqlite://", "a store is a file"),
        ("sqlite:////nowhere/at/all/s.db", "no folder '/nowhere/at/all'"),
        ("postgresql://lab:sekret@127.0.0.1:1/results", "Connection refused"),
        ("postgresql://127.0.0.1:1/results?user=lab&password=sekret", "Connection refused"),
    ],
)
def test_what_is_no_store_is_said_in_one_line(url: str, told: str) -> None:
    if url.startswith("postgresql"):
        pytest.importorskip("psycopg", reason=NO_PSYCOPG)
    with pytest.raises(DeployKitError, match=told) as found:
        open_store(url)
    assert found.value.fix
    assert "\n" not in str(found.value)
    assert "sekret" not in str(found.value)


@pytest.mark.parametrize("url", ["postgresql://lab:sekret@h/x", "postgresql://h/x?user=lab&password=sekret"])
def test_a_store_is_called_by_its_url_without_the_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg", reason=NO_PSYCOPG)
    monkeypatch.setattr(Store, "prepare", lambda self: None)
    store = open_store(f"{url}{'&' if '?' in url else '?'}sslpassword=sekret&sslmode=require")
    assert "sekret" not in store.url
    assert "lab" in store.url
    assert "sslmode=require" in store.url
    assert store._engine.url.render_as_string(hide_password=False).count("sekret") == 2


def test_a_file_that_is_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "s.db").write_text("a diary" * 1000)
    with pytest.raises(DeployKitError, match="not a database"):
        open_store(f"sqlite:///{tmp_path}/s.db")
    assert (tmp_path / "s.db").read_text() == "a diary" * 1000
    with pytest.raises(UserError, match="there is no store"):
        open_store(f"sqlite:///{tmp_path}/none.db", must_exist=True)
    assert not (tmp_path / "none.db").exists()


def test_a_file_that_another_holds_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY_S", 0.1)
    url = f"sqlite:///{tmp_path}/s.db"
    store = open_store(url)
    holder = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(DeployKitError, match="database is locked") as found:
        store.begin("sweep", None, "here", RECIPE)
    assert "another program" in found.value.fix
    holder.execute("ROLLBACK")
    assert store.begin("sweep", None, "here", RECIPE)


def test_a_full_disk_is_said_and_what_was_there_stays(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/s.db")
    run = store.begin("sweep", None, "here", RECIPE)
    with store._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    huge = entry_of(run, "a", tmp_path / "a", failures={"adb:x": "x" * 100_000})
    with pytest.raises(DeployKitError, match="disk is full") as found:
        store.add(huge)
    assert "what was done is kept" in found.value.fix
    assert store.entries(run) == []


def test_without_what_speaks_to_a_server_the_command_for_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingDependencyError) as found:
        open_store("postgresql://lab@127.0.0.1:1/results")
    assert found.value.fix == "pip install 'deploy-kit[postgres]'"
