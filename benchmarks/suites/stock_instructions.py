"""The ARM instructions of one inference, deploykit's files against each runtime's stock export.

    python -m deploy_kit.benchmarks.suites.stock_instructions --models edgevit_xxs levit_128s

The files are those of the suite `stock`. A count is of the sixth inference of a process, of one thread on an emulated
Cortex-A76: the same from run to run, without oneDNN, which no phone has, and a cost, not a time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy_kit.api import export, load_model
from deploy_kit.benchmarks.instructions import count_instructions
from deploy_kit.benchmarks.native import build_runner
from deploy_kit.benchmarks.suites.stock import OURS, STOCK, published_form
from deploy_kit.cli.console import print_json, print_line, print_table
from deploy_kit.errors import DeployKitError

TARGETS = ("torchscript-lite", "executorch")
MODELS = ("edgevit_xxs", "efficientvit_m0", "levit_128s", "efficientformerv2_s0", "mobilenet_v3_small", "deit_tiny")


@dataclass(frozen=True)
class Cell:
    """One model and target: instructions by contestant, and how many times fewer ours has than each other one."""

    model: str
    target: str
    instructions: dict[str, int]
    fewer: dict[str, float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, and print a table a target or one JSON document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    cells = []
    for model in chosen.models:
        for target in chosen.targets:
            with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
                cells.append(count(model, target, Path(scratch)))
            fewer = ", ".join(f"{ratio:.2f} than {name}" for name, ratio in cells[-1].fewer.items())
            print(f"{model}, {target}: {fewer}", file=sys.stderr, flush=True)
    if chosen.json:
        print_json([asdict(cell) for cell in cells])
    else:
        for target in chosen.targets:
            report(target, [cell for cell in cells if cell.target == target])
    return 0


def count(model: str, target: str, folder: Path) -> Cell:
    """Make a model's files for one target and count the instructions of an inference of each."""
    loaded, (official, _) = load_model(model), published_form(model)
    inputs = tuple(loaded.capture().example_inputs)
    files = dict(STOCK[target](official, inputs, folder).files)
    files[OURS] = export(loaded, target, out=folder).main_file
    bundle = build_runner(target, "aarch64")
    counts = {name: count_instructions(bundle, file, inputs).counts[-1] for name, file in files.items()}
    fewer = {name: counts[name] / counts[OURS] for name in counts if name != OURS}
    return Cell(model, target, counts, fewer)


def report(target: str, cells: Sequence[Cell]) -> None:
    """Print a target's table."""
    names = list(dict.fromkeys(name for cell in cells for name in cell.instructions))
    others = [name for name in names if name != OURS]
    rows = [
        [
            cell.model,
            *(f"{cell.instructions[name] / 1e6:,.1f}" for name in names),
            *(f"{cell.fewer[name]:.2f}" for name in others),
        ]
        for cell in cells
    ]
    means = [f"{statistics.geometric_mean(cell.fewer[name] for cell in cells):.2f}" for name in others]
    rows.append(["geometric mean", *("" for _ in names), *means])
    columns = [*(f"{name}, millions" for name in names), *(f"fewer than {name}" for name in others)]
    print_table(f"{target}: ARM instructions of one inference", ["model", *columns], rows)
    print_line("counted under an emulator, at one thread: a cost, not a time")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DeployKitError as error:
        sys.exit(f"error: {error}\n  fix: {error.fix}")
