"""What each pass of each policy gains: the measurements that the policies' files hold.

    python -m deploy_kit.benchmarks.suites.policies --write
    python -m deploy_kit.benchmarks.suites.policies --targets onnx --models edgevit_xxs levit_128s
    python -m deploy_kit.benchmarks.suites.policies --targets executorch torchscript-lite --count --write

For each target and model: the target's own form, and for each pass that may be on or off the form that has it the
other way, if that is another graph. All files of a model are timed in turn, one inference each, in one process at one
thread; several such processes, each in another order. ``--count`` counts the instructions of an emulated ARM processor
instead, for the targets of phones: this machine's processor has units that no phone has. ``--write`` keeps the figures
in ``exporters/policies``; which passes are on stays for a person to decide.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from torch import Tensor

from deploy_kit import disk
from deploy_kit.api import lower, parse_options
from deploy_kit.benchmarks.instructions import count_instructions
from deploy_kit.benchmarks.native import build_runner
from deploy_kit.benchmarks.runtimes import TIMED, time_files
from deploy_kit.benchmarks.timing import Rounds, machine, speedup
from deploy_kit.cli.console import print_line, print_table
from deploy_kit.devices.qemu import CPU
from deploy_kit.errors import DeployKitError, UserError
from deploy_kit.exporters import get_exporter
from deploy_kit.exporters.base import POLICIES, Exporter, Options
from deploy_kit.fusion.policy import Conditions, Measured, Policy, read_policy
from deploy_kit.graph import Graph
from deploy_kit.sources import load_model
from deploy_kit.stages import Stages

MODELS = (
    "edgevit_xxs",
    "levit_128s",
    "efficientvit_m0",
    "efficientformerv2_s0",
    "poolformer_s12",
    "deit_tiny",
    "swin_tiny",
    "mobilenet_v3_small",
    "timm/fastvit_t8",
    "timm/gcvit_xxtiny",
)
"""Among them is one for nearly every pass."""
OWN = "own form"
COUNTED = ("executorch", "torchscript-lite")
SECONDS, INSTRUCTIONS = "seconds", "instructions"
TIMES = {SECONDS: "times faster", INSTRUCTIONS: "times fewer instructions"}


@dataclass(frozen=True)
class Found:
    """What one pass of a target's policy does to one model; ``on`` is whether the policy has it.

    ``measured`` is None where the graph is the same with and without it.
    """

    target: str
    choice: str
    on: bool
    measured: Measured | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table a target, and with ``--write`` keep it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--targets", nargs="+", default=list(TIMED), choices=list(TIMED))
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--passes", nargs="+", help="none is every pass that may be on or off")
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--count", action="store_true", help="ARM instructions instead of time, by qemu")
    parser.add_argument("--write", action="store_true", help="keep the figures in the policies' files")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    if chosen.write and chosen.passes:
        raise UserError("--write keeps the figures of whole policies", fix="leave out --passes, or --write")
    for target in chosen.targets if chosen.count else ():
        if target not in COUNTED:
            raise UserError(
                f"the instructions of {target} cannot be counted", fix=f"choose one of {', '.join(COUNTED)}"
            )
    unit = INSTRUCTIONS if chosen.count else SECONDS
    found: list[Found] = []
    for target in chosen.targets:
        for model in chosen.models:
            with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
                folder, processes, iterations = Path(scratch), chosen.processes, chosen.iterations
                mine = measure(model, target, chosen.passes, folder, processes, iterations, unit)
            found += mine
            if chosen.write:
                protocol = "--count" if chosen.count else f"--processes {processes} --iterations {iterations}"
                write(target, model, mine, unit, protocol)
    if chosen.json:
        print(json.dumps([asdict(item) for item in found], indent=2))
    else:
        report(found, unit)
    return 0


def measure(
    model: str,
    target: str,
    passes: Sequence[str] | None,
    folder: Path,
    processes: int,
    iterations: int,
    unit: str = SECONDS,
) -> list[Found]:
    """Build a model's forms for a target, and time them in turn or count their instructions."""
    loaded, exporter = load_model(model), get_exporter(target)
    options = parse_options(exporter, {})
    policy = exporter.policy(options)
    own = lower(loaded, exporter, options, Stages(), policy)
    files = {OWN: build(own, exporter, options, folder / "own")}
    found = []
    for name in passes or policy.optional:
        graph = lower(loaded, exporter, options, Stages(), policy.toggled(name))
        if graph.module.code == own.module.code:
            found.append(Found(target, name, name in policy.names, None))
            continue
        try:
            files[name] = build(graph, exporter, options, folder / name)
        except DeployKitError as error:
            print(f"{model}, {target}, {name} the other way: {error}", file=sys.stderr)
    inputs = tuple(own.example_inputs)
    rounds: Rounds
    if unit == INSTRUCTIONS:
        rounds = [count(target, files, inputs)]
    else:
        rounds = time_files(target, files, inputs, folder, processes=processes, iterations=iterations)
    for name in files:
        if name != OWN:
            on = name in policy.names
            ratio = speedup(rounds, OWN, name) if on else speedup(rounds, name, OWN)
            measured = Measured(model, *(round(value, 3) for value in (ratio.median, ratio.lowest, ratio.highest)))
            found.append(Found(target, name, on, measured))
            print(f"{model}, {target}: {ratio} {TIMES[unit]} with {name}", file=sys.stderr, flush=True)
    return found


