"""Units done by this machine: exports as many at a time as there is memory for, measurements one a device."""

from __future__ import annotations

import hashlib
import os
import queue
import signal
import socket
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deploy_kit.cells import pool
from deploy_kit.cells.result import CellResult
from deploy_kit.cells.run import WORKER as EXPORT
from deploy_kit.sweep.locks import MACHINE, StoppedError, held
from deploy_kit.sweep.store import Key
from deploy_kit.sweep.work import MEASURE, BenchResult, Task, Work

END_S = 10.0
"""Seconds that what is at work has to end."""


@dataclass(frozen=True)
class Finished:
    """A task with its result, and the host that it was done on; the artifact of an export is in its folder."""

    task: Task
    result: CellResult | BenchResult
    place: str


class Executor(Protocol):
    """What does tasks."""

    def prepare(self, devices: Sequence[str]) -> None:
        """See that what will be measured on is there, before anything is done; `DeployKitError` where it is not."""

    def has_room(self, task: Task, beside: Sequence[Task] = ()) -> bool:
        """Whether a task can begin now, or next, if those ``beside`` it do."""

    def start(self, task: Task, folder: Path) -> None:
        """Begin a task: an export into a folder that is not there yet, a measurement of the artifact in one."""

    def wait(self, seconds: float) -> list[Finished]:
        """What ended since the last call; waits so long for something.

        Raises:
            OSError: a disk is full.
            DeployKitError: it cannot go on.
        """

    def stop(self) -> None:
        """End what is at work."""


class Local:
    """Does tasks on this machine; see `Executor`.

    Args:
        jobs: exports at a time.
        memory_kb: what they may take together; None is what the machine has free.
        references: a folder for what models compute, which cells of one model share.
    """

    def __init__(self, work: Work, *, jobs: int, memory_kb: int | None = None, references: Path | None = None):
        self.work, self.jobs, self.references = work, jobs, references
        self._memory = pool.Memory(memory_kb)
        self._running: dict[Key, tuple[Task, threading.Thread]] = {}
        self._ended: queue.Queue[Finished | tuple[Task, BaseException]] = queue.Queue()
        self._stop = threading.Event()
        self._expected_kb: int | None = None

    def prepare(self, devices: Sequence[str]) -> None:
        for device in devices:
            self.work.look(device)

    def has_room(self, task: Task, beside: Sequence[Task] = ()) -> bool:
        others = [*(each for each, _ in self._running.values()), *beside]
        exports = sum(each.key.is_export for each in others)
        free = all(each.key.device != task.key.device for each in others)
        if any(each.of_this_machine for each in others):
            return not task.key.is_export and not task.of_this_machine and free
        if task.key.is_export:
            return exports < self.jobs and self._memory.fits(exports, self._expected_kb or pool.FIRST_KB)
        return free and not (task.of_this_machine and exports)

    def start(self, task: Task, folder: Path) -> None:
        thread = threading.Thread(target=self._do, args=(task, folder), daemon=True)
        self._running[task.key] = (task, thread)
        thread.start()

    def wait(self, seconds: float) -> list[Finished]:
        found = []
        with suppress(queue.Empty):
            found.append(self._ended.get(timeout=seconds))
            while True:
                found.append(self._ended.get_nowait())
        finished = [each for each in found if isinstance(each, Finished)]
        for each in found:
            if not isinstance(each, Finished):
                if not finished:
                    raise each[1]
                self._ended.put(each)  # for the next call: what ended well is kept first
        for each in finished:
            del self._running[each.task.key]
            peak = each.result.peak_kb if isinstance(each.result, CellResult) else None
            self._expected_kb = max(filter(None, (self._expected_kb, peak)), default=None)
        return finished

    def stop(self) -> None:
        self._stop.set()
        _end(_children())
        for _, thread in self._running.values():
            thread.join(END_S)

    def _do(self, task: Task, folder: Path) -> None:
        try:
            with ExitStack() as locks:
                if task.key.is_export:
                    locks.enter_context(held(MACHINE, self._stop, shared=True))
                else:
                    name = MACHINE if task.of_this_machine else task.key.device
                    locks.enter_context(held(name, self._stop))
                result: CellResult | BenchResult
                if task.key.is_export:
                    result = self.work.export(task, folder, references_of(task, self.references))
                else:
                    result = self.work.measure(task, folder)
        except StoppedError:
            return
        except BaseException as error:
            self._ended.put((task, error))
        else:
            self._ended.put(Finished(task, result, socket.gethostname()))


def references_of(task: Task, folder: Path | None) -> Path | None:
    """The file in a folder that keeps what a cell's model computes."""
    if folder is None:
        return None
    what = f"{task.cell.model} {task.cell.of_model.model_dump_json()}"
    return folder / f"{hashlib.sha256(what.encode()).hexdigest()[:16]}.pt"


def _children() -> Sequence[int]:
    """The exports and measurements that this process has started, where the system tells."""
    found: list[int] = []
    for file in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            found += [int(pid) for pid in file.read_text().split() if _is_ours(pid)]
    return found


def _is_ours(pid: str) -> bool:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return any(module.encode() in words for module in (EXPORT[-1], MEASURE[-1]))


def _end(pids: Sequence[int]) -> None:
    """Ask processes to end; whoever waits for one then ends what that one has started."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
