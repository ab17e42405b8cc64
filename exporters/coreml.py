"""``coreml``: an ``.mlpackage`` for Apple's CoreML, proven without a Mac by a reference interpreter."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, fx

from deploy_kit.errors import ExportError, MissingDependencyError
from deploy_kit.exporters.base import UNVERIFIED, Exported, Exporter, Options, Ran, Requirement
from deploy_kit.exporters.mil.interpreter import operator_types, unknown_operators
from deploy_kit.exporters.mil.package import load_package, quiet
from deploy_kit.exporters.mil.ranges import Kept, RangeAudit
from deploy_kit.exporters.mil.translations import exact_pipeline, register_translations
from deploy_kit.fusion import Policy
from deploy_kit.fusion.policy import Choice, folds
from deploy_kit.graph import Graph
from deploy_kit.parity.inputs import make_cases
from deploy_kit.preprocessing import Preprocessing
from deploy_kit.stages import Stages
from deploy_kit.worker import WorkerError, run_worker

FILE = "model.mlpackage"
INSTALL = "pip install 'deploy-kit[coreml]'"

LOW_DB = 40.0
"""The user is told when fp16 is further from float32 than this."""

FOLDS = folds("exact, and one operator or one pass over the data less; not measured on a device")
DECOMPOSE = Choice(
    "decompose_attention", "MIL has scaled_dot_product_attention from iOS 18 on; before it, the scale can be folded"
)


class CoreMLOptions(Options):
    """``ios`` is the oldest system that has to load the model; ``precision`` what it computes in.

    fp16 is CoreML's own default: the Neural Engine computes in nothing else.
    """

    ios: int = Field(default=15, ge=15, le=18)
    precision: Literal["fp32", "fp16"] = "fp16"


class CoreML(Exporter):
    """Convert with coremltools, and prove the saved package in the MIL reference interpreter."""

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
        return Policy(FOLDS if options.ios >= 18 else (DECOMPOSE, *FOLDS))

    def export(self, graph: Graph, folder: Path, options: CoreMLOptions, stages: Stages) -> Exported:
        import_coremltools()
        distinct, order = distinct_outputs(graph)
        details: dict[str, Any] = {"output_order": order}
        notes: list[str] = []
        if options.precision == "fp16":
            with stages.stage("audit the range of fp16 and convert to CoreML"):
                function, mixed = convert_fp16(distinct, folder / FILE, options.ios)
            details["fp16"] = mixed.details()
            notes += mixed.notes()
        else:
            with stages.stage("convert to CoreML"):
                convert(distinct, folder / FILE, options.ios, None)
            with stages.stage("read the package back"):
                function = load_package(folder / FILE)
        unknown = unknown_operators(function)
        details["unknown_operators"] = unknown
        if unknown:
            notes.append(f"not verified: the reference interpreter does not know {', '.join(unknown)}")
        if len(set(order)) < len(order):
            notes.append("a tensor that the model returns more than once is one output of the package")
        return Exported(
            FILE,
            operators=dict(Counter(operator_types(function)).most_common()),
            toolchain={"torch": torch.__version__, "coremltools": version("coremltools")},
            details=details,
            notes=notes,
        )

    def run(
        self, file: Path, inputs: Sequence[tuple[Tensor, ...]], options: CoreMLOptions, details: dict[str, Any]
    ) -> Ran:
        require_coremltools()
        with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
            given, returned = Path(scratch, "inputs.pt"), Path(scratch, "outputs.pt")
            torch.save([tuple(x.contiguous() for x in case) for case in inputs], given)
            job = {"package": str(file), "inputs": str(given), "outputs": str(returned)}
            try:
                result = run_worker([sys.executable, "-m", "deploy_kit.exporters.mil.worker"], job, timeout=600)
            except WorkerError as error:
                raise ExportError(f"the reference interpreter failed: {error}") from error
            if result["unsupported"] is not None:
                return Ran(None, UNVERIFIED, result["unsupported"])
            cases: list[list[Tensor]] = torch.load(returned, weights_only=True)
        outputs = [[case[index] for index in details["output_order"]] for case in cases]
        return Ran(outputs, f"MIL reference interpreter (coremltools {result['coremltools']})")


def require_coremltools() -> None:
    """Raise `MissingDependencyError` where coremltools is not installed."""
    if importlib.util.find_spec("coremltools") is None:
        raise MissingDependencyError("the target coreml needs coremltools, which is not installed", fix=INSTALL)


def import_coremltools() -> Any:
    """The package coremltools, without what it prints while it is imported."""
    require_coremltools()
    with quiet():
        return importlib.import_module("coremltools")


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


def convert(graph: Graph, package: Path, ios: int, fp16: RangeAudit | None) -> None:
    """Write a graph as an ``.mlpackage``.

    Args:
        ios: the oldest version of iOS that has to load it.
        fp16: which operators may be computed in fp16; None computes all in float32.

    Raises:
        ExportError: coremltools refuses, with its reason.
    """
    ct = import_coremltools()
    precision = ct.precision.FLOAT32 if fp16 is None else ct.transform.FP16ComputePrecision(op_selector=fp16)
    try:
        with quiet(), torch.no_grad():
            register_translations()
            program = torch.export.export(graph.module, graph.example_inputs).run_decompositions({})
            model = ct.convert(
                program,
                convert_to="mlprogram",
                minimum_deployment_target=getattr(ct.target, f"iOS{ios}"),
                compute_precision=precision,
                pass_pipeline=exact_pipeline(),
                skip_model_load=True,
            )
            spec = model.get_spec()
            rename(spec)
            ct.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True).save(str(package))
    except Exception as error:  # coremltools raises many types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(f"coremltools cannot convert the graph: {reason}") from error


@dataclass(frozen=True)
class Mixed:
    """What of a model stays in float32, and what the rounding of the rest costs: the SNR against float32."""

    kept: list[Kept]
    snr_db: float | None
    skipped: str | None

    def details(self) -> dict[str, Any]:
        """For the manifest."""
        return {"kept_in_fp32": [asdict(kept) for kept in self.kept], "snr_db": self.snr_db, "skipped": self.skipped}

    def notes(self) -> list[str]:
        """For the user."""
        if self.skipped is not None:
            return [f"the range of fp16 was not audited: {self.skipped}"]
        notes = []
        if self.kept:
            tensors = {kept.tensor: kept.reason for kept in self.kept}
            first, reason = next(iter(tensors.items()))
            notes.append(
                f"{len(self.kept)} operators stay in float32, because fp16 has no room for {len(tensors)} of the "
                f"tensors that they read or make ({first}: {reason})"
            )
        if self.snr_db is not None and self.snr_db < LOW_DB:
            notes.append(f"fp16 is only {self.snr_db:.0f} dB from float32: check the accuracy, or use --precision fp32")
        return notes


def convert_fp16(graph: Graph, package: Path, ios: int) -> tuple[Any, Mixed]:
    """Write a graph as an ``.mlpackage`` in fp16, with what does not fit into fp16 in float32.

    Returns:
        The package's main function as read back, and what was kept.
    """
    audit = RangeAudit(audit_samples(graph))
    convert(graph, package, ios, audit)
    function = load_package(package)
    measurable = audit.skipped is None and not unknown_operators(function)
    return function, Mixed(audit.kept, audit.snr_db(function) if measurable else None, audit.skipped)


def audit_samples(graph: Graph) -> list[tuple[Tensor, ...]]:
    """Inputs to measure ranges on: noise, and photographs for a model that looks as if it took images."""
    shapes = [tuple(x.shape) for x in graph.example_inputs]
    preprocessing = Preprocessing.for_input(shapes[0]) if len(shapes) == 1 else None
    return [case.inputs for case in make_cases(shapes, preprocessing)]


def rename(spec: Any) -> None:
    """Call a model's inputs and outputs ``input`` and ``output``, or ``input_0`` and so on, as other targets do.

    Args:
        spec: coremltools' description of an mlprogram, which is changed. Tensors within the program
            that have such a name already get another.
    """
    wanted: dict[str, str] = {}
    for features, name in ((spec.description.input, "input"), (spec.description.output, "output")):
        for index, feature in enumerate(features):
            wanted[feature.name] = name if len(features) == 1 else f"{name}_{index}"
    taken = {name: f"{name}_within" for name in wanted.values() if name not in wanted}
    names = taken | wanted
    for feature in (*spec.description.input, *spec.description.output):
        feature.name = names[feature.name]
    for function in spec.mlProgram.functions.values():
        for value in function.inputs:
            value.name = names.get(value.name, value.name)
        for block in function.block_specializations.values():
            block.outputs[:] = [names.get(name, name) for name in block.outputs]
            for op in block.operations:
                for value in op.outputs:
                    value.name = names.get(value.name, value.name)
                for argument in op.inputs.values():
                    for binding in argument.arguments:
                        if binding.HasField("name"):
                            binding.name = names.get(binding.name, binding.name)
