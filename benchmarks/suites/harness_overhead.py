"""What the harness adds: its p50 beside the one of a loop that uses the runtime alone, and what it does outside of it.

    python -m deploy_kit.benchmarks.suites.harness_overhead [--models edgevit_xxs] [--targets onnx executorch]

Each pair is one run of `deploykit bench`'s runner and one of a loop of a few lines in a process of its own, in turn,
with the same file, input, warm-up, iterations and threads.
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
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy_kit.api import export
from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.comparison import Ratio, ratio_of
from deploy_kit.benchmarks.harness import Placed, example_inputs, installed, placed
from deploy_kit.benchmarks.protocol import Protocol
from deploy_kit.benchmarks.runners.base import write_input
from deploy_kit.benchmarks.runners.local import local_runner
from deploy_kit.benchmarks.timing import machine
from deploy_kit.cli.console import print_json, print_line, print_table
from deploy_kit.devices.local import Local

LOOPS = {
    "onnx": """
import json, sys, time
import numpy as np, onnxruntime
file, path, shape, warmup, count = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
feed = {session.get_inputs()[0].name: np.fromfile(path, "float32").reshape(shape)}
times = []
for _ in range(warmup + count):
    start = time.perf_counter_ns()
    session.run(None, feed)
    times.append(time.perf_counter_ns() - start)
print(json.dumps(times[warmup:]))
""",
    "executorch": """
import json, sys, time
import numpy as np, torch
from executorch.extension.pybindings.portable_lib import _load_for_executorch, _unsafe_reset_threadpool
file, path, shape, warmup, count = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
_unsafe_reset_threadpool(1)
module = _load_for_executorch(file)
given = [torch.from_numpy(np.fromfile(path, "float32").reshape(shape))]
times = []
for _ in range(warmup + count):
    start = time.perf_counter_ns()
    module.forward(given)
    times.append(time.perf_counter_ns() - start)
print(json.dumps(times[warmup:]))
""",
}
"""What a user writes to time a file with the runtime's package; the last line printed are the nanoseconds."""


@dataclass(frozen=True)
class Row:
    """One file: p50 of both in ms, how many times as long the harness says, and its seconds outside of the samples."""

    model: str
    target: str
    harness_ms: float
    loop_ms: float
    ratio: Ratio
    outside_s: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table, or one JSON document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["edgevit_xxs"])
    parser.add_argument("--targets", nargs="+", default=sorted(LOOPS), choices=sorted(LOOPS))
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
        for model in chosen.models:
            for target in chosen.targets:
                rows.append(measure(export(model, target, out=folder), chosen.pairs))
    if chosen.json:
        print_json([{**vars(row), "ratio": row.ratio.model_dump()} for row in rows])
    else:
        print_line(f"{machine()}; {chosen.pairs} pairs, {Protocol().iterations} inferences each, one thread")
        print_table(
            "the harness and a loop of the runtime alone",
            ["model", "target", "harness p50, ms", "loop p50, ms", "ratio", "low", "high", "outside of it, s"],
            [_cells(row) for row in rows],
        )
    return 0


def measure(artifact: Artifact, pairs: int, protocol: Protocol = Protocol()) -> Row:  # noqa: B008  # it is frozen
    """Run both in turn, each first in every other pair."""
    device, target = Local(), artifact.manifest.target
    runner = local_runner(target, protocol.threads)
    harness, loop, outside = [], [], []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deploykit-")))
        there = stack.enter_context(
            placed(artifact, device, runner, protocol, stack.enter_context(installed(runner, device)))
        )
        for number in range(pairs):
            if number % 2:
                loop.append(_loop(artifact, folder, protocol))
            p50, rest = _harness(there)
            harness.append(p50)
            outside.append(rest)
            if not number % 2:
                loop.append(_loop(artifact, folder, protocol))
    ratio = ratio_of([ours / theirs for ours, theirs in zip(harness, loop)])
    name = artifact.manifest.model.name
    return Row(name, target, statistics.median(harness), statistics.median(loop), ratio, statistics.median(outside))


def _harness(there: Placed) -> tuple[float, float]:
    """The p50 of a round in ms, and the seconds of the round that are no timed inference, warm-up or load."""
    start = time.monotonic()
    result = there.round().result
    spent = time.monotonic() - start
    timed = sum(result.samples_ns) + sum(result.warmup_ns) + (result.load_ns or 0)
    return statistics.median(result.samples_ns) / 1e6, spent - timed / 1e9


def _loop(artifact: Artifact, folder: Path, protocol: Protocol) -> float:
    """The p50 of the runtime's own loop in ms."""
    given = example_inputs(artifact.manifest.inputs)[0]
    write_input(given, folder / "input.bin", "")
    words: list[Any] = [
        *(artifact.main_file, folder / "input.bin", json.dumps(list(given.shape))),
        *(protocol.warmup, protocol.iterations),
    ]
    command = [sys.executable, "-P", "-c", LOOPS[artifact.manifest.target], *map(str, words)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    return statistics.median(json.loads(done.stdout.splitlines()[-1])) / 1e6


def _cells(row: Row) -> list[str]:
    ratio = (f"{value:.3f}" for value in (row.ratio.estimate, row.ratio.low, row.ratio.high))
    return [row.model, row.target, f"{row.harness_ms:.3f}", f"{row.loop_ms:.3f}", *ratio, f"{row.outside_s:.2f}"]


if __name__ == "__main__":
    sys.exit(main())
