"""The stages of a command, timed, and announced to whoever shows progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StageTime:
    """One finished stage and how long it took, in seconds."""

    name: str
    seconds: float


@dataclass
class Stages:
    """Times the stages of one command.

    ``on_start`` is called with a stage's name when it begins, ``on_end`` with its time when it is
    over, whether it succeeded or not.
    """

    on_start: Callable[[str], None] = lambda name: None
    on_end: Callable[[StageTime], None] = lambda stage: None
    finished: list[StageTime] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body as a stage called ``name``."""
        self.on_start(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            done = StageTime(name, time.perf_counter() - start)
            self.finished.append(done)
            self.on_end(done)
