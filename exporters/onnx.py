"""``onnx``: an ``.onnx`` for onnxruntime and everything else that reads the format."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from deploy_kit.exporters.base import Exported, Exporter, Options, Ran, Requirement
from deploy_kit.exporters.onnx_file import check, convert, root_cause, run_file, save_inputs, work
from deploy_kit.fusion import Policy
from deploy_kit.fusion.policy import folds
from deploy_kit.graph import Graph
from deploy_kit.stages import Stages

FILE = "model.onnx"
SAME = 2e-6
"""A simplified model is kept only if its outputs are this close, relatively, to those before."""

POLICY = Policy(folds("exact, and onnxruntime does not do it"))


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
        return run_file(file, inputs)


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
            result = work(
                {
                    "do": "bench",
                    "files": {"plain": str(file), "simplified": str(simpler)},
                    "inputs": str(save_inputs([example_inputs], Path(scratch))),
                    "threads": 1,
                    "warmup": 3,
                    "iterations": 21,
                }
            )
        except Exception as error:  # onnxsim fails in many ways, and the plain model is there
            return {"kept": False, "reason": f"onnxsim failed: {root_cause(error)}"}
        ratio = statistics.median(result["seconds"]["simplified"]) / statistics.median(result["seconds"]["plain"])
        difference = result["difference"]["simplified"]
        if difference is None or not difference <= SAME:
            return {"kept": False, "reason": f"its outputs differ by {difference}", "time_ratio": ratio}
        if ratio > 1:
            return {"kept": False, "reason": "it is slower", "time_ratio": ratio}
        simpler.replace(file) if simpler.stat().st_dev == file.stat().st_dev else file.write_bytes(simpler.read_bytes())
        return {"kept": True, "reason": "it computes the same and is not slower", "time_ratio": ratio}
