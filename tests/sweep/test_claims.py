from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest
from sqlalchemy import update

from deploy_kit.sweep import claims
from deploy_kit.sweep.claims import Worker
from deploy_kit.sweep.store import Key, Store, Unit, workers_table
from tests.cli.support import ROOT, environment
from tests.sweep.fakes import recipe_of

KEY = Key("a/onnx/fp32")

TAKER = """
import sys, time
from deploy_kit.sweep.claims import Worker
from deploy_kit.sweep.store import Key, open_store
store = open_store(sys.argv[1])
with Worker(store, sys.argv[2]) as worker:
    print(worker.take(Key("a/onnx/fp32")), flush=True)
    time.sleep(600)
"""


def silence(store: Store, worker: Worker) -> None:
    """Make a worker's last sign of life a very old one."""
    with store.transaction() as connection:
        connection.execute(update(workers_table).where(workers_table.c.id == worker.id).values(seen=0))


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def unit_of(key: Key, outcome: str = "ok", created: str = "2026-01-01") -> Unit:
    return Unit(key=key, outcome=outcome, document={}, created=created, host="here")


@pytest.fixture
def run(store: Store) -> str:
    return store.begin("sweep", None, "here", recipe_of("a"))


def test_a_unit_is_taken_by_one_and_done_once(store: Store, open_again: Callable[[], Store], run: str) -> None:
    with Worker(store, run) as one, Worker(open_again(), run) as two:
        assert one.others() == {two.id}
        assert one.take(KEY)
        assert not two.take(KEY)
        assert not two.done(unit_of(KEY))
        assert store.units(run) == []
        assert one.done(unit_of(KEY))
        assert not two.take(KEY)
        assert not one.take(KEY)
        assert two.take(Key(KEY.cell, "adb:x", 1))
    assert [unit.key for unit in store.units(run)] == [KEY]


def test_units_are_taken_and_done_together(store: Store, open_again: Callable[[], Store], run: str) -> None:
    others = [Key(KEY.cell, f"adb:{index}", 1) for index in range(3)]
    with Worker(store, run) as one, Worker(open_again(), run) as two:
        assert two.take(others[1])
        assert one.take_all(dict.fromkeys([*others, KEY])) == {others[0], others[2], KEY}
        assert two.take_all(dict.fromkeys(others)) == {others[1]}
        assert one.done_all([unit_of(key) for key in (*others, KEY)]) == {others[0], others[2], KEY}
        assert two.take_all(dict.fromkeys([KEY, *others])) == {others[1]}
    assert {unit.key for unit in store.units(run)} == {others[0], others[2], KEY}


def test_what_a_worker_did_not_do_is_free_when_it_ends(store: Store, run: str) -> None:
    with Worker(store, run) as one:
        assert one.take(KEY)
    with Worker(store, run) as two:
        assert two.others() == set()
        assert two.take(KEY)
        two.give_back(KEY)
        with Worker(store, run) as three:
            assert three.take(KEY)


def test_a_killed_program_has_nothing_any_more(store: Store, open_again: Callable[[], Store], run: str) -> None:
    url = store._engine.url.render_as_string(hide_password=False)
    words = [sys.executable, "-c", TAKER, url, run]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        with Worker(store, run) as worker:
            assert not worker.take(KEY)
            process.kill()
            process.wait()
            assert worker.take(KEY)
            (killed,) = worker.dead()
            worker.bury([killed])
            assert worker.dead() == set()
            assert worker.alive() == {worker.id}
            assert worker.done(unit_of(KEY))


def test_a_worker_elsewhere_is_lost_when_it_gives_no_sign_of_life(
    store: Store, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Worker(store, run) as here:
        monkeypatch.setattr(claims, "machine", lambda: "another")
        monkeypatch.setattr(claims, "RENEWED_S", 0.05)
        with Worker(store, run) as there:
            monkeypatch.setattr(claims, "machine", lambda: "this")
            assert there.take(KEY)
            silence(store, there)
            until(lambda: there.id in here.alive())  # it has given another sign of life
            assert not here.take(KEY)
            there._ended.set()
            there._renewing.join()
            silence(store, there)
            assert here.take(KEY)
            assert not there.done(unit_of(KEY, "late"))
            assert here.done(unit_of(KEY, "ok"))
    assert [unit.outcome for unit in store.units(run)] == ["ok"]


def test_a_result_that_is_replaced_stays_until_then(store: Store, run: str) -> None:
    with Worker(store, run) as worker:
        worker.take(KEY)
        worker.done(unit_of(KEY, "crashed", "2026-01-01"))
        assert not worker.take(KEY, instead_of="2025-12-31")
        assert worker.take(KEY, instead_of="2026-01-01")
    assert [unit.outcome for unit in store.units(run)] == ["crashed"]
    with Worker(store, run) as worker:
        assert worker.take(KEY, instead_of="2026-01-01")
        assert worker.done(unit_of(KEY, "ok", "2026-01-02"))
        assert not worker.take(KEY, instead_of="2026-01-01")
    assert [unit.outcome for unit in store.units(run)] == ["ok"]


def test_many_at_once_take_each_unit_once(open_again: Callable[[], Store], store: Store, run: str) -> None:
    keys = [Key(f"{index}/onnx/fp32") for index in range(25)]
    taken: list[Key] = []
    errors: list[BaseException] = []
    start = threading.Barrier(4)

    def work() -> None:
        try:
            with Worker(open_again(), run) as worker:
                start.wait()
                for key in keys:
                    if worker.take(key):
                        taken.append(key)
                        assert worker.done(unit_of(key))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert Counter(taken) == Counter(keys)
    assert len(store.units(run)) == 25


def test_another_process_of_the_same_number_is_another_one() -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        since = claims.started(process.pid)
        assert claims.is_running(process.pid, since)
        assert not claims.is_running(process.pid, str(int(since) - 1))
        process.kill()
    assert not claims.is_running(process.pid, since)
