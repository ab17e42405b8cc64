"""How long ``deploykit check`` takes: cold, with an empty cache, and again with nothing changed.

    python -m deploy_kit.benchmarks.suites.check_times
    python -m deploy_kit.benchmarks.suites.check_times --models edgevit_xxs --targets onnx --unchanged 3

The cells are the smallest reference model of each family x five targets. All runs are new processes. The cold one
writes the baseline, failures too; each warm one has ``--changed-only`` and has to be green. What is asked for is a
warm check in under 10 s that is at least 20 times as fast as the cold one; the exit code is 1 where it is not so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy_kit.cli.console import print_line, print_table

DEPLOYKIT = Path(sys.executable).with_name("deploykit")
TARGETS = ("torchscript-lite", "onnx", "executorch", "coreml", "openvino")
WARM_S, TIMES = 10.0, 20.0
"""What is asked for."""


@dataclass(frozen=True)
class Ran:
    """One check: its wall-clock seconds, and how many of its cells fail and were taken from the cache."""

    kind: str
    seconds: float
    code: int
    cells: int
    failed: int
    cached: int
    findings: int

    @property
    def green(self) -> bool:
        """Whether it was of nothing but unchanged cells, and found nothing."""
        return (self.code, self.findings, self.cached) == (0, 0, self.cells)


@dataclass(frozen=True)
class Times:
    """All checks; ``warm_s`` is the slowest warm one's time, ``ratio`` the cold one's over it."""

    models: list[str]
    targets: list[str]
    jobs: int
    runs: list[Ran]
    warm_s: float
    ratio: float
    green: int
    met: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Time the checks and print a table, or one JSON document; 1 where what is asked for is not met."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["smallest"], help="none is the smallest of each family")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--input-size", help="of all models")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    parser.add_argument("--unchanged", type=int, default=0, metavar="N", help="N more warm checks; each must be green")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    chosen = parser.parse_args(arguments)
    words = [
        *(word for name in chosen.models for word in ("--model", name)),
        *(word for name in chosen.targets for word in ("--target", name)),
        *(() if chosen.input_size is None else ("--input-size", chosen.input_size)),
        *("--jobs", str(chosen.jobs)),
    ]
    with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
        words += ["--cache", f"{folder}/cache", "--cache-limit", "1TB", "--baseline", f"{folder}/baseline.json"]
        runs = [check("cold", [*words, "--update-baseline"])]
        runs += [check("warm", [*words, "--changed-only"]) for _ in range(1 + chosen.unchanged)]
    times = judged(chosen.models, chosen.targets, chosen.jobs, runs)
    if chosen.json:
        print(json.dumps(asdict(times), indent=2))
    else:
        _print(times)
    return 0 if times.met else 1


def check(kind: str, words: Sequence[str]) -> Ran:
    """Run one check; what it says as it goes is shown."""
    start = time.perf_counter()
    done = subprocess.run([DEPLOYKIT, "check", *words, "--json"], stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode not in (0, 1):
        raise SystemExit(done.returncode)
    cells = json.loads(done.stdout)["cells"]
    return Ran(
        kind=kind,
        seconds=seconds,
        code=done.returncode,
        cells=len(cells),
        failed=sum(not cell["result"]["outcome"].startswith(("ok", "emitted")) for cell in cells),
        cached=sum(cell["cached"] for cell in cells),
        findings=sum(len(cell["findings"]) for cell in cells),
    )


def judged(models: list[str], targets: list[str], jobs: int, runs: list[Ran]) -> Times:
    """The times with what they show."""
    cold, warm = runs[0], runs[1:]
    slowest, green = max(run.seconds for run in warm), sum(run.green for run in warm)
    ratio = cold.seconds / slowest
    met = green == len(warm) and slowest < WARM_S and ratio >= TIMES
    return Times(models, targets, jobs, runs, slowest, ratio, green, met)


def _print(times: Times) -> None:
    print_table(
        f"deploykit check, {' '.join(times.models)} x {' '.join(times.targets)}",
        ["", "seconds", "cells", "failed", "from the cache", "findings"],
        [(run.kind, f"{run.seconds:.2f}", run.cells, run.failed, run.cached, run.findings) for run in times.runs],
    )
    print_line(
        f"warm: {times.warm_s:.2f} s at most, {times.ratio:.1f} times as fast as cold, {times.green} of "
        f"{len(times.runs) - 1} green; asked for: under {WARM_S:.0f} s and {TIMES:.0f} times: "
        f"{'met' if times.met else 'not met'}"
    )


if __name__ == "__main__":
    sys.exit(main())
