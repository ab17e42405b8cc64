"""Whether `deploykit check` finds what is planted, and nothing else: a regression of each kind in turn.

    python -m deploy_kit.benchmarks.suites.planted_regressions [--unchanged 20]

Each is planted in a small project as a user has it: a model that was trained on handwritten digits, its weights,
labelled inputs and a recipe. The baseline is written, something is changed as a developer would, and the command itself
checks. A plant is found where the findings that are no notes are of its kind, and of no other. ``--unchanged`` checks
the project that often with nothing changed, each time exporting everything again: none may find anything. The exit code
is 1 where a regression was not found, or one was that is none.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

from deploy_kit.benchmarks.timing import machine
from deploy_kit.check.baseline import baseline_of, read_baseline
from deploy_kit.check.findings import CheckReport, Finding, Kind, Level
from deploy_kit.cli.console import print_json, print_line, print_table
from deploy_kit.errors import DeployKitError

HERE = Path(__file__).resolve().parent
COMMAND = (sys.executable, "-P", "-c", "from deploy_kit.cli import main; main()", "check")

MIDDLE = "torch.relu(self.grow(x))"
"""The words of the model that most plants replace."""

MODEL = f"""import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.grow = nn.Linear(1024, 256)
        self.head = nn.Linear(256, 10)

    def forward(self, x):
        x = torch.relu(self.stem(x)).flatten(1)
        x = {MIDDLE}
        return self.head(x)


def net():
    return Net()
"""

WEIGHTS, DATA, RECIPE, RUNNER = "weights.pth", "labelled.safetensors", "deploykit.toml", "runner"

HELD_OUT = 360
"""Digits that the model is asked, and was not trained on."""


@dataclass(frozen=True)
class Plant:
    """A regression: of which kind, in which cell, and what is done to the project's folder.

    ``before`` is done to it before its baseline is written. ``asks`` are words of the recipe's tables that it needs.
    """

    name: str
    kind: Kind
    change: Callable[[Path], None]
    target: str = "onnx"
    precision: str = "fp32"
    before: Callable[[Path], None] = lambda folder: None
    asks: str = ""
    instructions: bool = False


@dataclass(frozen=True)
class Row:
    """What a check said of a plant; ``right`` is None where it could not be tried, and ``told`` says why."""

    planted: str
    kind: str
    found: list[str]
    notes: list[str]
    right: bool | None
    told: str
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Plant, check and print a table, or one JSON document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--plants", nargs="*", choices=[plant.name for plant in PLANTS], help="without it all; with no name none"
    )
    parser.add_argument("--unchanged", type=int, default=0, metavar="N", help="checks with nothing changed")
    parser.add_argument("--targets", nargs="+", default=["onnx", "executorch"], help="of those")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    plants = [plant for plant in PLANTS if chosen.plants is None or plant.name in chosen.plants]
    rows, greens = [], []
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
        folder = Path(scratch)
        train(folder)
        for plant in plants:
            rows.append(planted(plant, folder))
            _say(f"{plant.name}: {'; '.join(rows[-1].found) or 'nothing found'} ({rows[-1].seconds:.0f} s)")
        for number in range(chosen.unchanged):
            greens.append(unchanged(chosen.targets, folder, first=number == 0))
            _say(f"unchanged, {number + 1}: {'; '.join(greens[-1].found) or 'green'} ({greens[-1].seconds:.0f} s)")
    passed = all(row.right is not False for row in [*rows, *greens])
    if chosen.json:
        results = {"planted": [asdict(row) for row in rows], "unchanged": [asdict(row) for row in greens]}
        print_json({"machine": machine(), **results, "passed": passed})
        return 0 if passed else 1
    if rows:
        print_table(
            "planted regressions",
            ["planted", "kind", "found", "as what it is", "told", "seconds"],
            [_shown(row) for row in rows],
        )
    if greens:
        green = sum(row.right is True for row in greens)
        print_line(f"nothing changed: {green} of {len(greens)} checks are green")
    return 0 if passed else 1


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def _shown(row: Row) -> tuple[str, ...]:
    right = {True: "yes", False: "NO", None: "not tried"}[row.right]
    return (row.planted, row.kind, ", ".join(row.found), right, row.told, f"{row.seconds:.0f}")


def train(folder: Path) -> None:
    """Put trained weights and the labelled inputs that were held out into a folder."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    known, asked = order[HELD_OUT:], order[:HELD_OUT]
    names: dict[str, type[nn.Module]] = {}
    exec(MODEL, names)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = names["Net"]()
        optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
        for _ in range(80):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[known]), labels[known]).backward()
            optimizer.step()
    torch.save(net.state_dict(), folder / WEIGHTS)
    save_file({"inputs": images[asked].contiguous(), "labels": labels[asked].contiguous()}, folder / DATA)


