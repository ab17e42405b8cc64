"""EdgeViT on the mobile interpreter: plain, ``optimize_for_mobile`` alone, and deploykit.

    python -m deploy_kit.benchmarks.suites.edgevit_torchscript_lite

The three files of a model are timed in turn, one inference each, in one process of the mobile
interpreter at one thread; several such processes, each in another order. OpenBLAS does the plain
file's matrix products, with the kernels for the widest vectors that the processor has.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from deploy_kit import export, load_model
from deploy_kit.cli.console import print_line, print_table
from deploy_kit.errors import UserError
from deploy_kit.exporters.mobile.interpreter import FIX, Interpreter, find_interpreter
from deploy_kit.parity.inputs import noise

MODELS = ("edgevit_xxs", "edgevit_xs", "edgevit_s")
CONTESTANTS = ("plain", "optimize_for_mobile", "deploykit")


@dataclass(frozen=True)
class Timing:
    """One contestant's inference times in milliseconds, over all processes."""

    model: str
    contestant: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    samples: int


@dataclass(frozen=True)
class Speedup:
    """How many times faster deploykit is: the median over processes of the ratio of medians, and its range."""

    model: str
    over: str
    ratio: float
    lowest: float
    highest: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables, or one JSON document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--without-onednn", action="store_true", help="as on a phone: x86 alone has oneDNN")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    interpreter = find_interpreter()
    if not interpreter.xnnpack:
        raise UserError("this benchmark needs a mobile interpreter with XNNPACK", fix=FIX)
    timings, speedups = [], []
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
        for model in chosen.models:
            files = build(model, Path(scratch), interpreter)
            inputs = Path(scratch, f"{model}-inputs.pt")
            torch.save([noise(load_model(model).input_shapes, seed=0)], inputs)
            job = {"inputs": str(inputs), "iterations": chosen.iterations, "onednn": not chosen.without_onednn}
            rounds = measure(files, job, interpreter, chosen.processes)
            timings += [_timing(model, name, rounds) for name in CONTESTANTS]
            speedups += [_speedup(model, name, rounds) for name in CONTESTANTS[:2]]
    conditions = {
        "runtime": interpreter.description,
        "machine": f"{platform.machine()}, {_processor()}",
        "threads": 1,
        "oneDNN": "off" if chosen.without_onednn else "on",
    }
    _report(timings, speedups, conditions, chosen.json)
    return 0


def build(model: str, folder: Path, interpreter: Interpreter) -> dict[str, Path]:
    """The three files of a model, by contestant; ours is proven as it is exported."""
    loaded = load_model(model)
    traced = folder / f"{model}.pt"
    with torch.no_grad():
        example = noise(loaded.input_shapes, seed=0)
        torch.jit.freeze(torch.jit.trace(loaded.module, example, check_trace=False)).save(str(traced))
    files = {}
    for contestant, prepack in (("plain", False), ("optimize_for_mobile", True)):
        files[contestant] = folder / f"{model}-{contestant}.ptl"
        interpreter.work({"do": "save", "source": str(traced), "target": str(files[contestant]), "prepack": prepack})
    artifact = export(loaded, "torchscript-lite", out=folder, options={"mobile_python": interpreter.python})
    return {**files, "deploykit": artifact.main_file}


def measure(
    files: dict[str, Path], job: dict[str, Any], interpreter: Interpreter, processes: int
) -> list[dict[str, list[float]]]:
    """Seconds of every inference by contestant, for each process; ``job`` has inputs, iterations and onednn."""
    rounds = []
    for turn in range(processes):
        order = [CONTESTANTS[(turn + i) % len(CONTESTANTS)] for i in range(len(CONTESTANTS))]
        paths = {name: str(files[name]) for name in order}
        rounds.append(interpreter.work({"do": "bench", "files": paths, "threads": 1, "warmup": 5, **job})["seconds"])
    return rounds


def _timing(model: str, contestant: str, rounds: list[dict[str, list[float]]]) -> Timing:
    samples = sorted(1000 * seconds for result in rounds for seconds in result[contestant])
    deciles = statistics.quantiles(samples, n=10)
    return Timing(model, contestant, statistics.median(samples), deciles[0], deciles[-1], len(samples))


def _speedup(model: str, over: str, rounds: list[dict[str, list[float]]]) -> Speedup:
    ratios = [statistics.median(result[over]) / statistics.median(result["deploykit"]) for result in rounds]
    return Speedup(model, over, statistics.median(ratios), min(ratios), max(ratios))


def _report(timings: list[Timing], speedups: list[Speedup], conditions: dict[str, Any], as_json: bool) -> None:
    if as_json:
        results = {"timings": [asdict(t) for t in timings], "speedups": [asdict(s) for s in speedups]}
        print(json.dumps({"conditions": conditions, **results}, indent=2))
        return
    print_line(", ".join(f"{name}: {value}" for name, value in conditions.items()))
    print_table(
        "inference, ms",
        ["model", "contestant", "median", "p10", "p90", "samples"],
        [
            (t.model, t.contestant, f"{t.median_ms:.1f}", f"{t.p10_ms:.1f}", f"{t.p90_ms:.1f}", t.samples)
            for t in timings
        ],
    )
    print_table(
        "deploykit is faster, times",
        ["model", "than", "median of processes", "lowest", "highest"],
        [(s.model, s.over, f"{s.ratio:.2f}", f"{s.lowest:.2f}", f"{s.highest:.2f}") for s in speedups],
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}\n  fix: {error.fix}")
