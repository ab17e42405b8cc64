"""``onnx``: an ``.onnx`` for onnxruntime and everything else that reads the format."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from deploy_kit.errors import ExportError
from deploy_kit.exporters.base import (
    Exported,
    Exporter,
    Options,
    PrecisionOptions,
    Ran,
    Requirement,
    packaged_policy,
)
from deploy_kit.exporters.onnx_file import (
    NEWEST_OPSET,
    OLDEST_OPSET,
    check,
    convert,
    run_file,
    save_inputs,
    weights_file,
    work,
)
from deploy_kit.fusion import Policy
from deploy_kit.graph import Graph
from deploy_kit.outcome import Outcome
from deploy_kit.precision import Lowered, Scheme, lower
from deploy_kit.stages import Stages

FILE, MOBILE_FILE = "model.onnx", "model.ort"
REQUIRED_OPERATORS = "required_operators_and_types.config"
SAME = 2e-6
"""A simplified model is kept only if its outputs are this close, relatively, to those before."""

SLOWER = 1.1
"""From this on, of its time over the plain model's, a simplified model is slower: further from 1 than the noise."""

SCHEME = Scheme(unsigned=True)
"""onnxruntime computes with uint8 activations on every processor; on x86 it does not fuse all of int8's."""


class OnnxOptions(PrecisionOptions):
    """``opset`` is the version of the operator set; ``dynamic_batch`` leaves the batch free.

    ``ort_format`` also writes what mobile builds of onnxruntime load, which is then what is proven.
    """

    opset: int = Field(default=20, ge=OLDEST_OPSET, le=NEWEST_OPSET)
    dynamic_batch: bool = False
    simplify: bool = True
    ort_format: bool = False


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
        return packaged_policy("onnx.cpu")

    def alternatives(self, options: OnnxOptions) -> dict[str, list[Any]]:
        return {"simplify": [not options.simplify]}

    def dynamic_batch(self, options: OnnxOptions) -> bool:
        return options.dynamic_batch

    def lower(self, graph: Graph, options: OnnxOptions) -> Lowered:
        return lower(graph, options.precision, SCHEME, options.keep_fp32, auto_mixed=options.auto_mixed)

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
        if options.ort_format:
            with stages.stage("convert to onnxruntime's format"):
                operators = convert_for_mobile(file, details)
        packages = ("torch", "onnx", "onnxscript", "onnxruntime", "onnxsim")
        toolchain = {name: version(name) for name in packages}
        main = MOBILE_FILE if options.ort_format else FILE
        return Exported(main, operators, toolchain, details, notes=notes_on(folder, options))

    def run(
        self, file: Path, inputs: Sequence[tuple[Tensor, ...]], options: OnnxOptions, details: dict[str, Any]
    ) -> Ran:
        return run_file(file, inputs)


def notes_on(folder: Path, options: OnnxOptions) -> list[str]:
    """What the user must know of the files: whether what was narrowed to fp16 was widened again."""
    if not options.ort_format or options.precision != "fp16":
        return []
    if (folder / MOBILE_FILE).stat().st_size < 1.5 * (folder / FILE).stat().st_size:
        return []
    return [
        f"{MOBILE_FILE} is in float32 again: onnxruntime computes fp16 so on this processor, and its own format keeps "
        f"that; {FILE} is in fp16"
    ]


def convert_for_mobile(file: Path, details: dict[str, Any]) -> dict[str, int]:
    """Write a file in onnxruntime's own format beside it, and the configuration of a build that has what it needs.

    Returns:
        How often each operator is in it, as onnxruntime has fused them; ``details`` get their domains and opsets.
    """
    if weights_file(file).exists():
        raise ExportError(
            "onnxruntime's own format holds no more than 2 GB",
            fix="leave out --ort-format",
            outcome=Outcome.LOWER_FAILED,
        )
    job = {"do": "convert", "model": str(file), "config": str(file.with_name(REQUIRED_OPERATORS))}
    found = work(job, "onnxruntime could not write its own format", Outcome.LOWER_FAILED)["operators"]
    details["ort_format"] = {"optimized": "all, ahead of time, for ARM", "required_operators": sorted(found)}
    operators: Counter[str] = Counter()
    for name, calls in found.items():
        operators[name.rpartition(";")[2]] += calls
    return dict(operators.most_common())


def simplify(file: Path, example_inputs: tuple[Tensor, ...]) -> dict[str, Any]:
    """Run onnxsim on a file and keep its result only if it computes the same with fewer operators, and is not slower.

    What counts are the operators that are left when onnxruntime has fused them, so that a model's file is the same
    whenever it is exported: of what onnxruntime makes the same, a race would choose by chance. Slower is by more than
    a tenth in the quickest of the interleaved runs.

    Returns:
        ``kept``, the ``reason``, and where it was measured ``fewer``, the operators less, and ``time_ratio``: the
        10th percentile of the simplified model's times over that of the plain one's, at one thread.
    """
    weights = weights_file(file)
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
        simpler = Path(scratch, file.name)
        data = weights.name if weights.exists() else None
        job = {"do": "simplify", "model": str(file), "target": str(simpler), "data": data}
        race = {
            "do": "bench",
            "count": True,
            "files": {"plain": str(file), "simplified": str(simpler)},
            "inputs": str(save_inputs([example_inputs], Path(scratch))),
            "threads": 1,
            "warmup": 3,
            "iterations": 21,
        }
        try:
            if not work(job, "onnxsim failed", Outcome.EXPORT_FAILED)["confirmed"]:
                return {"kept": False, "reason": "onnxsim could not confirm its own result"}
            result = work(race, "it could not be compared", Outcome.RUN_FAILED)
        except ExportError as error:  # the plain model is there
            return {"kept": False, "reason": str(error)}
        ratio = _quick(result["seconds"]["simplified"]) / _quick(result["seconds"]["plain"])
        fewer = result["operators"]["plain"] - result["operators"]["simplified"]
        measured = {"fewer": fewer, "time_ratio": ratio}
        difference = result["difference"]["simplified"]
        if difference is None or not difference <= SAME:
            return {"kept": False, "reason": f"its outputs differ by {difference}", **measured}
        if fewer <= 0:
            return {"kept": False, "reason": "onnxruntime makes no fewer operators of it", **measured}
        if ratio > SLOWER:
            return {"kept": False, "reason": "it is slower", **measured}
        weights.unlink(missing_ok=True)
        for new in (simpler, weights_file(simpler)):
            if new.exists():
                shutil.move(new, file.with_name(new.name))
        return {"kept": True, "reason": "it computes the same with fewer operators, and is not slower", **measured}


def _quick(seconds: list[float]) -> float:
    """The 10th percentile: what disturbs an inference makes it longer, and never shorter."""
    return sorted(seconds)[len(seconds) // 10]
