"""How long a user waits: ``deploykit --help``, and a small model exported to ONNX and proven.

python -m deploy_kit.benchmarks.suites.command_times
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy_kit.cli.console import print_table

DEPLOYKIT = Path(sys.executable).with_name("deploykit")


@dataclass(frozen=True)
class CommandTime:
    """Wall-clock seconds of one command, each time in a new process."""

    command: str
    median_s: float
    lowest_s: float
    highest_s: float
    runs: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Time the commands and print a table, or one JSON document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
        export = ["export", "edgevit_xxs", "--target", "onnx", "--out", scratch, "--force"]
        times = [measure(["--help"], runs=11), measure(export, runs=3)]
    if chosen.json:
        print(json.dumps([asdict(t) for t in times], indent=2))
    else:
        print_table(
            "wall-clock time, s",
            ["command", "median", "lowest", "highest", "runs"],
            [(t.command, f"{t.median_s:.2f}", f"{t.lowest_s:.2f}", f"{t.highest_s:.2f}", t.runs) for t in times],
        )
    return 0


def measure(words: list[str], *, runs: int) -> CommandTime:
    """Time a command after one run that is not counted."""
    seconds = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        subprocess.run([DEPLOYKIT, *words], check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    counted = seconds[1:]
    shown = " ".join(["deploykit", *(word for word in words if not word.startswith("/"))])
    return CommandTime(shown, statistics.median(counted), min(counted), max(counted), runs)


if __name__ == "__main__":
    sys.exit(main())
