from __future__ import annotations

import threading
from pathlib import Path

import pytest

from deploy_kit.cells import pool
from deploy_kit.cells.pool import free_kb, run_all


class Work:
    """Counts how many jobs are at work together, of ``peak`` kB each.

    Each waits until as many have been as are expected, but for the first ``alone``, and then a moment for one more.
    """

    def __init__(self, peak: int | None, expected: int, *, alone: int = 0):
        self.peak, self.expected, self.alone = peak, expected, alone
        self.changed = threading.Condition()
        self.now = self.most = 0

    def __call__(self, job: int) -> int:
        with self.changed:
            self.now += 1
            self.most = max(self.most, self.now)
            self.changed.notify_all()
            if job >= self.alone:
                assert self.changed.wait_for(lambda: self.most >= self.expected, timeout=60)
        threading.Event().wait(0.05)
        with self.changed:
            self.now -= 1
        return job * 10

    def of(self, result: int) -> int | None:
        return self.peak


def test_each_job_comes_back_with_its_result() -> None:
    work = Work(1, 3)
    found = dict(run_all(range(5), work, work.of, at_once=3, memory_kb=pool.FIRST_KB * 9))
    assert found == {job: job * 10 for job in range(5)}
    assert work.most == 3


@pytest.mark.parametrize(("memory", "most"), [(pool.FIRST_KB // 2, 1), (pool.FIRST_KB * 2, 2), (None, 1)])
def test_no_more_are_at_work_than_memory_is_there_for(
    memory: int | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "free_kb", lambda: pool.FIRST_KB - 1)
    monkeypatch.setattr(pool, "LOOK", 0.01)
    work = Work(pool.FIRST_KB, most)
    assert len(dict(run_all(range(4), work, work.of, at_once=4, memory_kb=memory))) == 4
    assert work.most == most


@pytest.mark.parametrize(("free", "most"), [(4 * 1024**2, 1), (7 * 1024**2, 2), (99 * 1024**2, 8)])
def test_jobs_that_have_just_begun_count_though_they_have_taken_nothing_yet(
    free: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "free_kb", lambda: free)
    monkeypatch.setattr(pool, "LOOK", 0.01)
    work = Work(pool.FIRST_KB, most)
    assert len(dict(run_all(range(8), work, work.of, at_once=8))) == 8
    assert work.most == most


def test_what_others_take_meanwhile_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = pool.Memory(None)
    monkeypatch.setattr(pool, "free_kb", lambda: 100)
    assert [memory.fits(running, 30) for running in (0, 1, 2, 3)] == [True, True, True, False]
    monkeypatch.setattr(pool, "free_kb", lambda: 29)
    assert not memory.fits(1, 30)


def test_what_jobs_took_is_what_the_next_are_thought_to_take() -> None:
    work = Work(10, 4, alone=1)
    dict(run_all(range(6), work, work.of, at_once=4, memory_kb=pool.FIRST_KB))
    assert work.most == 4


def test_an_error_ends_the_rest() -> None:
    done: list[int] = []

    def work(job: int) -> int:
        if job == 1:
            raise OSError("full")
        done.append(job)
        return job

    with pytest.raises(OSError, match="full"):
        list(run_all(range(9), work, lambda _: 1, at_once=1))
    assert done == [0]


def test_free_memory_is_the_system_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "MEMINFO", tmp_path / "meminfo")
    assert free_kb() is None
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   7 kB\n")
    assert free_kb() == 7