def count(target: str, files: Mapping[str, Path], inputs: tuple[Tensor, ...]) -> dict[str, list[float]]:
    """The ARM instructions of an inference of each file; a second one would differ by millionths."""
    bundle = build_runner(target, "aarch64")
    counts = {name: count_instructions(bundle, file, inputs, iterations=1).counts for name, file in files.items()}
    return {name: [float(each) for each in counted] for name, counted in counts.items()}


def build(graph: Graph, exporter: Exporter, options: Options, folder: Path) -> Path:
    """Write a graph's file."""
    folder.mkdir()
    return folder / exporter.export(graph, folder, options, Stages()).main_file


def write(target: str, model: str, found: Sequence[Found], unit: str, protocol: str) -> None:
    """Keep what was found of a model in the file of a target's policy, with the command that finds all of the file."""
    file = POLICIES / f"{target}.cpu.json"
    policy = updated(read_policy(file), model, found, conditions(target, [model], unit, protocol))
    policy = replace(policy, conditions=conditions(target, policy.models, unit, protocol))
    disk.replace(file, policy.to_json())


def updated(policy: Policy, model: str, found: Sequence[Found], conditions: Conditions) -> Policy:
    """A policy with new measurements of a model; those of others stay if their conditions are the same."""
    before = policy.conditions
    same = before is not None and all(
        getattr(before, name) == getattr(conditions, name) for name in ("machine", "versions", "unit")
    )
    passes = []
    for choice in policy.passes:
        known = [measured for measured in choice.measured if same and measured.model != model]
        unchanged = [name for name in choice.unchanged if same and name != model]
        mine = [item.measured for item in found if item.choice == choice.name]
        known += [measured for measured in mine if measured is not None]
        unchanged += [model] * (None in mine)
        passes.append(replace(choice, measured=tuple(known), unchanged=tuple(unchanged)))
    return Policy(tuple(passes), conditions)


def conditions(target: str, models: Sequence[str], unit: str, protocol: str) -> Conditions:
    """Where and with what models are measured now, and the command that does it, with the arguments ``protocol``."""
    needs = get_exporter(target).requirements()
    return Conditions(
        machine=f"{CPU}, emulated" if unit == INSTRUCTIONS else machine(),
        date=datetime.now(UTC).date().isoformat(),
        threads=1,
        versions={need.name: need.found.split(", ")[-1] for need in needs if need.found is not None},
        command=f"python -m deploy_kit.benchmarks.suites.policies --targets {target} --models {' '.join(models)} "
        f"{protocol} --write",
        unit=unit,
    )


def report(found: Sequence[Found], unit: str) -> None:
    """Print a table a target: how many times faster each model is with each pass."""
    print_line(f"machine: {CPU if unit == INSTRUCTIONS else machine()}, threads: 1")
    for target in dict.fromkeys(item.target for item in found):
        mine = [(item.choice, item.on, item.measured) for item in found if item.target == target and item.measured]
        models = list(dict.fromkeys(measured.model for _, _, measured in mine))
        cells = {(name, measured.model): measured for name, _, measured in mine}
        rows = [
            (name, "on" if on else "off", *(_text(cells.get((name, model))) for model in models))
            for name, on in dict.fromkeys((name, on) for name, on, _ in mine)
        ]
        print_table(f"{target}: {TIMES[unit]} with the pass than without", ["pass", "policy", *models], rows)


def _text(measured: Measured | None) -> str | None:
    return None if measured is None else f"{measured.faster:.2f} ({measured.lowest:.2f} to {measured.highest:.2f})"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DeployKitError as error:
        sys.exit(f"error: {error}\n  fix: {error.fix}")
