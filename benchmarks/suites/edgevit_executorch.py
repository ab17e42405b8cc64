"""EdgeViT on ExecuTorch with XNNPACK: lowered as it is written, and by deploykit.

    python -m deploy_kit.benchmarks.suites.edgevit_executorch

The two programs of a model are timed in turn, one inference each, in one process of ExecuTorch's own
runtime at one thread; several such processes, each in another order. ``stock`` is what ExecuTorch's
documentation says to do: ``torch.export``, then ``to_edge_transform_and_lower`` with XNNPACK's
partitioner. ``--without PASS`` measures one pass instead: ours against ours without it.
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
from deploy_kit.exporters.executorch import LOWERING_LIMIT, XNNPACK_POLICY, export_program, find_executorch, work
from deploy_kit.fusion import Policy, fuse_graph
from deploy_kit.graph import Graph
from deploy_kit.outcome import Outcome
from deploy_kit.parity.inputs import noise
from deploy_kit.sources import LoadedModel

MODELS = ("edgevit_xxs", "edgevit_xs", "edgevit_s")
OURS = "deploykit"


@dataclass(frozen=True)
class Timing:
    """One contestant's inference times in milliseconds, over all processes, and where its operators are."""

    model: str
    contestant: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    samples: int
    subgraphs: int
    undelegated: int


@dataclass(frozen=True)
class Speedup:
    """How many times faster deploykit is: the median over processes of the ratio of medians, and its range."""

    model: str
    over: str
    ratio: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Built:
    """A contestant's program and its placement report."""

    file: Path
    placement: dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables, or one JSON document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--without", nargs="+", default=[], metavar="PASS")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    timings, speedups = [], []
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
        for model in chosen.models:
            built = build(model, Path(scratch), chosen.without)
            rounds = measure(built, model, Path(scratch), chosen.processes, chosen.iterations)
            timings += [_timing(model, name, built[name], rounds) for name in built]
            speedups += [_speedup(model, name, rounds) for name in built if name != OURS]
    _report(timings, speedups, chosen.json)
    return 0


def build(model: str, folder: Path, without: Sequence[str]) -> dict[str, Built]:
    """The programs of a model, by contestant; ours is proven as it is exported."""
    loaded = load_model(model)
    artifact = export(loaded, "executorch", out=folder)
    built = {OURS: Built(artifact.main_file, artifact.manifest.details["placement"])}
    if without:
        for name in without:
            graph, _ = fuse_graph(loaded.capture(), _policy_without(name))
            built[f"without {name}"] = _lower(graph, folder / f"{model}-{name}")
        return built
    example = noise(loaded.input_shapes, seed=0)
    return {"stock": _lower(_as_written(loaded, example), folder / f"{model}-stock"), **built}


def _as_written(loaded: LoadedModel, example: tuple[torch.Tensor, ...]) -> Graph:
    with torch.no_grad():
        program = torch.export.export(loaded.module, example)
    module = program.module(check_guards=False)
    assert isinstance(module, torch.fx.GraphModule)
    return Graph(module, example)


def _policy_without(name: str) -> Policy:
    if name not in XNNPACK_POLICY.names:
        raise UserError(f"the policy has no pass {name!r}", fix=f"it has {', '.join(XNNPACK_POLICY.names)}")
    return Policy(tuple(choice for choice in XNNPACK_POLICY.passes if choice.name != name))


def _lower(graph: Graph, base: Path) -> Built:
    program, file = base.with_suffix(".pt2"), base.with_suffix(".pte")
    export_program(graph, program)
    job = {"do": "lower", "source": str(program), "delegate": "xnnpack", "target": str(file), "bundle": None}
    return Built(file, work(job, "lower the model", Outcome.LOWER_FAILED, LOWERING_LIMIT))


def measure(
    built: dict[str, Built], model: str, folder: Path, processes: int, iterations: int
) -> list[dict[str, list[float]]]:
    """Seconds of every inference by contestant, for each process."""
    inputs = folder / f"{model}-inputs.pt"
    torch.save([noise(load_model(model).input_shapes, seed=0)], inputs)
    names, rounds = list(built), []
    for turn in range(processes):
        order = [names[(turn + i) % len(names)] for i in range(len(names))]
        job = {
            "do": "bench",
            "files": {name: str(built[name].file) for name in order},
            "inputs": str(inputs),
            "threads": 1,
            "warmup": 5,
            "iterations": iterations,
        }
        rounds.append(work(job, "time the programs")["seconds"])
    return rounds


def _timing(model: str, contestant: str, built: Built, rounds: list[dict[str, list[float]]]) -> Timing:
    samples = sorted(1000 * seconds for result in rounds for seconds in result[contestant])
    deciles = statistics.quantiles(samples, n=10)
    return Timing(
        model,
        contestant,
        statistics.median(samples),
        deciles[0],
        deciles[-1],
        len(samples),
        built.placement["subgraphs"],
        sum(built.placement["undelegated"].values()),
    )


def _speedup(model: str, over: str, rounds: list[dict[str, list[float]]]) -> Speedup:
    ratios = [statistics.median(result[over]) / statistics.median(result[OURS]) for result in rounds]
    return Speedup(model, over, statistics.median(ratios), min(ratios), max(ratios))


def _report(timings: list[Timing], speedups: list[Speedup], as_json: bool) -> None:
    conditions: dict[str, Any] = {
        "runtime": f"executorch {find_executorch()} (XNNPACK)",
        "machine": f"{platform.machine()}, {_processor()}",
        "threads": 1,
    }
    if as_json:
        results = {"timings": [asdict(t) for t in timings], "speedups": [asdict(s) for s in speedups]}
        print(json.dumps({"conditions": conditions, **results}, indent=2))
        return
    print_line(", ".join(f"{name}: {value}" for name, value in conditions.items()))
    print_table(
        "inference, ms",
        ["model", "contestant", "median", "p10", "p90", "samples", "subgraphs", "operators outside"],
        [
            (
                *(t.model, t.contestant, f"{t.median_ms:.1f}", f"{t.p10_ms:.1f}", f"{t.p90_ms:.1f}"),
                *(t.samples, t.subgraphs, t.undelegated),
            )
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
