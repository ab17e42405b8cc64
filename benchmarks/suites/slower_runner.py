"""The runner of this machine with more work in every inference: ``--share 0.05`` works on for 5% of its time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "runners"))

import python_runner  # type: ignore[import-not-found]  # it is a program, found by the path above


def slower(kind: Callable[[int], Any], share: float) -> Callable[[int], Any]:
    """An engine whose inferences take ``1 + share`` times as long."""

    def make(threads: int) -> Any:
        engine = kind(threads)
        prepare = engine.prepare

        def prepared(inputs: Any) -> Callable[[], Any]:
            run = prepare(inputs)

            def longer() -> Any:
                start = time.perf_counter_ns()
                outputs = run()
                end = start + (1 + share) * (time.perf_counter_ns() - start)
                while time.perf_counter_ns() < end:
                    pass
                return outputs

            return longer

        engine.prepare = prepared
        return engine

    return make


def _without_share(words: list[str]) -> Iterator[str]:
    """The options that the runner itself knows."""
    at = words.index("--share")
    yield from (*words[:at], *words[at + 2 :])


if __name__ == "__main__":
    share = float(sys.argv[sys.argv.index("--share") + 1])
    sys.argv = [sys.argv[0], *_without_share(sys.argv[1:])]
    python_runner.ENGINES = {name: slower(kind, share) for name, kind in python_runner.ENGINES.items()}
    python_runner.main()
