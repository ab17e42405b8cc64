"""Every family against its runtime's stock export: what a user has without deploykit, and with it.

    python -m deploy_kit.benchmarks.suites.stock   # or: make benchmark
    python -m deploy_kit.benchmarks.suites.stock --models levit_128s deit_tiny --targets onnx

The stock contestants export the form in which the model is published: timm's, where timm has one that computes what
the authors' does, and otherwise ours as it is written. The files of a model and runtime are timed in turn, one
inference each, in one process at one thread; several such processes, each in another order. Ours is proven as it is
exported. Results are kept in a file as they come, and a run goes on where one that was ended left off.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deploy_kit.api import PROVE, REFERENCE, export, load_model
from deploy_kit.benchmarks.runtimes import time_files
from deploy_kit.benchmarks.timing import Ratio, Timing, machine, speedup, summarise
from deploy_kit.cli.console import print_line, print_table
from deploy_kit.errors import DeployKitError, UserError
from deploy_kit.exporters.executorch import LOWERING_LIMIT, export_program, work
from deploy_kit.exporters.mobile.interpreter import FIX, find_interpreter
from deploy_kit.graph import Graph
from deploy_kit.models import get_architecture
from deploy_kit.models.layers import randomize_
from deploy_kit.outcome import Outcome
from deploy_kit.stages import Stages
from deploy_kit.timm_models import create_timm_model

OURS = "deploykit"
MODELS = (
    *("edgevit_xxs", "edgevit_xs", "efficientvit_m0", "efficientvit_m3", "efficientformer_l1", "efficientformer_l3"),
    *("efficientformerv2_s0", "efficientformerv2_s1", "efficientvit_b0", "efficientvit_b1", "levit_128s", "levit_192"),
    *("mobilenet_v3_small", "mobilenet_v2", "mobilevit_xxs", "mobilevit_xs", "poolformer_s12", "poolformer_s24"),
    *("swin_tiny", "deit_tiny", "deit_small"),
)
"""The smallest and a middle size of each family of images; one size of Swin, whose smallest is large."""

SAME_FORM = {
    "efficientvit_b": "efficientvit_b{}",
    "poolformer_": "poolformer_{}",
}
"""timm's models that have the published operators, and differ in a constant from what the authors compute."""


@dataclass(frozen=True)
class Cell:
    """One model and target: the contestants' timings, and how many times faster ours is than each other one.

    ``seconds`` are those that making each file took, without the proof of ours. ``placements`` are ExecuTorch's.
    """

    model: str
    target: str
    form: str
    timings: dict[str, Timing]
    faster: dict[str, Ratio]
    seconds: dict[str, float]
    placements: dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables, or one JSON document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--targets", nargs="+", default=list(STOCK), choices=list(STOCK))
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--without-onednn", action="store_true", help="torchscript-lite: as on a phone, which has none")
    parser.add_argument("--results", type=Path, help="the file that keeps what is done, and is gone on with")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    cells = read_cells(chosen.results)
    for model in chosen.models:
        for target in chosen.targets:
            if any((cell.model, cell.target) == (model, target) for cell in cells):
                continue
            with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
                job = {"onednn": False} if chosen.without_onednn and target == "torchscript-lite" else {}
                cell = contest(model, target, Path(scratch), chosen.processes, chosen.iterations, **job)
            faster = ", ".join(f"{ratio} than {name}" for name, ratio in cell.faster.items())
            print(f"{model}, {target}: {faster}", file=sys.stderr, flush=True)
            cells.append(cell)
            write_cells(chosen.results, cells)
    wanted = [cell for cell in cells if cell.model in chosen.models and cell.target in chosen.targets]
    if chosen.json:
        print(json.dumps({"machine": machine(), "threads": 1, "cells": [asdict(cell) for cell in wanted]}, indent=2))
    else:
        report(wanted)
    return 0


def contest(model: str, target: str, folder: Path, processes: int, iterations: int, **job: Any) -> Cell:
    """Make a model's files for one target and time them; ``job`` is what else the runtime's ``bench`` takes."""
    loaded, (official, form) = load_model(model), published_form(model)
    inputs = tuple(loaded.capture().example_inputs)
    stock = STOCK[target](official, inputs, folder)
    stages = Stages()
    artifact = export(loaded, target, out=folder, stages=stages)
    ours = sum(stage.seconds for stage in stages.finished if stage.name not in (REFERENCE, PROVE))
    seconds = {**stock.seconds, OURS: ours}
    placements = {**stock.placements, OURS: artifact.manifest.details.get("placement")}
    files = {**stock.files, OURS: artifact.main_file}
    rounds = time_files(target, files, inputs, folder, processes=processes, iterations=iterations, **job)
    timings = {name: summarise(rounds, name) for name in files}
    faster = {name: speedup(rounds, OURS, name) for name in files if name != OURS}
    return Cell(model, target, form, timings, faster, seconds, placements)


def published_form(model: str) -> tuple[nn.Module, str]:
    """The model as a user has it, with random weights, and whose code it is."""
    architecture = get_architecture(model)
    name = architecture.timm or next(
        (theirs.format(model.removeprefix(ours)) for ours, theirs in SAME_FORM.items() if model.startswith(ours)), None
    )
    if name is None:
        return load_model(model).module, "ours, as written"
    official = _written_out(name)
    randomize_(official, seed=0, gain=architecture.gain)
    return official.eval(), f"timm's {name}"


