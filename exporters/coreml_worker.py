"""The part of the coreml target that calls coremltools, and CoreML on a Mac, in a process of its own.

``python -P coreml_worker.py JOB RESULT``: JOB and RESULT are JSON files. ``-P`` keeps this folder off the path.
Before each step the worker writes what its failure would be into the file that the job calls ``outcome``: it
is there to read when the worker has crashed.
"""

from __future__ import annotations

import io
import json
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from torch import Tensor

from deploy_kit.exporters import coreml_device
from deploy_kit.exporters.coreml_compression import PALETTE_BITS
from deploy_kit.exporters.coreml_conversion import FailsAs, write_package
from deploy_kit.exporters.mil.interpreter import execute
from deploy_kit.exporters.mil.package import load_package
from deploy_kit.exporters.mil.registry import UnsupportedOperatorError
from deploy_kit.outcome import Outcome


def convert(job: dict[str, Any], fails_as: FailsAs) -> dict[str, Any]:
    """Write a saved program as a package, and say what is in it."""
    fails_as(Outcome.EXPORT_FAILED)
    converted = write_package(
        torch.export.load(job["program"]),
        Path(job["package"]),
        ios=job["ios"],
        precision=job["precision"],
        compression=job["compress"],
        image=job["image"],
        samples=torch.load(job["samples"], weights_only=True),
        fails_as=fails_as,
    )
    return asdict(converted)


def run(job: dict[str, Any], fails_as: FailsAs) -> dict[str, Any]:
    """Execute a package on every case; one that the interpreter does not know is said to be ``unsupported``."""
    fails_as(Outcome.LOAD_FAILED)
    function = load_package(Path(job["package"]))
    fails_as(Outcome.RUN_FAILED)
    result = {"coremltools": version("coremltools"), "unsupported": None}
    try:
        cases = torch.load(job["inputs"], weights_only=True)
        save_outputs([execute(function, case) for case in cases], Path(job["outputs"]))
    except UnsupportedOperatorError as error:
        result["unsupported"] = str(error)
    return result


def predict(job: dict[str, Any], fails_as: FailsAs) -> dict[str, Any]:
    """Run a package in CoreML itself, on every case."""
    fails_as(Outcome.LOAD_FAILED)
    model = coreml_device.load(Path(job["package"]))
    fails_as(Outcome.RUN_FAILED)
    cases = torch.load(job["inputs"], weights_only=True)
    save_outputs([coreml_device.predict(model, case) for case in cases], Path(job["outputs"]))
    return {}


def plan(job: dict[str, Any], fails_as: FailsAs) -> dict[str, Any]:
    """Where CoreML would run each operator of a package."""
    fails_as(Outcome.LOAD_FAILED)
    return {"plan": coreml_device.plan_of(coreml_device.load(Path(job["package"])))}


def save_outputs(outputs: list[list[Tensor]], path: Path) -> None:
    """Write outputs for ``torch.load``; from Python, because torch's own writer aborts where the disk is full."""
    buffer = io.BytesIO()
    torch.save(outputs, buffer)
    path.write_bytes(buffer.getvalue())


JOBS = {"convert": convert, "run": run, "predict": predict, "plan": plan}


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    if job.get("compress") not in PALETTE_BITS:  # else coremltools imports it only to say that it is too new
        sys.modules["sklearn"] = None  # type: ignore[assignment]  # so that an import of it fails
    try:
        result = JOBS[job["do"]](job, lambda outcome: _keep(outcome, Path(job["outcome"])))
    except Exception as error:  # many types come out of coremltools; the user needs the reason alone
        lines = str(error).strip().splitlines()
        raise SystemExit(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__) from None
    Path(sys.argv[2]).write_text(json.dumps(result))


def _keep(outcome: Outcome, file: Path) -> None:
    file.write_text(outcome)


if __name__ == "__main__":
    main()
