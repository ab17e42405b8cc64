"""One cell, in a process of its own.

``python -P -m deploy_kit.cells.start JOB RESULT`` runs it: JOB and RESULT are JSON files. The job has a ``cell``, a
``folder`` for the artifact, a file for the ``references`` that cells of one model share (or None), a file of labelled
inputs for the ``accuracy`` (or None), whether ``instructions`` are counted, and a ``limit`` in seconds, after which
the cell ends itself, with what it started. The result is that of `deploy_kit.cells.result.CellResult`, less the cell.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from deploy_kit.api import Expected, build, expect, parse_options
from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.harness import example_inputs, record_of
from deploy_kit.benchmarks.instructions import count_instructions
from deploy_kit.benchmarks.native import build_runner
from deploy_kit.cells.recipe import CellSpec
from deploy_kit.cells.result import GOOD
from deploy_kit.errors import DeployKitError, UserError
from deploy_kit.exporters import get_exporter
from deploy_kit.exporters.base import Exporter, Options, save_tensors
from deploy_kit.manifest import MANIFEST, Manifest
from deploy_kit.outcome import Outcome
from deploy_kit.parity.inputs import Case
from deploy_kit.parity.reference import Reference
from deploy_kit.sources import LoadedModel, load_model
from deploy_kit.stages import Stages


class TimeUpError(BaseException):
    """The limit has passed; no handler of plain exceptions catches it on the way."""


def attempt(cell: CellSpec, folder: Path, kept: Path | None, data: Path | None, *, count: bool) -> dict[str, Any]:
    """Export a cell into ``folder`` and say what came of it; the folder is empty where nothing may be shipped."""
    stages = Stages()
    try:
        with stages.stage("load the model"):
            exporter, loaded = get_exporter(cell.target), load_model(cell.model, **cell.of_model.model_dump())
            options = parse_options(exporter, cell.options)
        expected = references(loaded, exporter, options, kept, stages)
        manifest = build(loaded, exporter, options, folder, stages, expected=expected)
    except DeployKitError as error:
        outcome = getattr(error, "outcome", Outcome.EXPORT_FAILED)
        return {
            "outcome": outcome,
            "reason": " ".join(str(error).split()),
            "toolchain": _toolchain(),
            "stages": _seconds(stages),
        }
    result = _described(manifest)
    if manifest.outcome in GOOD:
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        artifact = Artifact(folder, manifest)
        result |= {"bytes": artifact.size, "sha256": record_of(artifact).sha256}
        result |= _asked(artifact, exporter, options, data, stages, count=count)
    return {**result, "stages": _seconds(stages)}


def _described(manifest: Manifest) -> dict[str, Any]:
    proof = manifest.proof if manifest.proof.source is None else manifest.proof.source
    failures = "; ".join(manifest.proof.failures) if manifest.outcome in (Outcome.MISMATCH, Outcome.LOSSY) else None
    return {
        "outcome": manifest.outcome,
        "reason": failures,
        "snr_db": proof.snr_db,
        "noise_ratio": proof.noise_ratio,
        "max_relative_error": proof.max_relative_error,
        "top1_agreement": proof.top1_agreement,
        "operators": manifest.operators,
        "undelegated": manifest.details.get("placement", {}).get("undelegated"),
        "delegated_share": manifest.delegated_share,
        "toolchain": manifest.toolchain,
    }


def _asked(
    artifact: Artifact, exporter: Exporter, options: Options, data: Path | None, stages: Stages, *, count: bool
) -> dict[str, Any]:
    """The accuracy and the instructions, where they are asked for, or why they are not known."""
    found: dict[str, Any] = {}
    unavailable: dict[str, str] = {}
    if data is not None:
        try:
            with stages.stage("ask it labelled inputs"):
                found["accuracy"] = score(artifact, exporter, options, data)
        except DeployKitError as error:
            unavailable["accuracy"] = str(error)
    if count:
        try:
            with stages.stage("count its instructions"):
                found["instructions"] = _instructions(artifact)
        except DeployKitError as error:
            unavailable["instructions"] = str(error)
    return {**found, "unavailable": unavailable}


def score(artifact: Artifact, exporter: Exporter, options: Options, data: Path) -> dict[str, int]:
    """How many of the labelled inputs an artifact has right, run by its runtime.

    Raises:
        UserError: no such file, other tensors in it than ``inputs`` and ``labels``, or inputs of another shape.
        DeployKitError: nothing here can run the artifact.
    """
    try:
        tensors = load_file(data)
    except (OSError, SafetensorError) as error:
        raise UserError(f"the labelled inputs {str(data)!r} cannot be read: {error}") from error
    if set(tensors) != {"inputs", "labels"} or len(tensors["inputs"]) != len(tensors["labels"]):
        raise UserError(f"{str(data)!r} has not just the tensors 'inputs' and 'labels', one label an input")
    inputs, labels = tensors["inputs"], tensors["labels"]
    wanted = artifact.manifest.inputs[0].shape
    if list(inputs.shape[1:]) != wanted[1:]:
        raise UserError(f"the labelled inputs are {list(inputs.shape[1:])}, and the model takes {wanted[1:]}")
    ran = exporter.run(artifact.main_file, [(each,) for each in inputs.split(1)], options, artifact.manifest.details)
    if ran.outputs is None:
        raise DeployKitError(ran.reason or "nothing here can run it")
    classes = torch.cat([case[0].reshape(1, -1) for case in ran.outputs]).argmax(1)
    return {"right": int((classes == labels).sum()), "total": len(labels)}


def _instructions(artifact: Artifact) -> dict[str, Any]:
    inputs = example_inputs(artifact.manifest.inputs)
    runner = build_runner(artifact.manifest.target, "aarch64")
    counted = count_instructions(runner, artifact.main_file, inputs)
    return {"count": counted.counts[-1], "pins": counted.pins}


def references(
    loaded: LoadedModel, exporter: Exporter, options: Options, kept: Path | None, stages: Stages
) -> Expected | None:
    """What the model computes: from a file, or for a file that is not there; None where it is not the same for all."""
    if kept is None or exporter.precision(options) == "int8" or exporter.dynamic_batch(options):
        return None
    if kept.is_file():
        found = torch.load(kept, weights_only=True)
        cases = [Case(name, kind, inputs) for name, kind, inputs, _ in found]
        return Expected(cases, [Reference(*outputs) for *_, outputs in found])
    expected = expect(loaded, exporter, options, stages)
    whole = kept.with_name(f".{kept.name}-{os.getpid()}")
    pairs = zip(expected.cases, expected.references)
    save_tensors([(c.name, c.kind, c.inputs, (r.exact, r.eager)) for c, r in pairs], whole)
    os.replace(whole, kept)
    return expected


def _seconds(stages: Stages) -> dict[str, float]:
    found: dict[str, float] = {}
    for stage in stages.finished:
        found[stage.name] = found.get(stage.name, 0.0) + stage.seconds
    return found


def _toolchain() -> dict[str, str]:
    return {"deploykit": version("deploy-kit"), "torch": torch.__version__}


def _peak_kb() -> int:
    """The most memory that this process, or any that it waited for, had."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _stop(number: int, frame: FrameType | None) -> None:
    raise TimeUpError


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    signal.signal(signal.SIGALRM, _stop)
    signal.alarm(job["limit"])
    folder = Path(job["folder"])
    paths = [None if job[name] is None else Path(job[name]) for name in ("references", "accuracy")]
    cell = CellSpec.model_validate(job["cell"])
    try:
        result = attempt(cell, folder, *paths, count=job["instructions"])
    except TimeUpError:
        result = {"outcome": Outcome.TOO_SLOW, "toolchain": _toolchain()}
    signal.alarm(0)
    if result["outcome"] not in GOOD:
        shutil.rmtree(folder)
    Path(sys.argv[2]).write_text(json.dumps({**result, "peak_kb": _peak_kb()}))


if __name__ == "__main__":
    main()
