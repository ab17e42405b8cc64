"""``tensorrt``: an engine for NVIDIA GPUs, by TensorRT on a machine with one, or by TensorRT-RTX ahead of time.

Both packages are proprietary, under NVIDIA's licence: they are optional, and nothing of them is copied here.
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import re
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

from pydantic import field_validator
from torch import Tensor

from deploy_kit.errors import ExportError, MissingDependencyError
from deploy_kit.exporters.base import (
    UNVERIFIED,
    Exported,
    Exporter,
    Options,
    PrecisionOptions,
    Ran,
    Requirement,
    packaged_policy,
)
from deploy_kit.exporters.onnx_file import check, convert, load_outputs, run_file, save_inputs
from deploy_kit.exporters.tensorrt_worker import NOT_LOADED
from deploy_kit.fusion import Policy
from deploy_kit.graph import Graph
from deploy_kit.outcome import Outcome
from deploy_kit.precision import Lowered, Scheme, lower
from deploy_kit.stages import Stages
from deploy_kit.worker import WorkerError, run_worker

FILE, ONNX = "model.engine", "model.onnx"
OPSET = 20
WORKER: tuple[str, ...] = ("-P", "-m", "deploy_kit.exporters.tensorrt_worker")
INSTALL = "pip install 'deploy-kit[tensorrt]'"
BUILDING_LIMIT, RUNNING_LIMIT = 1800, 600
"""Seconds until a worker is ended; TensorRT times many kernels while it builds."""

CLASSIC, RTX = "tensorrt", "tensorrt_rtx"
PROGRAMS = {CLASSIC: "trtexec", RTX: "tensorrt_rtx"}
"""The command-line program that comes with each package."""

SCHEME = Scheme(symmetric=True)
"""TensorRT's integer kernels know no zero point. The precision comes from the types in the ONNX, not from flags."""


class TensorRTOptions(PrecisionOptions):
    """``compute_capability`` names the GPUs to build for ahead of time, such as ``8.6,8.9``.

    Without it TensorRT builds for the GPU that is here, and TensorRT-RTX for all that it supports by default.
    """

    compute_capability: str | None = None

    @field_validator("compute_capability")
    @classmethod
    def _is_a_list(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"\d+\.\d(,\d+\.\d)*", value):
            raise ValueError("write compute capabilities as 8.6 or 8.6,8.9")
        return value

    @property
    def compute_capabilities(self) -> list[str]:
        """Each once, in the order that was given."""
        return list(dict.fromkeys((self.compute_capability or "").split(","))) if self.compute_capability else []