def _written_out(name: str) -> nn.Module:
    """timm's model with its attention as the authors write it, which every runtime knows: products and a softmax."""
    official, _ = create_timm_model(name, num_classes=None, seed=0)
    for module in official.modules():
        if hasattr(module, "fused_attn"):
            setattr(module, "fused_attn", False)  # noqa: B010  # modules have no such attribute for the type checker
    return official


@dataclass(frozen=True)
class Stock:
    """What a stock export made: its files by contestant, the seconds that each took, and placement reports."""

    files: dict[str, Path]
    seconds: dict[str, float]
    placements: dict[str, Any]


def lite(official: nn.Module, example: tuple[Tensor, ...], folder: Path) -> Stock:
    """``torch.jit.trace`` and the lite saver, without and with ``optimize_for_mobile``."""
    interpreter = find_interpreter()
    if not interpreter.xnnpack:
        raise UserError("this benchmark needs a mobile interpreter with XNNPACK", fix=FIX)
    traced = folder / "traced.pt"
    with torch.no_grad():
        torch.jit.freeze(torch.jit.trace(official, example, check_trace=False)).save(str(traced))
    stock = Stock({}, {}, {})
    for contestant, prepack in (("plain", False), ("optimize_for_mobile", True)):
        start = time.perf_counter()
        file = stock.files[contestant] = folder / f"{contestant}.ptl"
        interpreter.work({"do": "save", "source": str(traced), "target": str(file), "prepack": prepack})
        stock.seconds[contestant] = time.perf_counter() - start
    return stock


def onnx(official: nn.Module, example: tuple[Tensor, ...], folder: Path) -> Stock:
    """``torch.onnx.export`` as it is by default."""
    file = folder / "stock.onnx"
    start = time.perf_counter()
    torch.onnx.export(official, example, str(file), verbose=False)
    return Stock({"torch.onnx.export": file}, {"torch.onnx.export": time.perf_counter() - start}, {})


def executorch(official: nn.Module, example: tuple[Tensor, ...], folder: Path) -> Stock:
    """``torch.export``, then ``to_edge_transform_and_lower`` with XNNPACK's partitioner, as its documentation says."""
    start = time.perf_counter()
    with torch.no_grad():
        module = torch.export.export(official, example).module(check_guards=False)
    assert isinstance(module, torch.fx.GraphModule)
    program, file = folder / "stock.pt2", folder / "stock.pte"
    export_program(Graph(module, example), program)
    files = {"source": str(program), "target": str(file), "bundle": None}
    job = {"do": "lower", "quick": False, "delegate": "xnnpack", **files}
    placement = work(job, "lower the model", Outcome.LOWER_FAILED, LOWERING_LIMIT)
    return Stock({"stock": file}, {"stock": time.perf_counter() - start}, {"stock": placement})


STOCK: dict[str, Callable[[nn.Module, tuple[Tensor, ...], Path], Stock]] = {
    "torchscript-lite": lite,
    "onnx": onnx,
    "executorch": executorch,
}


def read_cells(file: Path | None) -> list[Cell]:
    """What a run that was ended has left in its file; `UserError` where the file is of something else."""
    if file is None or not file.is_file():
        return []
    cells = []
    try:
        for cell in json.loads(file.read_text(encoding="utf-8")):
            timings = {name: Timing(**timing) for name, timing in cell["timings"].items()}
            faster = {name: Ratio(**ratio) for name, ratio in cell["faster"].items()}
            cells.append(Cell(**{**cell, "timings": timings, "faster": faster}))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{str(file)!r} has no results of this suite", fix="name another --results") from error
    return cells


def write_cells(file: Path | None, cells: Sequence[Cell]) -> None:
    """Keep what is done."""
    if file is not None:
        file.write_text(json.dumps([asdict(cell) for cell in cells], indent=1), encoding="utf-8")


def report(cells: Sequence[Cell]) -> None:
    """Print a table a target, with the geometric mean of the ratios."""
    print_line(f"machine: {machine()}, threads: 1")
    for target in STOCK:
        mine = [cell for cell in cells if cell.target == target]
        if not mine:
            continue
        others = list(mine[0].faster)
        rows = [
            (
                *(cell.model, cell.form, *(f"{cell.timings[name].median_ms:.2f}" for name in (*others, OURS))),
                *(str(cell.faster[name]) for name in others),
            )
            for cell in mine
        ]
        means = [f"{statistics.geometric_mean(cell.faster[name].median for cell in mine):.2f}" for name in others]
        rows.append(("geometric mean", "", *("" for _ in (*others, OURS)), *means))
        columns = [*(f"{name}, ms" for name in (*others, OURS)), *(f"faster than {name}" for name in others)]
        print_table(target, ["model", "stock is", *columns], rows)
        print_table(f"{target}: what was made", *_made(mine))


def _made(cells: Sequence[Cell]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Columns and rows of how long each file took to make, and where there are delegates, how many subgraphs."""
    names = list(cells[0].timings)
    columns = ["model", *(f"{name}, s" for name in names)]
    rows = [(cell.model, *(f"{cell.seconds[name]:.1f}" for name in names)) for cell in cells]
    if all(cell.placements.get(name) for cell in cells for name in names):
        columns += [f"{name}, subgraphs" for name in names]
        rows = [(*row, *(str(cell.placements[name]["subgraphs"]) for name in names)) for row, cell in zip(rows, cells)]
    return columns, rows


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DeployKitError as error:
        sys.exit(f"error: {error}\n  fix: {error.fix}")
