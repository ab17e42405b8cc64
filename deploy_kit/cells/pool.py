"""Several cells at a time, as many as there is memory for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

FIRST_KB = 3 * 1024 * 1024
"""What a job is thought to take before any is done: the most that a small model's export was seen to take, and some."""

MEMINFO = Path("/proc/meminfo")
LOOK = 1.0
"""Seconds between two looks at the free memory, when a job waits for some."""


def run_all(
    jobs: Iterable[T],
    work: Callable[[T], R],
    peak_kb: Callable[[R], int | None],
    *,
    at_once: int,
    memory_kb: int | None = None,
    stop: Callable[[], None] = lambda: None,
) -> Iterator[tuple[T, R]]:
    """Yield each job with its result, as they are done; at least one is always at work.

    Args:
        work: called in a thread of its own; what it raises ends the rest, when those at work are done.
        peak_kb: the memory that a job took, from its result; the most of them is what the next is thought to take.
        at_once: jobs at a time.
        memory_kb: what all at work may take; None is what the machine has free.
        stop: called where the rest is not wanted any more, as after Ctrl-C, to end the jobs at work.
    """
    waiting = list(jobs)[::-1]
    running: dict[Future[R], T] = {}
    expected_kb = FIRST_KB
    seen = False
    memory = Memory(memory_kb)
    with ThreadPoolExecutor(at_once) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < at_once and memory.fits(len(running), expected_kb):
                    job = waiting.pop()
                    running[pool.submit(work, job)] = job
                done, _ = wait(running, timeout=LOOK, return_when=FIRST_COMPLETED)
                for future in done:
                    job, result = running.pop(future), future.result()
                    peak = peak_kb(result)
                    if peak is not None:
                        expected_kb = max(expected_kb, peak) if seen else peak
                        seen = True
                    yield job, result
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            stop()
            raise
        finally:
            for future in running:
                future.cancel()


class Memory:
    """What jobs at work may take together, in kB; None is what the machine had free when none was.

    A job that has just begun has not taken its memory yet, so that what is free then says too much.
    """

    def __init__(self, limit_kb: int | None):
        self._limit_kb = limit_kb
        self._idle_kb = limit_kb

    def fits(self, running: int, expected_kb: int) -> bool:
        """Whether one more fits beside so many that are running; one alone always does."""
        if running == 0:
            if self._limit_kb is None:
                self._idle_kb = free_kb()
            return True
        if self._idle_kb is not None and (running + 1) * expected_kb > self._idle_kb:
            return False
        free = free_kb() if self._limit_kb is None else None
        return free is None or free >= expected_kb


def free_kb() -> int | None:
    """The memory that can be had without swapping, in kB; None where the system does not say (it is not Linux)."""
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
