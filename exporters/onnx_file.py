"""ONNX files, for the targets that write one or start from one: convert a graph, check, run in onnxruntime."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deploy_kit.errors import ExportError
from deploy_kit.exporters.base import Ran
from deploy_kit.graph import Graph, source_line
from deploy_kit.worker import WorkerError, run_worker

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime's own builds report to Microsoft otherwise

WORKER = Path(__file__).with_name("ort_worker.py")


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
        reason = root_cause(error)
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


def root_cause(error: BaseException) -> str:
    """The first line of the first error in a chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check(file: Path) -> dict[str, int]:
    """Check a file with ONNX's own checker and count its operators."""
    import onnx

    try:
        onnx.checker.check_model(str(file), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"ONNX's checker refuses the file: {root_cause(error)}") from error
    return dict(
        Counter(node.op_type for node in onnx.load(str(file), load_external_data=False).graph.node).most_common()
    )


def run_file(file: Path, inputs: Sequence[tuple[Tensor, ...]]) -> Ran:
    """The outputs of a file for each set of inputs, by onnxruntime in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
        outputs = Path(scratch, "outputs.npz")
        job = {"do": "run", "model": str(file), "outputs": str(outputs), "threads": 1}
        result = work({**job, "inputs": str(save_inputs(inputs, Path(scratch)))})
        return Ran(load_outputs(outputs, len(inputs)), f"onnxruntime {result['onnxruntime']}")


def save_inputs(cases: Sequence[tuple[Tensor, ...]], folder: Path) -> Path:
    """Write each case's inputs for a worker, as arrays ``case:input`` in an .npz file."""
    path = folder / "inputs.npz"
    arrays = {f"{case}:{i}": x.numpy() for case, inputs in enumerate(cases) for i, x in enumerate(inputs)}
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def load_outputs(path: Path, cases: int) -> list[list[Tensor]]:
    """The outputs of each case that a worker wrote as arrays ``case:output``, in order."""
    outputs: list[list[Tensor]] = [[] for _ in range(cases)]
    with np.load(path) as saved:
        for name in saved.files:
            outputs[int(name.split(":")[0])].append(torch.from_numpy(saved[name]))
    return outputs


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Do one of the jobs of onnxruntime's worker; raises `ExportError` with its last words."""
    try:
        return run_worker([sys.executable, WORKER], job, timeout=600)
    except WorkerError as error:
        raise ExportError(f"onnxruntime failed: {error}") from error
