"""``executorch``: a ``.pte`` for ExecuTorch's runtime, with XNNPACK or another delegate doing the work."""

from __future__ import annotations

import io
import sys
import tempfile
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from pydantic import ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
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
    save_inputs,
    save_tensors,
)
from deploy_kit.fusion import Policy
from deploy_kit.graph import Graph
from deploy_kit.outcome import Outcome
from deploy_kit.precision import Lowered, Scheme, lower
from deploy_kit.stages import Stages
from deploy_kit.worker import WorkerError, run_worker

FILE, BUNDLE = "model.pte", "model.bpte"
WORKER = Path(__file__).with_name("executorch_worker.py")
INSTALL = "pip install 'deploy-kit[executorch]'"
LOWERING_LIMIT, RUNNING_LIMIT = 1800, 600
"""Seconds until a worker is ended; a model that falls into many subgraphs takes a minute to lower."""

NOT_LOADED = "the file cannot be loaded"
"""How the worker's last words begin where the runtime refuses a file."""

HEAVY = ("convolution", "linear", "addmm", "mm", "bmm", "baddbmm")
"""Operators that take nearly all of a model's time, and hundreds of times more of it without a delegate."""

Kind = Literal["gelu", "softmax"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Kinds of operators that ExecuTorch's own kernels may be better at than a delegate is, as vectorised loops."""

OPERATORS = {"gelu": "gelu", "softmax": "_softmax"}
"""Their operators, as placements name them."""

RUNS_HERE = {"xnnpack": "XNNPACK", "portable": "portable kernels"}
"""The delegates that ExecuTorch's Python package can run, as proofs name them."""

SCHEME = Scheme()
"""What XNNPACK's integer kernels take: int8 with any zero point, and weights with a scale for each channel."""


class ExecuTorchOptions(PrecisionOptions):
    """Who computes; ``strict`` refuses heavy operators outside of the delegate; ``bundle_io`` adds a test case.

    What is in ``keep_out`` is not given to XNNPACK, and left to ExecuTorch's own kernels.
    """

    delegate: Literal["xnnpack", "coreml", "vulkan", "portable"] = "xnnpack"
    strict: bool = False
    bundle_io: bool = False
    keep_out: tuple[Kind, ...] = ()

    @field_validator("keep_out")
    @classmethod
    def _is_of_xnnpack(cls, kinds: tuple[Kind, ...], given: ValidationInfo) -> tuple[Kind, ...]:
        if kinds and given.data.get("delegate", "xnnpack") != "xnnpack":
            raise PydanticCustomError("delegate", "operators are kept out only of --delegate xnnpack: leave it out")
        return tuple(kind for kind in KINDS if kind in kinds)


class Executorch(Exporter):
    """Fuse, export, lower to a delegate, say where each operator went, and prove in ExecuTorch's own runtime."""

    name: ClassVar[str] = "executorch"
    summary: ClassVar[str] = "ExecuTorch (.pte), delegated to XNNPACK, CoreML, Vulkan or portable kernels"
    options_type: ClassVar[type[Options]] = ExecuTorchOptions

    def requirements(self) -> list[Requirement]:
        purpose = "lowers the model and proves it; CoreML and Vulkan programs are written, and run only on a device"
        return [Requirement("executorch", find_executorch(), purpose, INSTALL)]

    def policy(self, options: ExecuTorchOptions) -> Policy:
        return packaged_policy("executorch.cpu" if options.delegate == "xnnpack" else "executorch.npu")

    def alternatives(self, options: ExecuTorchOptions) -> dict[str, list[Any]]:
        if options.delegate != "xnnpack":
            return {}
        choices = [kinds for size in range(len(KINDS) + 1) for kinds in combinations(KINDS, size)]
        return {"keep_out": [kinds for kinds in choices if kinds != options.keep_out]}

    def lower(self, graph: Graph, options: ExecuTorchOptions) -> Lowered:
        return lower(graph, options.precision, SCHEME, options.keep_fp32, auto_mixed=options.auto_mixed)

    def export(self, graph: Graph, folder: Path, options: ExecuTorchOptions, stages: Stages) -> Exported:
        installed = _require()
        with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
            source, cases = Path(scratch, "program.pt2"), Path(scratch, "cases.pt")
            with stages.stage("export the fused graph"):
                export_program(graph, source)
            if options.bundle_io:
                save_tensors([_bundled_case(graph)], cases)
            job = {
                "do": "lower",
                "quick": True,
                "source": str(source),
                "delegate": options.delegate,
                "keep_out": [OPERATORS[kind] for kind in options.keep_out],
                "target": str(folder / FILE),
                "cases": str(cases),
                "bundle": str(folder / BUNDLE) if options.bundle_io else None,
            }
            with stages.stage(f"lower to {options.delegate}"):
                placement = work(job, "lower the model", Outcome.LOWER_FAILED, LOWERING_LIMIT)
        notes = notes_on(placement, options)
        details: dict[str, Any] = {"delegate": options.delegate, "placement": placement}
        if options.bundle_io:
            details["bundle"] = BUNDLE
        operators = {
            name: placement["delegated"].get(name, 0) + placement["undelegated"].get(name, 0)
            for name in {**placement["delegated"], **placement["undelegated"]}
        }
        toolchain = {"torch": torch.__version__, "executorch": installed}
        left = list(heavy_outside(placement))
        share = sum(placement["delegated"].values()) / max(sum(operators.values()), 1)
        return Exported(FILE, operators, toolchain, details, notes, undelegated=left, delegated_share=share)

    def run(
        self, file: Path, inputs: Sequence[tuple[Tensor, ...]], options: ExecuTorchOptions, details: dict[str, Any]
    ) -> Ran:
        installed = _require()
        if options.delegate not in RUNS_HERE:
            return Ran(None, UNVERIFIED)
        with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
            given, returned = Path(scratch, "inputs.pt"), Path(scratch, "outputs.pt")
            save_inputs(inputs, given)
            job = {"do": "run", "target": str(file), "inputs": str(given), "outputs": str(returned), "threads": 1}
            work(job, "run the .pte")
            outputs = torch.load(returned, weights_only=True)
        return Ran(outputs, f"executorch {installed} ({RUNS_HERE[options.delegate]})")


def find_executorch() -> str | None:
    """The version of ExecuTorch that is installed, without its build tag; None where it is not."""
    try:
        return version("executorch").split("+")[0]
    except PackageNotFoundError:
        return None


def _require() -> str:
    installed = find_executorch()
    if installed is None:
        raise MissingDependencyError("the target executorch needs executorch, which is not installed", fix=INSTALL)
    return installed


def export_program(graph: Graph, path: Path) -> None:
    """Write a graph as a ``.pt2`` program; raises `ExportError` where ``torch.export`` refuses it."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            buffer = io.BytesIO()
            torch.export.save(torch.export.export(graph.module, graph.example_inputs), buffer)
    except Exception as error:  # torch.export raises many types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(f"the fused graph cannot be exported: {reason}") from error
    path.write_bytes(buffer.getvalue())  # torch's own writer aborts where the disk is full


def work(
    job: dict[str, Any], purpose: str, outcome: Outcome = Outcome.RUN_FAILED, limit: float = RUNNING_LIMIT
) -> dict[str, Any]:
    """Do one of the worker's jobs; raises `ExportError` with its last words."""
    try:
        return run_worker([sys.executable, "-P", WORKER], job, timeout=limit)
    except WorkerError as error:
        if NOT_LOADED in str(error):
            outcome = Outcome.LOAD_FAILED
        raise ExportError(f"executorch could not {purpose}: {error}", outcome=outcome) from error


def _bundled_case(graph: Graph) -> dict[str, list[Tensor]]:
    """Noise, and what the fused graph makes of it."""
    inputs = graph.example_inputs
    with torch.no_grad():
        outputs, _ = torch.utils._pytree.tree_flatten(graph.module(*inputs))
    return {"inputs": list(inputs), "outputs": outputs}


def heavy_outside(placement: dict[str, Any]) -> dict[str, int]:
    """The heavy operators of a placement report that no delegate took, and how often each is called."""
    return {name: calls for name, calls in placement["undelegated"].items() if name in HEAVY}


def notes_on(placement: dict[str, Any], options: ExecuTorchOptions) -> list[str]:
    """What the user must know of a placement; `ExportError` where ``strict`` does not allow it."""
    left = heavy_outside(placement)
    notes = []
    if left:
        listed = ", ".join(f"{name} ({calls})" for name, calls in left.items())
        problem = f"on portable kernels, hundreds of times slower than delegated ones: {listed}"
        if options.strict:
            raise ExportError(
                problem, fix="choose another delegate, or leave out --strict to accept it", outcome=Outcome.LOWER_FAILED
            )
        notes.append(f"WARNING: {problem}")
    called = {**placement.get("delegated", {}), **placement["undelegated"]}
    missing = [kind for kind in options.keep_out if OPERATORS[kind] not in called]
    if missing:
        notes.append(f"nothing to keep out: the fused model has no {' and no '.join(missing)}")
    if options.delegate not in RUNS_HERE:
        notes.append(f"emitted only: the {options.delegate} delegate does not run here; nothing has checked the file")
    return notes
