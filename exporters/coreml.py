"""``coreml``: an ``.mlpackage`` for Apple's CoreML, proven by CoreML on a Mac, and elsewhere by an interpreter."""

from __future__ import annotations

import importlib.util
import io
import sys
import tempfile
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor, fx

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
    save_inputs,
)
from deploy_kit.exporters.coreml_compression import LEAST_IOS, Kind, with_rounded_weights
from deploy_kit.exporters.coreml_device import macos_for, notes_on, summarize
from deploy_kit.exporters.coreml_image import takes_pixels, to_planes, with_planes
from deploy_kit.fusion import Policy
from deploy_kit.graph import Graph
from deploy_kit.outcome import Outcome
from deploy_kit.parity.compare import Precision
from deploy_kit.parity.inputs import make_cases
from deploy_kit.precision import Lowered, Scheme, lower, simulated
from deploy_kit.preprocessing import Preprocessing
from deploy_kit.stages import Stages
from deploy_kit.worker import WorkerError, run_worker

FILE = "model.mlpackage"
WORKER = Path(__file__).with_name("coreml_worker.py")
INSTALL = "pip install 'deploy-kit[coreml]'"
CONVERSION_LIMIT, RUNNING_LIMIT = 1800, 600
"""Seconds until a worker is ended; palettes of a large model take minutes to find."""

STARTED = {
    "convert": Outcome.EXPORT_FAILED,
    "run": Outcome.LOAD_FAILED,
    "predict": Outcome.LOAD_FAILED,
    "plan": Outcome.LOAD_FAILED,
}
"""What each job's failure is before its first step."""

SCHEME = Scheme(symmetric=True)
"""Activations with their zero at 0, as coremltools itself makes them for the Neural Engine."""

INT8_IOS = 17