class TensorRT(Exporter):
    """Export to ONNX, ask TensorRT's parser what it supports, build the engine, and run it where a GPU is."""

    name: ClassVar[str] = "tensorrt"
    summary: ClassVar[str] = "TensorRT (.engine), for NVIDIA GPUs; TensorRT-RTX builds it without one"
    options_type: ClassVar[type[Options]] = TensorRTOptions

    def requirements(self) -> list[Requirement]:
        installed = find_packages()
        found = ", ".join(f"{name} {number}" for name, number in installed.items()) or None
        return [
            Requirement("tensorrt", found, "builds the engine (proprietary, under NVIDIA's licence)", INSTALL),
            Requirement(
                "CUDA driver",
                ctypes.util.find_library("cuda"),
                "runs the engine for its proof; without it the ONNX that went in is proven",
                "install NVIDIA's driver, on a machine with one of its GPUs",
                optional=True,
            ),
        ]

    def policy(self, options: TensorRTOptions) -> Policy:
        return packaged_policy("tensorrt.gpu")

    def lower(self, graph: Graph, options: TensorRTOptions) -> Lowered:
        return lower(graph, options.precision, SCHEME, options.keep_fp32, auto_mixed=options.auto_mixed)

    def export(self, graph: Graph, folder: Path, options: TensorRTOptions, stages: Stages) -> Exported:
        package = choose_package(options)
        with stages.stage("convert to ONNX"):
            convert(graph, folder / ONNX, OPSET)
        with stages.stage("check the ONNX"):
            operators = check(folder / ONNX)
        job = {
            "do": "build",
            "package": package,
            "onnx": str(folder / ONNX),
            "engine": str(folder / FILE),
            "compute_capabilities": options.compute_capabilities,
        }
        with stages.stage("build the engine"):
            built = work(job, "build the engine", Outcome.LOWER_FAILED, BUILDING_LIMIT)
        if built["unsupported"]:
            raise ExportError(_explain(built["unsupported"]), outcome=Outcome.LOWER_FAILED)
        details = {
            "package": package,
            "opset": OPSET,
            "unsupported": built["unsupported"],
            "layers": built["layers"],
            "command": command_line(package, options),
        }
        packages = ("torch", "onnx", "onnxscript", "onnxruntime")
        toolchain = {name: version(name) for name in packages} | {package: built["version"]}
        return Exported(FILE, operators, toolchain=toolchain, details=details)

    def run(
        self, file: Path, inputs: Sequence[tuple[Tensor, ...]], options: TensorRTOptions, details: dict[str, Any]
    ) -> Ran:
        if details["package"] not in find_packages():
            raise _missing(details["package"])
        with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
            outputs = Path(scratch, "outputs.npz")
            job = {
                "do": "run",
                "package": details["package"],
                "engine": str(file),
                "compute_capabilities": options.compute_capabilities,
                "inputs": str(save_inputs(inputs, Path(scratch))),
                "outputs": str(outputs),
                "cases": len(inputs),
            }
            result = work(job, "run the engine", Outcome.RUN_FAILED, RUNNING_LIMIT)
            if result["device"] is None:
                return Ran(None, UNVERIFIED, result["reason"], source=run_file(file.with_name(ONNX), inputs))
            cases = load_outputs(outputs, len(inputs))
        return Ran(cases, f"{details['package']} {result['version']} ({result['device']})")


def find_packages() -> dict[str, str]:
    """The packages that are installed, by module, with their versions."""
    return {name: _version(name) for name in (CLASSIC, RTX) if importlib.util.find_spec(name) is not None}


def _version(module: str) -> str:
    try:
        return version(module.replace("_", "-"))
    except PackageNotFoundError:  # NVIDIA's containers and JetPack bring the module without its metadata
        return "(version unknown)"


def choose_package(options: TensorRTOptions) -> str:
    """The module to build with: TensorRT-RTX for named GPUs, else whichever is installed, TensorRT first."""
    installed = find_packages()
    usable = [RTX] if options.compute_capabilities else [CLASSIC, RTX]
    chosen = next((name for name in usable if name in installed), None)
    if chosen is None:
        raise _missing(usable[-1])
    return chosen


def _missing(package: str) -> MissingDependencyError:
    return MissingDependencyError(f"the target tensorrt needs {package}, which is not installed", fix=INSTALL)


def work(job: dict[str, Any], purpose: str, outcome: Outcome, limit: float) -> dict[str, Any]:
    """Do one of the worker's jobs; raises `ExportError` with its last words."""
    try:
        return run_worker([sys.executable, *WORKER], job, timeout=limit)
    except WorkerError as error:
        if NOT_LOADED in str(error):
            outcome = Outcome.LOAD_FAILED
        raise ExportError(f"{job['package']} could not {purpose}: {error}", outcome=outcome) from error


def _explain(unsupported: list[dict[str, str]]) -> str:
    listed = "; ".join(f"{entry['operator']} ({entry['node']}): {entry['reason']}" for entry in unsupported[:3])
    return f"TensorRT's parser does not support {len(unsupported)} of the operators: {listed}"


def command_line(package: str, options: TensorRTOptions) -> str:
    """What builds the same engine with the package's own program, in the artifact's folder."""
    words = [PROGRAMS[package], f"--onnx={ONNX}", f"--saveEngine={FILE}", "--noTF32", "--skipInference"]
    if package == CLASSIC:
        words.append("--stronglyTyped")
    if options.compute_capabilities:
        listed = ",".join(name.replace(".", "") for name in options.compute_capabilities)
        words.append(f"--computeCapabilities={listed}")
    return " ".join(words)
