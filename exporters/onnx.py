"""``onnx``: an ``.onnx`` for onnxruntime and everything else that reads the format."""

from __future__ import annotations

import logging
import os
import re
import statistics
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from deploy_kit.errors import ExportError
from deploy_kit.exporters.base import Exported, Exporter, Options, Ran, Requirement
from deploy_kit.fusion import Policy
from deploy_kit.fusion.policy import Choice
from deploy_kit.graph import Graph, source_line
from deploy_kit.stages import Stages
from deploy_kit.worker import WorkerError, run_worker

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime's own builds report to Microsoft otherwise

FILE = "model.onnx"
WORKER = Path(__file__).with_name("ort_worker.py")
SAME = 2e-6
"""A simplified model is kept only if its outputs are this close, relatively, to those before."""

EXACT = "exact, and onnxruntime does not do it"

POLICY = Policy(
    (
        Choice("constant_folding", EXACT),
        Choice("batch_norm_into_producer", EXACT),
        Choice("batch_norm_into_consumer", EXACT),
        Choice("batch_norm_into_classifier", EXACT),
        Choice("identity_into_depthwise", EXACT),
        Choice("attention_scale_into_query", EXACT),
        Choice("average_pool_to_slice", EXACT),
        Choice("slice_before_layer_norm", EXACT),
        Choice("slice_into_pointwise_conv", EXACT),
        Choice("layer_norm_affine_into_linear", EXACT),
        Choice("compose_permutations", EXACT),
    )
)


class OnnxOptions(Options):
    """``opset`` is the version of the operator set; ``dynamic_batch`` leaves the batch free."""

    opset: int = Field(default=20, ge=18, le=23)
    dynamic_batch: bool = False
    simplify: bool = True


class Onnx(Exporter):
    """Export with torch's dynamo exporter, simplify where that pays, and prove in onnxruntime."""

    name: ClassVar[str] = "onnx"
    summary: ClassVar[str] = "ONNX (.onnx), for onnxruntime and the tools that read the format"
    options_type: ClassVar[type[Options]] = OnnxOptions

    def requirements(self) -> list[Requirement]:
        return [
            Requirement(name, version(name), purpose, f"pip install {name}")
            for name, purpose in (("onnx", "the format"), ("onnxruntime", "the proof"), ("onnxsim", "simplification"))
        ]

    def policy(self, options: OnnxOptions) -> Policy:
        return POLICY

    def dynamic_batch(self, options: OnnxOptions) -> bool:
        return options.dynamic_batch

    def export(self, graph: Graph, folder: Path, options: OnnxOptions, stages: Stages) -> Exported:
        file = folder / FILE
        with stages.stage("convert to ONNX"):
            convert(graph, file, options.opset)
        details: dict[str, Any] = {"opset": options.opset, "dynamic_batch": options.dynamic_batch}
        if options.simplify:
            with stages.stage("simplify"):
                details["simplified"] = simplify(file, graph.example_inputs)
        with stages.stage("check the ONNX"):
            operators = check(file)
        packages = ("torch", "onnx", "onnxscript", "onnxruntime", "onnxsim")
        return Exported(FILE, operators, toolchain={name: version(name) for name in packages}, details=details)

    def run(
        self, file: Path, inputs: Sequence[tuple[Tensor, ...]], options: OnnxOptions, details: dict[str, Any]
    ) -> Ran:
        with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
            outputs = Path(scratch, "outputs.npz")
            job = {"do": "run", "model": str(file), "outputs": str(outputs), "threads": 1}
            result = _work({**job, "inputs": str(_save_inputs(inputs, Path(scratch)))})
            with np.load(outputs) as saved:
                cases: list[list[Tensor]] = [[] for _ in inputs]
                for name in saved.files:
                    cases[int(name.split(":")[0])].append(torch.from_numpy(saved[name]))
        return Ran(cases, f"onnxruntime {result['onnxruntime']}")


