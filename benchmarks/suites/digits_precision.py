"""Every target and precision on real digits: accuracy, size and, where the runtime is here, latency.

    python -m deploy_kit.benchmarks.suites.digits_precision

The small EdgeViT that is trained on scikit-learn's digits is exported to each installed target in each
precision that it offers, calibrated on digits to train on, and asked for the 360 held out. The files of
one runtime are timed in turn, one inference each, at one thread, in several processes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import torch

from deploy_kit import load_model
from deploy_kit.api import export
from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.runtimes import TIMED, time_files
from deploy_kit.benchmarks.timing import Ratio, Rounds, Timing, machine, speedup, summarise
from deploy_kit.cli.console import format_bytes, print_line, print_table
from deploy_kit.errors import DeployKitError
from deploy_kit.exporters import get_exporter, list_targets
from deploy_kit.models.digits import Digits, count_right, load_digits_split, write_digit_images
from deploy_kit.parity.compare import Precision

MODEL = "edgevit_digits"
CALIBRATED_ON = 136


@dataclass(frozen=True)
class Result:
    """One target and precision; what could not be measured is None, and ``reason`` says why."""

    target: str
    precision: str
    outcome: str
    right: int | None
    points_lost: float | None
    bytes: int | None
    timing: Timing | None
    faster_than_fp32: Ratio | None
    reason: str | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table, or one JSON document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--targets", nargs="+", default=list_targets())
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    _, held_out = load_digits_split()
    right = count_right(load_model(MODEL).module, held_out)
    results = []
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
        write_digit_images(Path(scratch, "digits"), CALIBRATED_ON)
        for target in chosen.targets:
            results += measure_target(target, held_out, right, Path(scratch), chosen.processes, chosen.iterations)
    _report(results, right, len(held_out.labels), chosen.json)
    return 0


def measure_target(
    target: str, digits: Digits, eager: int, folder: Path, processes: int, iterations: int
) -> list[Result]:
    """A target's results, one a precision; ``eager`` is how many digits the model itself has right."""
    built: dict[str, Artifact | DeployKitError] = {}
    for precision in offered(target):
        try:
            built[precision] = build(target, precision, folder)
        except DeployKitError as error:
            built[precision] = error
    files = {name: artifact.main_file for name, artifact in built.items() if isinstance(artifact, Artifact)}
    rounds = None
    if target in TIMED and files:
        inputs = (digits.images[:1],)
        rounds = time_files(target, files, inputs, folder, processes=processes, iterations=iterations)
    return [_result(target, name, built[name], digits, eager, rounds) for name in built]


def offered(target: str) -> list[Precision]:
    """The precisions that a target can write."""
    field = get_exporter(target).options_type.model_fields.get("precision")
    return ["fp32"] if field is None else [name for name in get_args(Precision) if name in get_args(field.annotation)]


def build(target: str, precision: str, folder: Path) -> Artifact:
    """The proven artifact of a target in a precision, calibrated on digits."""
    fields = get_exporter(target).options_type.model_fields
    options = {"precision": precision} if "precision" in fields else {}
    if "calibration" in fields and precision != "fp32":
        options["calibration"] = str(folder / "digits")
    return export(MODEL, target, out=folder / precision, options=options, allow_lossy=True)


def count_artifact(artifact: Artifact, digits: Digits) -> tuple[int | None, str | None]:
    """How many digits an artifact has right, run by its runtime, or None and the reason."""
    exporter, manifest = get_exporter(artifact.manifest.target), artifact.manifest
    options = exporter.options_type.model_validate(manifest.options)
    ran = exporter.run(artifact.main_file, [(image,) for image in digits.images.split(1)], options, manifest.details)
    if ran.outputs is None:
        return None, ran.reason or "nothing here can run it"
    classes = torch.cat([case[0] for case in ran.outputs]).argmax(1)
    return int((classes == digits.labels).sum()), None


def _result(
    target: str,
    precision: str,
    built: Artifact | DeployKitError,
    digits: Digits,
    eager: int,
    rounds: Rounds | None,
) -> Result:
    if not isinstance(built, Artifact):
        outcome = str(getattr(built, "outcome", "export_failed"))
        return Result(target, precision, outcome, None, None, None, None, None, str(built))
    right, reason = count_artifact(built, digits)
    lost = None if right is None else 100 * (eager - right) / len(digits.labels)
    timing = summarise(rounds, precision) if rounds else None
    faster = speedup(rounds, precision, "fp32") if rounds and precision != "fp32" else None
    reason = reason or (None if rounds else "nothing here times this runtime")
    return Result(target, precision, built.manifest.outcome, right, lost, built.size, timing, faster, reason)


def _report(results: list[Result], eager: int, digits: int, as_json: bool) -> None:
    conditions = {"model": MODEL, "machine": machine(), "threads": 1, "digits": digits, "right in eager": eager}
    if as_json:
        print(json.dumps({"conditions": conditions, "results": [asdict(result) for result in results]}, indent=2))
        return
    print_line(", ".join(f"{name}: {value}" for name, value in conditions.items()))
    print_table(
        f"{digits} digits that the model was not trained on",
        ["target", "precision", "outcome", "right", "points lost", "size", "median, ms", "faster than fp32, times"],
        [
            (
                *(r.target, r.precision, r.outcome, r.right),
                None if r.points_lost is None else f"{r.points_lost:.1f}",
                None if r.bytes is None else format_bytes(r.bytes),
                None if r.timing is None else f"{r.timing.median_ms:.2f}",
                None if r.faster_than_fp32 is None else str(r.faster_than_fp32),
            )
            for r in results
        ],
    )
    for result in results:
        if result.reason:
            print_line(f"{result.target}, {result.precision}: {result.reason}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DeployKitError as error:
        sys.exit(f"error: {error}\n  fix: {error.fix}")
