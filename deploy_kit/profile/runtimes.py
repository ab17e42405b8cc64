"""The profilers of the runtimes: each target's file, timed operator by operator in a process of its own."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy_kit.artifact import Artifact
from deploy_kit.errors import ExportError, MissingDependencyError, UserError
from deploy_kit.exporters.base import Exporter, save_inputs
from deploy_kit.graph import Graph
from deploy_kit.outcome import Outcome
from deploy_kit.profile.attribution import Attribution, Work, by_dataflow, onnx_origins
from deploy_kit.profile.bytecode import UnknownCodeError, read_code
from deploy_kit.profile.kinds import Kind, classify
from deploy_kit.worker import WorkerError, run_worker

LIMIT = 600
"""Seconds until a worker is ended."""

WARMUP = 3

NO_PROFILER = {
    "executorch": "its Python package is built without the event tracer (ETDump) that would time operators",
    "coreml": "it runs on Apple's devices alone, whose profiler is Xcode's",
    "tensorrt": "an engine is timed layer by layer on its GPU alone, with NVIDIA's own tools",
}
"""Why a target cannot be profiled."""

GENERATED = "Subgraph"
"""OpenVINO's name of code that it generated for several layers."""

IN_PLACE = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
"""Operators of which onnxruntime gives the output the memory of the input: they move nothing."""

FOLLOWED = (
    "the mobile interpreter's profiler tells names and times alone: modules, multiply-accumulates and bytes are those "
    "of the fused graph's calls that the file's code leads to, and bytes of layout operators are not known"
)


@dataclass(frozen=True)
class OperatorTime:
    """One operator of the runtime, or several of one name that are not told apart, in one inference.

    ``module`` is the module of the original model (empty for the model itself), None where it is not known; so are
    ``macs`` and ``bytes``. ``ms`` is the median over the inferences, or in OpenVINO their mean.
    """

    operator: str
    module: str | None
    kind: Kind
    calls: int
    ms: float
    macs: int | None
    bytes: int | None


@dataclass(frozen=True)
class Timed:
    """What a runtime's profiler said: its operators, and the median of whole inferences without and with it, in ms."""

    runtime: str
    operators: list[OperatorTime]
    plain_ms: float
    profiled_ms: float
    notes: list[str]


def require_profiler(exporter: Exporter) -> None:
    """Raise `MissingDependencyError` where a target cannot be profiled here."""
    if exporter.name not in PROFILED:
        reason = NO_PROFILER.get(exporter.name, "deploykit knows no profiler of its runtime")
        raise MissingDependencyError(
            f"the target {exporter.name} cannot be profiled: {reason}",
            fix=f"profile the model on {' or '.join(PROFILED)}",
        )
    for need in exporter.requirements():
        if need.found is None and not need.optional:
            raise MissingDependencyError(
                f"the target {exporter.name} needs {need.name}, which is not installed", fix=need.install
            )


def time_operators(
    artifact: Artifact, graph: Graph, exporter: Exporter, options: Any, threads: int, iterations: int
) -> Timed:
    """Time an artifact's operators on the inputs that its graph was captured with.

    Raises:
        ExportError: the runtime did not load or run the file.
        UserError: the runtime that the file needs is not here.
    """
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
        job = {"do": "profile", "threads": threads, "warmup": WARMUP, "iterations": iterations}
        return PROFILED[exporter.name](artifact, graph, exporter, options, job, Path(scratch))


def _onnxruntime(
    artifact: Artifact, graph: Graph, exporter: Exporter, options: Any, job: dict[str, Any], scratch: Path
) -> Timed:
    from deploy_kit.exporters import onnx, onnx_file
    from deploy_kit.exporters.onnx_opset import nearest

    job |= {
        "model": str(artifact.main_file),
        "graph": str(artifact.folder / onnx.FILE),
        "trace": str(scratch / "trace"),
    }
    job["inputs"] = str(onnx_file.save_inputs([graph.example_inputs], scratch))
    result = onnx_file.work(job, "onnxruntime could not profile the file", Outcome.RUN_FAILED)
    found = _attributed("onnx", result, graph, nearest(options.opset))
    precise = exporter.precision(options) == "fp32"
    return _timed(result, [each.operator(_onnx_bytes(each, precise=precise)) for each in found])


