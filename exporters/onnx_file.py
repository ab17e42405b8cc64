"""ONNX files, for the targets that write one or start from one: convert a graph, check, run in onnxruntime."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deploy_kit.errors import ExportError
from deploy_kit.exporters.base import Ran
from deploy_kit.graph import Graph, source_line
from deploy_kit.outcome import Outcome
from deploy_kit.worker import WorkerError, run_worker

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime's own builds report to Microsoft otherwise

OLDEST_OPSET, NEWEST_OPSET = 13, 26
"""The newest is the last that onnxruntime 1.31 runs: it refuses 27 and 28, which are not released."""

WORKER = Path(__file__).with_name("ort_worker.py")
LIMIT = 600
"""Seconds until a worker is ended."""

NOT_LOADED = "the file cannot be loaded"
"""How the worker's last words begin where onnxruntime refuses a file."""

INLINE_LIMIT = 2**31 - 2**26
"""Bytes of weights that a file holds itself: protobuf takes 2 GB, and the operators need some of it."""


def convert(graph: Graph, file: Path, opset: int) -> None:
    """Write a graph as ONNX; raises `ExportError` naming the operator that has no ONNX form.

    Weights of more than `INLINE_LIMIT` go into a file beside it, the one that `weights_file` names.
    """
    from deploy_kit.exporters.onnx_opset import nearest, restate
    from deploy_kit.exporters.onnx_optimizer import optimize

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
                optimize=False,
                verbose=False,
                opset_version=nearest(opset),
                input_names=["input"] if len(inputs) == 1 else [f"input_{i}" for i in range(len(inputs))],
                dynamic_shapes=tuple({0: batch} for _ in inputs) if graph.dynamic_batch else None,
            )
            assert program is not None
            optimize(program.model)
        for index, value in enumerate(program.model.graph.outputs):
            value.name = "output" if len(program.model.graph.outputs) == 1 else f"output_{index}"
    except Exception as error:  # the exporter raises many types; the last cause names the operator
        reason = root_cause(error)
        raise ExportError(f"the ONNX exporter failed: {reason}{_where(graph, reason)}") from error
    _drop_traces(program.model)
    restate(program.model, opset)
    _write(program.model, file)


def _drop_traces(model: Any) -> None:
    """Leave out the exporter's records of source lines: they name files of this machine, and may outweigh weights."""
    for graph in model.graphs():
        graph.metadata_props.clear()
        for node in graph:
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()
        for value in (*graph.inputs, *graph.initializers.values()):
            value.metadata_props.clear()


def _write(model: Any, file: Path) -> None:
    from onnxscript import ir

    tensors = [value.const_value for graph in model.graphs() for value in graph.initializers.values()]
    inline = sum(tensor.nbytes for tensor in tensors if tensor is not None) <= INLINE_LIMIT
    ir.save(model, file, external_data=None if inline else weights_file(file).name)


def weights_file(file: Path) -> Path:
    """Where the weights of an ONNX file are if it does not hold them itself."""
    return file.with_name(f"{file.name}.data")


def _where(graph: Graph, reason: str) -> str:
    """The line of the model's source that calls the operator that the exporter complains about, if it names one."""
    named = re.search(r"op='([\w.]+)', overload='(\w+)'", reason)
    if named is None:
        return ""
    program = torch.export.export(graph.module, graph.example_inputs, strict=False).run_decompositions()
    target = f"{named[1]}.{named[2]}"
    lines = (source_line(node) for node in program.graph.nodes if str(node.target) == target)
    return next((f" ({line})" for line in lines if line), "")


def root_cause(error: BaseException) -> str:
    """The first line of the first error in a chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check(file: Path) -> dict[str, int]:
    """Check a file with ONNX's own checker and count its operators."""
    checked = work({"do": "check", "model": str(file)}, "ONNX's checker failed", Outcome.EXPORT_FAILED)
    if checked["problem"] is not None:
        raise ExportError(f"ONNX's checker refuses the file: {checked['problem']}")
    return checked["operators"]


def run_file(file: Path, inputs: Sequence[tuple[Tensor, ...]]) -> Ran:
    """The outputs of a file for each set of inputs, by onnxruntime in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
        outputs = Path(scratch, "outputs.npz")
        job = {"do": "run", "model": str(file), "outputs": str(outputs), "threads": 1}
        job["inputs"] = str(save_inputs(inputs, Path(scratch)))
        result = work(job, "onnxruntime could not run the file", Outcome.RUN_FAILED)
        return Ran(load_outputs(outputs, len(inputs)), f"onnxruntime {result['onnxruntime']}")


def save_inputs(cases: Sequence[tuple[Tensor, ...]], folder: Path) -> Path:
    """Write each case's inputs for a worker, as arrays ``case:input`` in an .npz file."""
    path = folder / "inputs.npz"
    arrays = {f"{case}:{i}": x.numpy() for case, inputs in enumerate(cases) for i, x in enumerate(inputs)}
    np.savez(path, **arrays)  # type: ignore[arg-type]  # numpy's stub
    return path


def load_outputs(path: Path, cases: int) -> list[list[Tensor]]:
    """The outputs of each case that a worker wrote as arrays ``case:output``, in order."""
    outputs: list[list[Tensor]] = [[] for _ in range(cases)]
    with np.load(path) as saved:
        for name in saved.files:
            outputs[int(name.split(":")[0])].append(torch.from_numpy(saved[name]))
    return outputs


def work(job: dict[str, Any], failure: str, outcome: Outcome) -> dict[str, Any]:
    """Do one of the worker's jobs; raises `ExportError`, ``failure`` with the worker's last words."""
    try:
        return run_worker([sys.executable, "-P", WORKER], job, timeout=LIMIT)
    except WorkerError as error:
        if NOT_LOADED in str(error):
            outcome = Outcome.LOAD_FAILED
        raise ExportError(f"{failure}: {error}", outcome=outcome) from error
