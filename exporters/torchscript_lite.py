"""``torchscript-lite``: a ``.ptl`` for PyTorch Mobile's lite interpreter, prepacked for XNNPACK."""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from deploy_kit.errors import ExportError, UserError
from deploy_kit.exporters.base import (
    Exported,
    Exporter,
    Options,
    PrecisionOptions,
    Ran,
    Requirement,
    packaged_policy,
    save_inputs,
)
from deploy_kit.exporters.mobile.interpreter import FIX, INSTALL, Interpreter, find_interpreter
from deploy_kit.exporters.torchscript_int8 import SCHEME, to_quantized_operators
from deploy_kit.fusion import Policy
from deploy_kit.graph import Graph
from deploy_kit.outcome import Outcome
from deploy_kit.precision import Lowered, lower
from deploy_kit.stages import Stages
from deploy_kit.worker import WorkerError

FILE = "model.ptl"
QNNPACK = "qnnpack"
"""The engine of PyTorch's integer kernels on phones."""

NOT_LOADED = "the file cannot be loaded"
"""How the worker's last words begin where the interpreter refuses a file."""


class TorchScriptLiteOptions(PrecisionOptions):
    """Which interpreter prepacks and proves, and the bytecode version to write (None is its own).

    The interpreter is of this machine, not of the artifact: the manifest leaves it out. Without ``prepack`` the
    products are left to the BLAS of the machine, which on a server can be faster than XNNPACK, and on a phone is not.
    """

    precision: Literal["fp32", "int8"] = "fp32"
    prepack: bool = True
    mobile_python: str | None = Field(default=None, exclude=True)
    bytecode_version: int | None = Field(default=None, ge=4, le=8)


class TorchScriptLite(Exporter):
    """Fuse, trace, freeze and prepack in an interpreter of the phones' generation, and prove there."""

    name: ClassVar[str] = "torchscript-lite"
    summary: ClassVar[str] = "PyTorch Mobile's lite interpreter (.ptl), prepacked for XNNPACK"
    options_type: ClassVar[type[Options]] = TorchScriptLiteOptions

    def requirements(self) -> list[Requirement]:
        try:
            interpreter = find_interpreter()
        except UserError as error:  # one is named, and it is wrong
            return [Requirement("mobile interpreter", None, str(error), error.fix, optional=True)]
        found = f"{interpreter.python}, torch {interpreter.torch}" if interpreter.xnnpack else None
        purpose = "prepacks for XNNPACK and proves on the phones' runtime; without it the file is plain"
        return [Requirement("mobile interpreter", found, purpose, INSTALL, optional=True)]

    def policy(self, options: TorchScriptLiteOptions) -> Policy:
        policy = packaged_policy("torchscript-lite.cpu")
        if options.precision == "fp32":
            return policy
        return policy.toggled("elementwise_in_place")  # what is stored in int8 is read more than once

    def alternatives(self, options: TorchScriptLiteOptions) -> dict[str, list[Any]]:
        return {"prepack": [not options.prepack]}

    def lower(self, graph: Graph, options: TorchScriptLiteOptions) -> Lowered:
        return lower(graph, options.precision, SCHEME, options.keep_fp32, auto_mixed=options.auto_mixed)

    def export(self, graph: Graph, folder: Path, options: TorchScriptLiteOptions, stages: Stages) -> Exported:
        with stages.stage("find the mobile interpreter"):
            interpreter = find_interpreter(options.mobile_python)
        with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
            traced = Path(scratch, "traced.pt")
            with stages.stage("trace and freeze"):
                trace(graph, traced)
            prepack = interpreter.xnnpack and options.prepack
            with stages.stage("prepack" if prepack else "save"):
                job = {
                    "do": "save",
                    "source": str(traced),
                    "target": str(folder / FILE),
                    "prepack": prepack,
                    "bytecode_version": options.bytecode_version,
                }
                result = _work(interpreter, job, "write the .ptl", Outcome.LOWER_FAILED)
        notes = [] if interpreter.xnnpack else [f"not prepacked for XNNPACK, so slower than it could be: {FIX}"]
        return Exported(
            FILE,
            operators=result["calls"],
            toolchain={"torch": torch.__version__, "mobile torch": result["torch"]},
            details={
                "prepacked": prepack,
                "bytecode_version": result["bytecode_version"],
                "operator_list": result["operators"],
                "interpreter": interpreter.description,
            },
            notes=notes,
        )

    def run(
        self, file: Path, inputs: Sequence[tuple[Tensor, ...]], options: TorchScriptLiteOptions, details: dict[str, Any]
    ) -> Ran:
        interpreter = find_interpreter(options.mobile_python)
        prepacked = details.get("prepacked")
        if not isinstance(prepacked, bool):
            raise UserError(
                "the manifest is damaged: its details do not say whether the .ptl is prepacked",
                fix="export it again with --force",
            )
        if prepacked and not interpreter.xnnpack:
            raise UserError("this .ptl is prepacked, and no interpreter here has XNNPACK to run it", fix=FIX)
        with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
            given, returned = Path(scratch, "inputs.pt"), Path(scratch, "outputs.pt")
            save_inputs(inputs, given)
            job = {"do": "run", "target": str(file), "inputs": str(given), "outputs": str(returned), "threads": 1}
            engine = _work(interpreter, job, "run the .ptl", Outcome.RUN_FAILED)["engine"]
            outputs = torch.load(returned, weights_only=True)
        if options.precision == "fp32":
            return Ran(outputs, interpreter.description)
        if engine != QNNPACK:
            raise ExportError(
                f"{interpreter.description} has no {QNNPACK}, whose integer kernels phones have: nothing can be proven",
                fix=FIX,
                outcome=Outcome.RUN_FAILED,
            )
        return Ran(outputs, f"{interpreter.description} ({QNNPACK})")


def trace(graph: Graph, path: Path) -> None:
    """Write a graph as frozen TorchScript; raises `ExportError` where it cannot be traced.

    Outputs of any structure become one tensor, or a tuple of tensors in their order.
    """
    flat = _with_flat_outputs(graph)
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        to_quantized_operators(flat)
        try:
            traced = torch.jit.trace(flat.module, graph.example_inputs, check_trace=False, strict=False)
            torch.jit.save(torch.jit.freeze(traced.eval()), buffer)
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]  # values of whole tensors follow
            raise ExportError(f"the graph cannot be traced: {reason}") from error
    path.write_bytes(buffer.getvalue())  # torch's own writer aborts the process where the disk is full


def _with_flat_outputs(graph: Graph) -> Graph:
    """A copy of a graph that returns its tensors in a tuple, or its only one: TorchScript types no mixed containers."""
    copied = graph.copy()
    output = next(node for node in copied.nodes if node.op == "output")
    leaves = pytree.tree_leaves(output.args[0])
    output.args = (leaves[0] if len(leaves) == 1 else tuple(leaves),)
    copied.module.graph.set_codegen(fx.graph.CodeGen())
    copied.module.recompile()
    return copied


def _work(interpreter: Interpreter, job: dict[str, Any], purpose: str, outcome: Outcome) -> dict[str, Any]:
    try:
        return interpreter.work(job)
    except WorkerError as error:
        if NOT_LOADED in str(error):
            outcome = Outcome.LOAD_FAILED
        raise ExportError(f"{interpreter.description} could not {purpose}: {error}", outcome=outcome) from error