def _onnx_bytes(found: _Found, *, precise: bool) -> int | None:
    """Bytes of an operator. Weights that onnxruntime has packed are not among those that it tells of.

    Then they are the graph's, which are as large only if they are ``precise``: in float32.
    """
    if found.timed["operator"] in IN_PLACE:
        return 0
    if found.kind != "compute":
        return found.timed["bytes"] + found.timed["parameter_bytes"]
    if not found.works or not precise:
        return None
    return found.timed["bytes"] + sum(work.parameter_bytes for work in found.works)


def _openvino(
    artifact: Artifact, graph: Graph, exporter: Exporter, options: Any, job: dict[str, Any], scratch: Path
) -> Timed:
    from deploy_kit.exporters import onnx_file, openvino

    job |= {"model": str(artifact.main_file), "float32": exporter.precision(options) == "fp32"}
    job["inputs"] = str(onnx_file.save_inputs([graph.example_inputs], scratch))
    result = openvino.work(job, Outcome.RUN_FAILED)
    found = _attributed("openvino", result, graph, openvino.OPSET)
    notes = ["OpenVINO's counters tell means, so the operators' times are those, and not medians"]
    return _timed(result, [each.operator(each.timed["bytes"]) for each in found], notes)


def _mobile_interpreter(
    artifact: Artifact, graph: Graph, exporter: Exporter, options: Any, job: dict[str, Any], scratch: Path
) -> Timed:
    from deploy_kit.exporters.mobile import interpreter as mobile

    interpreter = mobile.find_interpreter(options.mobile_python)
    if artifact.manifest.details.get("prepacked") and not interpreter.xnnpack:
        raise UserError("this .ptl is prepacked, and no interpreter here has XNNPACK to run it", fix=mobile.FIX)
    job |= {"target": str(artifact.main_file), "inputs": str(scratch / "inputs.pt")}
    save_inputs([graph.example_inputs], scratch / "inputs.pt")
    environment = {} if interpreter.python == sys.executable else mobile.system_environment(job["threads"])
    try:
        command: list[str | Path] = [interpreter.python, "-s", mobile.WORKER]
        result = run_worker(command, job, timeout=LIMIT, environment=environment)
    except WorkerError as error:
        outcome = Outcome.LOAD_FAILED if "the file cannot be loaded" in str(error) else Outcome.RUN_FAILED
        raise ExportError(f"{interpreter.description} could not profile the .ptl: {error}", outcome=outcome) from error
    called = [call["operator"] for call in result["calls"]]
    found: list[Work | None] = [None] * len(called)
    note = FOLLOWED
    try:
        found = _works_of_calls(artifact.main_file, graph, called)
    except UnknownCodeError as error:
        note = (
            f"no modules, and no multiply-accumulates of single operators: the file's code cannot be followed, {error}"
        )
    precise = exporter.precision(options) == "fp32"
    operators = [
        operator
        for call, work in zip(result["calls"], found)
        for operator in _of_call(call["operator"], call["parts"], work, precise=precise)
    ]
    return _timed({**result, "runtime": interpreter.description}, operators, [note])


def _works_of_calls(file: Path, graph: Graph, called: list[str]) -> list[Work | None]:
    """The call of the graph that each of the interpreter's calls computes.

    Raises:
        UnknownCodeError: the file does not tell.
    """
    code = read_code(file)
    if [call.operator for call in code.calls] != called:
        raise UnknownCodeError("the interpreter called other operators")
    return by_dataflow(code, graph)


