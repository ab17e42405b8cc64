"""``openvino``: OpenVINO's ``.xml`` and ``.bin`` for Intel processors; the example of docs/writing-a-target.md."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from deploy_kit.errors import ExportError, MissingDependencyError
from deploy_kit.exporters.base import (
    Exported,
    Exporter,
    Options,
    PrecisionOptions,
    Ran,
    Requirement,
    packaged_policy,
)
from deploy_kit.exporters.onnx_file import check, convert, load_outputs, save_inputs
from deploy_kit.fusion import Policy
from deploy_kit.graph import Graph
from deploy_kit.outcome import Outcome
from deploy_kit.precision import Lowered, Scheme, lower
from deploy_kit.stages import Stages
from deploy_kit.worker import WorkerError, run_worker

FILE = "model.xml"
OPSET = 20
WORKER = Path(__file__).with_name("openvino_worker.py")
INSTALL = "pip install 'deploy-kit[openvino]'"


class OpenVINO(Exporter):
    """Convert by way of ONNX, and prove in OpenVINO on this processor, with float32 forced."""

    name: ClassVar[str] = "openvino"
    summary: ClassVar[str] = "OpenVINO (.xml and .bin), for Intel processors"
    options_type: ClassVar[type[Options]] = PrecisionOptions

    def requirements(self) -> list[Requirement]:
        return [Requirement("openvino", find_openvino(), "conversion, and the proof", INSTALL)]

    def policy(self, options: Options) -> Policy:
        return packaged_policy("openvino.cpu")

    def lower(self, graph: Graph, options: PrecisionOptions) -> Lowered:
        return lower(graph, options.precision, Scheme(), options.keep_fp32, auto_mixed=options.auto_mixed)

    def export(self, graph: Graph, folder: Path, options: Options, stages: Stages) -> Exported:
        installed = _require()
        with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
            source = Path(scratch, "model.onnx")
            with stages.stage("convert to ONNX"):
                convert(graph, source, OPSET)
                check(source)
            with stages.stage("convert to OpenVINO"):
                job = {"do": "convert", "onnx": str(source), "target": str(folder / FILE)}
                operators = work(job, Outcome.LOWER_FAILED)["operators"]
        toolchain = {name: version(name) for name in ("torch", "onnx", "onnxscript")} | {"openvino": installed}
        return Exported(FILE, operators, toolchain=toolchain, details={"opset": OPSET})

    def run(self, file: Path, inputs: Sequence[tuple[Tensor, ...]], options: Options, details: dict[str, Any]) -> Ran:
        installed = _require()
        with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
            given, outputs = save_inputs(inputs, Path(scratch)), Path(scratch, "outputs.npz")
            job = {"do": "run", "model": str(file), "inputs": str(given), "outputs": str(outputs), "cases": len(inputs)}
            work(job, Outcome.RUN_FAILED)
            return Ran(load_outputs(outputs, len(inputs)), f"openvino {installed} (CPU, f32)")


def find_openvino() -> str | None:
    """The version that is installed; None where it is not."""
    try:
        return version("openvino")
    except PackageNotFoundError:
        return None


def _require() -> str:
    installed = find_openvino()
    if installed is None:
        raise MissingDependencyError("the target openvino needs openvino, which is not installed", fix=INSTALL)
    return installed


def work(job: dict[str, Any], outcome: Outcome) -> dict[str, Any]:
    """Do one of the worker's jobs; raises `ExportError` with its last words."""
    try:
        return run_worker([sys.executable, "-P", WORKER], job, timeout=600)
    except WorkerError as error:
        if "the file cannot be loaded" in str(error):
            outcome = Outcome.LOAD_FAILED
        raise ExportError(f"openvino could not {job['do']} the model: {error}", outcome=outcome) from error