class CoreMLOptions(PrecisionOptions):
    """``ios`` is the oldest system that has to load the model (15, or 17 for int8); ``precision`` what it computes in.

    fp16 is CoreML's own default: the Neural Engine computes in little else. With int8, layers read and return int8,
    and the rest is fp16. ``compress`` makes the weights smaller, and not what is computed with them: int8, or indices
    of so many bits into a palette for each tensor.
    """

    ios: int = Field(default=15, ge=15, le=18)
    precision: Precision = "fp16"
    compress: Kind | None = None

    @model_validator(mode="before")
    @classmethod
    def _default_ios(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {"ios": INT8_IOS, **given} if given.get("precision") == "int8" else given

    @field_validator("compress")
    @classmethod
    def _is_in_mil(cls, kind: Kind | None, given: ValidationInfo) -> Kind | None:
        if kind is not None and given.data.get("ios", LEAST_IOS) < LEAST_IOS:
            raise PydanticCustomError("ios", f"CoreML loads compressed weights from iOS {LEAST_IOS} on: add --ios 16")
        if kind is not None and given.data.get("precision") == "int8":
            raise PydanticCustomError("precision", "the weights of --precision int8 are int8 already: leave it out")
        return kind

    @field_validator("ios")
    @classmethod
    def _computes_in_int8(cls, ios: int, given: ValidationInfo) -> int:
        if given.data.get("precision") == "int8" and ios < INT8_IOS:
            raise PydanticCustomError("ios", f"CoreML computes in int8 from iOS {INT8_IOS} on: add --ios {INT8_IOS}")
        return ios

    @field_validator("keep_fp32")
    @classmethod
    def _is_not_audited(cls, modules: tuple[str, ...], given: ValidationInfo) -> tuple[str, ...]:
        if given.data.get("precision") == "fp16" and modules:
            raise PydanticCustomError("keep_fp32", "the range audit chooses what fp16 leaves in float32: leave it out")
        return modules


class CoreML(Exporter):
    """Convert with coremltools, and prove the saved package: in CoreML on a Mac, elsewhere in our interpreter."""

    name: ClassVar[str] = "coreml"
    summary: ClassVar[str] = "CoreML (.mlpackage), for iPhone, iPad and Mac"
    options_type: ClassVar[type[Options]] = CoreMLOptions

    def requirements(self) -> list[Requirement]:
        try:
            found = version("coremltools")
        except PackageNotFoundError:
            found = None
        return [Requirement("coremltools", found, "conversion, and reading packages for the proof", INSTALL)]

    def policy(self, options: CoreMLOptions) -> Policy:
        policy = packaged_policy("coreml.npu")
        return policy if options.ios >= 18 else policy.toggled("decompose_attention")

    def precision(self, options: CoreMLOptions) -> Precision:
        return options.precision if options.compress is None else "int8"

    def stored_type(self, dtype: torch.dtype) -> torch.dtype:
        return torch.int32 if dtype == torch.int64 else dtype  # CoreML has no wider integers

    def lower(self, graph: Graph, options: CoreMLOptions) -> Lowered:
        if options.precision != "int8":
            return Lowered(graph)
        return lower(graph, "int8", SCHEME, options.keep_fp32, auto_mixed=options.auto_mixed)

    def simulated(self, graph: Graph, options: CoreMLOptions) -> Graph | None:
        return simulated(
            with_rounded_weights(graph, options.compress) if options.compress else graph, options.precision
        )

    def export(self, graph: Graph, folder: Path, options: CoreMLOptions, stages: Stages) -> Exported:
        require_coremltools()
        image = takes_pixels(graph)
        distinct, order = distinct_outputs(with_planes(graph) if image else graph)
        measured = options.precision != "fp32" or options.compress is not None
        with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
            program, samples = Path(scratch, "program.pt2"), Path(scratch, "samples.pt")
            with stages.stage("export the fused graph"):
                save_program(distinct, program)
            save_inputs([to_planes(sample) for sample in audit_samples(graph)] if measured else [], samples)
            job = {
                "do": "convert",
                "program": str(program),
                "samples": str(samples),
                "package": str(folder / FILE),
                "image": image,
                **options.model_dump(include={"ios", "precision", "compress"}),
            }
            with stages.stage(conversion_stage(options)):
                converted = work(job, "coremltools cannot convert the graph", CONVERSION_LIMIT)
        details = {
            "output_order": order,
            "unknown_operators": converted["unknown_operators"],
            **converted["details"],
        }
        notes: list[str] = converted["notes"]
        if macos_for(options.ios) is not None:
            with stages.stage("ask CoreML where each operator would run"):
                planned, told = compute_plan(folder / FILE)
            details |= planned
            notes += told
        elif converted["unknown_operators"]:
            unknown = ", ".join(converted["unknown_operators"])
            notes.append(f"not verified: the reference interpreter does not know {unknown}")
        if image:
            notes.append("the input is an image, not a tensor: CoreML has none of uint8")
        if len(set(order)) < len(order):
            notes.append("a tensor that the model returns more than once is one output of the package")
        return Exported(
            FILE,
            operators=converted["operators"],
            toolchain={"torch": torch.__version__, "coremltools": converted["coremltools"]},
            details=details,
            notes=notes,
        )

    def run(
        self, file: Path, inputs: Sequence[tuple[Tensor, ...]], options: CoreMLOptions, details: dict[str, Any]
    ) -> Ran:
        require_coremltools()
        macos = macos_for(options.ios)
        with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
            given, returned = Path(scratch, "inputs.pt"), Path(scratch, "outputs.pt")
            save_inputs([to_planes(case) for case in inputs], given)
            job = {"package": str(file), "inputs": str(given), "outputs": str(returned)}
            if macos is not None:
                work({"do": "predict", **job}, "CoreML failed")
                runtime = f"CoreML on macOS {macos}"
            else:
                result = work({"do": "run", **job}, "the reference interpreter failed")
                if result["unsupported"] is not None:
                    return Ran(None, UNVERIFIED, result["unsupported"])
                runtime = f"MIL reference interpreter (coremltools {result['coremltools']})"
            cases: list[list[Tensor]] = torch.load(returned, weights_only=True)
        outputs = [[case[index] for index in details["output_order"]] for case in cases]
        return Ran(outputs, runtime)


def conversion_stage(options: CoreMLOptions) -> str:
    """What the conversion is announced as."""
    audit = "audit the range of fp16 and " if options.precision != "fp32" else ""
    compression = f", with weights as {options.compress}" if options.compress is not None else ""
    return f"{audit}convert to CoreML{compression}"


def compute_plan(package: Path) -> tuple[dict[str, Any], list[str]]:
    """Where CoreML on this Mac would run a package's operators, for the manifest, and what the user must know of it.

    A plan is only information: where CoreML has none (before macOS 14.4), that is noted.
    """
    try:
        plan = work({"do": "plan", "package": str(package)}, "CoreML gives no compute plan")["plan"]
    except ExportError as error:
        return {}, [str(error)]
    return {"compute_plan": summarize(plan)}, notes_on(plan)


def require_coremltools() -> None:
    """Raise `MissingDependencyError` where coremltools is not installed."""
    if importlib.util.find_spec("coremltools") is None:
        raise MissingDependencyError("the target coreml needs coremltools, which is not installed", fix=INSTALL)


def distinct_outputs(graph: Graph) -> tuple[Graph, list[int]]:
    """A graph that returns each tensor once, because a CoreML model names its outputs by their tensors.

    Returns:
        The graph, flat, and for each of the original outputs its index among those of the new one.

    Raises:
        ExportError: an output is an input, which CoreML cannot name twice.
    """
    copied = graph.copy()
    output = next(node for node in copied.nodes if node.op == "output")
    returned: list[fx.Node] = []
    fx.node.map_arg(output.args, returned.append)
    for node in returned:
        if node.op != "call_function":
            raise ExportError(
                f"the model returns its input or a constant ({node.name}) as it is, which CoreML cannot",
                fix="leave it out of the model's outputs",
            )
    distinct = list(dict.fromkeys(returned))
    output.args = (tuple(distinct),)
    copied.module.graph.set_codegen(fx.graph.CodeGen())
    copied.module.recompile()
    return copied, [distinct.index(node) for node in returned]


def audit_samples(graph: Graph) -> list[tuple[Tensor, ...]]:
    """Inputs to measure ranges and losses on: those that the graph is to be calibrated on, or else photographs where
    it looks as if it took images; and noise, which the proof will use as well."""
    if any(x.dtype in (torch.int32, torch.int64) for x in graph.example_inputs):  # noise is no index
        return list(graph.calibration or (graph.example_inputs,))
    shapes = [tuple(x.shape) for x in graph.example_inputs]
    preprocessing = _guess(graph) if not graph.calibration or takes_pixels(graph) else None
    return [*graph.calibration, *(case.inputs for case in make_cases(shapes, preprocessing))]


def _guess(graph: Graph) -> Preprocessing | None:
    """The preprocessing of the images that a graph looks as if it took; embedded where it takes pixels."""
    shape = tuple(graph.example_inputs[0].shape)
    if takes_pixels(graph):
        _, height, width, channels = shape
        color: Literal["RGB", "L"] = "RGB" if channels == 3 else "L"
        return Preprocessing(color=color, resize=max(height, width), crop=(height, width), layout="NHWC", embedded=True)
    return Preprocessing.for_input(shape) if len(graph.example_inputs) == 1 else None


def save_program(graph: Graph, path: Path) -> None:
    """Write a graph as a ``.pt2`` program; raises `ExportError` where ``torch.export`` refuses it.

    From Python: torch's own writer aborts the process where the disk is full.
    """
    buffer = io.BytesIO()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.save(torch.export.export(graph.module, graph.example_inputs), buffer)
    except Exception as error:  # torch.export raises many types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(f"the fused graph cannot be exported: {reason}") from error
    path.write_bytes(buffer.getvalue())


def work(job: dict[str, Any], purpose: str, limit: float | None = None) -> dict[str, Any]:
    """Do one of the worker's jobs; raises `ExportError` with its last words, and the outcome of the step it was in.

    The worker's temporary files are gone afterwards, those of coremltools too, however it ended.
    """
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
        outcome = Path(scratch, "outcome")
        try:
            return run_worker(
                [sys.executable, "-P", WORKER],
                {**job, "outcome": str(outcome)},
                timeout=limit or RUNNING_LIMIT,
                environment={"TMPDIR": scratch},
            )
        except WorkerError as error:
            reached = outcome.read_text() if outcome.is_file() else ""
            found = Outcome(reached) if reached else STARTED[job["do"]]
            raise ExportError(f"{purpose}: {error}", outcome=found) from error