def _of_call(name: str, parts: list[dict[str, Any]], work: Work | None, *, precise: bool) -> list[OperatorTime]:
    """One call of the mobile interpreter: all in it that is of its own kind as one operator, then the others.

    That one has the arithmetic and the bytes of the call of the graph; the graph's are as large only if ``precise``:
    in float32. A rearrangement moves them or does not, which is not told.
    """
    module = work.module if work else None
    kind = classify("torchscript-lite", name)
    own = [part["us"] for part in parts if _lite_kind(part) == kind]
    macs = work.macs if work else None if kind == "compute" else 0
    moved = work.bytes if work and precise and kind != "layout" else None
    whole = [sum(turn) for turn in zip(*own)]
    operators = [OperatorTime(name, module, kind, 1, statistics.median(whole) / 1000, macs, moved)]
    for part in parts:
        other, ms = _lite_kind(part), statistics.median(part["us"]) / 1000
        if other != kind:
            macs = None if other == "compute" else 0
            operators.append(OperatorTime(part["operator"], module, other, part["calls"], ms, macs, None))
    return operators


def _lite_kind(part: dict[str, Any]) -> Kind:
    return classify("torchscript-lite", part["operator"])


@dataclass(frozen=True)
class _Found:
    """One operator as its worker timed it, the calls that it computes, and their multiply-accumulates."""

    timed: dict[str, Any]
    kind: Kind
    works: list[Work]
    macs: int | None

    def operator(self, moved: int | None) -> OperatorTime:
        module = self.works[-1].module if self.works else None
        ms = statistics.median(self.timed["us"]) / 1000
        return OperatorTime(self.timed["operator"], module, self.kind, 1, ms, self.macs, moved)


def _attributed(runtime: str, result: dict[str, Any], graph: Graph, opset: int) -> list[_Found]:
    """A runtime's operators with their kinds and the calls that they compute."""
    operators = result["operators"]
    attribution = Attribution(graph, onnx_origins(graph, opset), result["dataflow"])
    kinds = [_kind(runtime, timed, attribution) for timed in operators]
    works = attribution.attribute([(timed["names"], kind) for timed, kind in zip(operators, kinds)])
    users = Counter(work.name for kind, calls in zip(kinds, works) if kind == "compute" for work in calls)
    return [
        _Found(timed, kind, calls, _macs(timed, kind, calls, users))
        for timed, kind, calls in zip(operators, kinds, works)
    ]


def _kind(runtime: str, timed: dict[str, Any], attribution: Attribution) -> Kind:
    """The kind of an operator; of code that OpenVINO generated for several layers, compute where one of them is."""
    kind = classify(runtime, timed["operator"])
    if timed["operator"] == GENERATED and any(work.kind == "compute" for work in attribution.named(timed["names"])):
        return "compute"
    return kind


def _macs(timed: dict[str, Any], kind: Kind, works: list[Work], users: Counter[str]) -> int | None:
    """Multiply-accumulates of an operator: as its shapes tell, or those of its calls where no other shares in them."""
    if kind != "compute":
        return 0
    if timed.get("macs") is not None:
        return timed["macs"]
    counted = [None if users[work.name] > 1 else work.macs for work in works]
    return sum(macs for macs in counted if macs is not None) if counted and None not in counted else None


def _timed(result: dict[str, Any], operators: list[OperatorTime], notes: list[str] | None = None) -> Timed:
    plain, profiled = (1000 * statistics.median(result[name]) for name in ("plain", "profiled"))
    return Timed(result["runtime"], operators, plain, profiled, notes or [])


Profiler = Callable[[Artifact, Graph, Exporter, Any, dict[str, Any], Path], Timed]
PROFILED: dict[str, Profiler] = {
    "onnx": _onnxruntime,
    "openvino": _openvino,
    "torchscript-lite": _mobile_interpreter,
}
"""The targets whose runtimes can be profiled here."""