def convert(graph: Graph, file: Path, opset: int) -> None:
    """Write a graph as ONNX; raises `ExportError` naming the operator that has no ONNX form."""
    inputs = [node.name for node in graph.nodes if node.op == "placeholder"]
    batch = torch.export.Dim("batch", min=1)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph.module,
                graph.example_inputs,
                dynamo=True,
                optimize=True,
                verbose=False,
                opset_version=opset,
                input_names=["input"] if len(inputs) == 1 else [f"input_{i}" for i in range(len(inputs))],
                dynamic_shapes=tuple({0: batch} for _ in inputs) if graph.dynamic_batch else None,
            )
        assert program is not None
        for index, value in enumerate(program.model.graph.outputs):
            value.name = "output" if len(program.model.graph.outputs) == 1 else f"output_{index}"
    except Exception as error:  # the exporter raises many types; the last cause names the operator
        reason = _root_cause(error)
        raise ExportError(f"the ONNX exporter failed: {reason}{_where(graph, reason)}") from error
    program.save(str(file))


def _where(graph: Graph, reason: str) -> str:
    """The line of the model's source that calls the operator that the exporter complains about, if it names one."""
    named = re.search(r"op='([\w.]+)', overload='(\w+)'", reason)
    if named is None:
        return ""
    program = torch.export.export(graph.module, graph.example_inputs, strict=False).run_decompositions()
    target = f"{named[1]}.{named[2]}"
    lines = (source_line(node) for node in program.graph.nodes if str(node.target) == target)
    return next((f" ({line})" for line in lines if line), "")


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def simplify(file: Path, example_inputs: tuple[Tensor, ...]) -> dict[str, Any]:
    """Run onnxsim on a file and keep its result only if it computes the same and is not slower.

    Returns:
        ``kept``, the ``reason``, and where it was measured ``time_ratio``: the median time of the
        simplified model over that of the plain one, interleaved, at one thread.
    """
    import onnx
    import onnxsim

    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
        simpler = Path(scratch, "simplified.onnx")
        try:
            model, checked = onnxsim.simplify(str(file))
            if not checked:
                return {"kept": False, "reason": "onnxsim could not confirm its own result"}
            onnx.save(model, str(simpler))
            result = _work(
                {
                    "do": "bench",
                    "files": {"plain": str(file), "simplified": str(simpler)},
                    "inputs": str(_save_inputs([example_inputs], Path(scratch))),
                    "threads": 1,
                    "warmup": 3,
                    "iterations": 21,
                }
            )
        except Exception as error:  # onnxsim fails in many ways, and the plain model is there
            return {"kept": False, "reason": f"onnxsim failed: {_root_cause(error)}"}
        ratio = statistics.median(result["seconds"]["simplified"]) / statistics.median(result["seconds"]["plain"])
        difference = result["difference"]["simplified"]
        if difference is None or not difference <= SAME:
            return {"kept": False, "reason": f"its outputs differ by {difference}", "time_ratio": ratio}
        if ratio > 1:
            return {"kept": False, "reason": "it is slower", "time_ratio": ratio}
        simpler.replace(file) if simpler.stat().st_dev == file.stat().st_dev else file.write_bytes(simpler.read_bytes())
        return {"kept": True, "reason": "it computes the same and is not slower", "time_ratio": ratio}


def check(file: Path) -> dict[str, int]:
    """Check a file with ONNX's own checker and count its operators."""
    import onnx

    try:
        onnx.checker.check_model(str(file), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"ONNX's checker refuses the file: {_root_cause(error)}") from error
    return dict(
        Counter(node.op_type for node in onnx.load(str(file), load_external_data=False).graph.node).most_common()
    )


def _save_inputs(cases: Sequence[tuple[Tensor, ...]], folder: Path) -> Path:
    path = folder / "inputs.npz"
    arrays = {f"{case}:{i}": x.numpy() for case, inputs in enumerate(cases) for i, x in enumerate(inputs)}
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def _work(job: dict[str, Any]) -> dict[str, Any]:
    try:
        return run_worker([sys.executable, WORKER], job, timeout=600)
    except WorkerError as error:
        raise ExportError(f"onnxruntime failed: {error}") from error