def project(folder: Path, trained: Path, targets: Sequence[str], precision: str, asks: str, instructions: bool) -> None:
    """Write the project."""
    folder.mkdir()
    for name in (WEIGHTS, DATA):
        shutil.copyfile(trained / name, folder / name)
    (folder / "planted.py").write_text(MODEL)
    (folder / RECIPE).write_text(
        f"""models = ["planted:net"]
targets = [{", ".join(f'"{target}"' for target in targets)}]
precisions = ["{precision}"]
limit = 600
instructions = {str(instructions).lower()}

[model."planted:net"]
weights = "{WEIGHTS}"
input_size = "1x1x8x8"

[accuracy]
data = "{DATA}"

{asks}"""
    )


def planted(plant: Plant, scratch: Path) -> Row:
    """Write a project's baseline, plant something, and check."""
    start = time.perf_counter()
    folder, cache = scratch / "project", scratch / "cache"
    project(folder, scratch, [plant.target], plant.precision, plant.asks, plant.instructions)
    try:
        plant.before(folder)
        check(folder, cache, "--update-baseline", "--changed-only")
        if plant.instructions and (reason := _cannot_count(folder, cache)):
            return Row(plant.name, plant.kind, [], [], None, reason, time.perf_counter() - start)
        plant.change(folder)
        report = check(folder, cache)
    except DeployKitError as error:
        return Row(plant.name, plant.kind, [], [], False, str(error), time.perf_counter() - start)
    finally:
        shutil.rmtree(folder)
    return _row(plant.name, plant.kind, report, time.perf_counter() - start)


def _cannot_count(folder: Path, cache: Path) -> str:
    """Why instructions cannot be counted here; empty where they were."""
    if all(known.instructions for known in read_baseline(baseline_of(folder / RECIPE)).cells.values()):
        return ""
    (cell,) = check(folder, cache, "--changed-only").cells
    return cell.result.unavailable.get("instructions", "there is no reason")


def unchanged(targets: Sequence[str], scratch: Path, *, first: bool) -> Row:
    """Check a project in which nothing was changed; the first check writes its baseline before."""
    start = time.perf_counter()
    folder, cache = scratch / "unchanged", scratch / "cache"
    try:
        if first:
            project(folder, scratch, targets, "fp32", "[latency]\niterations = 200\n", instructions=True)
            check(folder, cache, "--update-baseline")
        report = check(folder, cache)
    except DeployKitError as error:
        return Row("nothing", "none", [], [], False, str(error), time.perf_counter() - start)
    return _row("nothing", None, report, time.perf_counter() - start)


def check(folder: Path, cache: Path, *options: str) -> CheckReport:
    """What ``deploykit check`` finds in a project.

    Raises:
        DeployKitError: the command failed, or its exit code is not that of its report.
    """
    command = [*COMMAND, "--json", "--cache", str(cache), *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"  # a change within a second could be taken for none
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1) or not done.stdout:
        words = done.stderr.strip().splitlines() or ["it said nothing"]
        raise DeployKitError(f"the check ended with {done.returncode}: {' '.join(words[-3:])}")
    report = CheckReport.model_validate_json(done.stdout)
    if "--update-baseline" not in options and done.returncode != (0 if report.passed else 1):
        raise DeployKitError(f"a check that {'passed' if report.passed else 'failed'} ended with {done.returncode}")
    return report


def _row(name: str, kind: Kind | None, report: CheckReport, seconds: float) -> Row:
    def words(findings: Sequence[Finding]) -> list[str]:
        return [f"{finding.level}: {finding.kind}" for finding in findings]

    notes = [finding for finding in report.all_findings if finding.level == Level.NOTE]
    found = [finding for finding in report.all_findings if finding.level != Level.NOTE]
    told = "; ".join(finding.message for finding in found)
    right = {finding.kind for finding in found} == (set() if kind is None else {kind})
    return Row(name, str(kind or "none"), words(found), words(notes), right, told, seconds)


def middle(words: str) -> Callable[[Path], None]:
    """A change of the model's middle."""

    def change(folder: Path) -> None:
        file = folder / "planted.py"
        file.write_text(file.read_text().replace(MIDDLE, words))

    return change


def _weights(change: Callable[[dict[str, Tensor]], None]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        state = torch.load(folder / WEIGHTS, weights_only=True)
        change(state)
        torch.save(state, folder / WEIGHTS)

    return changed


def _mix_up_two_classes(state: dict[str, Tensor]) -> None:
    state["head.weight"] = state["head.weight"][[1, 0, *range(2, 10)]]


ADAPTER = 52
"""Channels of the adapter that makes the file a tenth larger, and computes nothing yet."""


def _add_adapter(folder: Path) -> None:
    file = folder / "planted.py"
    text = file.read_text().replace(MIDDLE, f"{MIDDLE}\n        x = x + self.up(self.down(x))")
    layers = (
        f"self.down = nn.Linear(256, {ADAPTER}, bias=False)\n        self.up = nn.Linear({ADAPTER}, 256, bias=False)"
    )
    head = "self.head = nn.Linear(256, 10)"
    file.write_text(text.replace(head, f"{head}\n        {layers}"))

    def add(state: dict[str, Tensor]) -> None:
        state["down.weight"] = torch.randn(ADAPTER, 256, generator=torch.Generator().manual_seed(0))
        state["up.weight"] = torch.zeros(256, ADAPTER)

    _weights(add)(folder)


def runner(program: str, *options: str) -> Callable[[Path], None]:
    """Write a program that times, in the project: one of ours, with options."""

    def write(folder: Path) -> None:
        words = " ".join(f"'{word}'" for word in (sys.executable, "-P", str(HERE / program), *options))
        file = folder / RUNNER
        file.write_text(f'#!/bin/sh\nexec {words} --engine onnx "$@"\n')
        file.chmod(0o755)

    return write


def _change_recipe(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / RECIPE
        file.write_text(file.read_text().replace(old, new))

    return change


def _mend(folder: Path) -> None:
    (folder / "planted.py").write_text(MODEL)


def _lose_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"none")


BRANCH = f"{MIDDLE} if x.sum() > 0 else x"
PLANTS = (
    Plant(
        "an operator that is no longer delegated",
        Kind.UNDELEGATED,
        middle("torch.where(self.grow(x) > 0, self.grow(x), torch.zeros(()))"),
        target="executorch",
    ),
    Plant(
        "a wrong weight in the artifact",
        Kind.WORKS_TO_FAILS,
        middle(
            "torch.relu(nn.functional.linear("
            "x, self.grow.weight * (1.05 if torch.compiler.is_exporting() else 1), self.grow.bias))"
        ),
    ),
    Plant("a wrong weight in the model", Kind.ACCURACY, _weights(_mix_up_two_classes)),
    Plant("a file that is 10% larger", Kind.SIZE, _add_adapter),
    Plant(
        "a runner that is 10% slower",
        Kind.LATENCY,
        runner("slower_runner.py", "--share", "0.1"),
        before=runner("../runners/python_runner.py"),
        asks=f'[latency]\nrunner = "{RUNNER}"\nwarmup = 50\niterations = 300\n',
    ),
    Plant("a model that no longer exports", Kind.WORKS_TO_FAILS, middle(BRANCH)),
    Plant(
        "more instructions",
        Kind.INSTRUCTIONS,
        middle(f"{MIDDLE}.abs()"),
        target="executorch",
        instructions=True,
    ),
    Plant("less precision", Kind.ERROR, middle("torch.relu(self.grow(x) * 2**-15) * 2**15"), precision="fp16"),
    Plant("an expected failure that works", Kind.FAILS_TO_WORKS, _mend, before=middle(BRANCH)),
    Plant(
        "an expected failure of another kind",
        Kind.FAILS_OTHERWISE,
        _lose_weights,
        before=middle(BRANCH),
    ),
    Plant("a cell that nobody expected", Kind.NEW_CELL, _change_recipe('["fp32"]', '["fp32", "fp16"]')),
    Plant(
        "a cell that is no longer checked",
        Kind.GONE_CELL,
        _change_recipe('["fp32", "fp16"]', '["fp32"]'),
        before=_change_recipe('["fp32"]', '["fp32", "fp16"]'),
    ),
)


if __name__ == "__main__":
    sys.exit(main())
