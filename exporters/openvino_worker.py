"""The part of the openvino target that calls OpenVINO, in a process of its own; it computes in true float32.

``python -P openvino_worker.py JOB RESULT``: JOB and RESULT are JSON files.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from typing import Any

import numpy as np
import openvino

NOT_LOADED = "the file cannot be loaded"
"""How the last words begin where OpenVINO refuses a file."""

PLUMBING = ("Parameter", "Constant", "Result")


def convert(job: dict[str, Any]) -> dict[str, Any]:
    """Read an ONNX file and write OpenVINO's own; returns its ``operators``, by type."""
    model = openvino.Core().read_model(job["onnx"])
    openvino.save_model(model, job["target"], compress_to_fp16=False)
    types = Counter(node.get_type_name() for node in model.get_ops())
    return {"operators": {name: calls for name, calls in types.most_common() if name not in PLUMBING}}


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run a file on every case (arrays ``case:input``), and keep the outputs (``case:output``)."""
    precise = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    try:
        compiled = openvino.Core().compile_model(job["model"], "CPU", precise)
    except RuntimeError as error:
        raise SystemExit(f"{NOT_LOADED}: {error}") from error
    outputs: dict[str, Any] = {}
    with np.load(job["inputs"]) as given:
        for case in range(job["cases"]):
            results = compiled([given[name] for name in given.files if name.startswith(f"{case}:")])
            outputs |= {f"{case}:{index}": results[index] for index in range(len(compiled.outputs))}
    np.savez(job["outputs"], **outputs)
    return {}


def bench(job: dict[str, Any]) -> dict[str, Any]:
    """Time several files in turn, one inference each a turn, each in the precisions that it says itself."""
    core = openvino.Core()
    models = {
        name: core.compile_model(path, "CPU", {"INFERENCE_NUM_THREADS": job["threads"], "NUM_STREAMS": 1})
        for name, path in job["files"].items()
    }
    with np.load(job["inputs"]) as given:
        inputs = [given[name] for name in given.files if name.startswith("0:")]
    samples: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(job["warmup"] + job["iterations"]):
        if turn == job["warmup"]:
            begun = time.perf_counter()
        for name, model in models.items():
            start = time.perf_counter()
            model(inputs)
            if turn >= job["warmup"]:
                samples[name].append(time.perf_counter() - start)
    return {"seconds": samples, "window": [begun, time.perf_counter()]}


def profile(job: dict[str, Any]) -> dict[str, Any]:
    """Time a model's operators with OpenVINO's counters, and in turn whole inferences without them.

    The counters say the mean of all inferences so far, in whole microseconds; from what they say after the warm-up
    and at the end follows the mean of those between.

    Returns:
        ``plain`` and ``profiled``: seconds of each inference. ``operators``: of each that ran its ``operator``, the
        ``names`` of the layers that it stands for, its mean ``us`` (one) and the ``bytes`` of its inputs, weights and
        outputs. ``dataflow``: the file's own layers, in order.
    """
    core = openvino.Core()
    try:
        model = core.read_model(job["model"])
    except RuntimeError as error:
        raise SystemExit(f"{NOT_LOADED}: {error}") from error
    common = {"INFERENCE_NUM_THREADS": job["threads"], "NUM_STREAMS": 1}
    common |= {"INFERENCE_PRECISION_HINT": "f32"} if job["float32"] else {}
    compiled = core.compile_model(model, "CPU", {**common, "PERF_COUNT": True})
    plain, profiled = core.compile_model(model, "CPU", common).create_infer_request(), compiled.create_infer_request()
    with np.load(job["inputs"]) as given:
        inputs = [given[name] for name in given.files if name.startswith("0:")]
    warmup, turns = job["warmup"], job["warmup"] + job["iterations"]
    seconds: dict[str, list[float]] = {"plain": [], "profiled": []}
    before: dict[str, float] = {}
    for turn in range(turns):
        if turn == warmup:
            before = {found.node_name: _microseconds(found) for found in profiled.profiling_info} if turn else {}
        for name, request in (("plain", plain), ("profiled", profiled)):
            start = time.perf_counter()
            request.infer(inputs)
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    layers = {layer.get_friendly_name(): layer for layer in compiled.get_runtime_model().get_ordered_ops()}
    operators = []
    for found in profiled.profiling_info:
        if found.node_type in PLUMBING or "NOT_RUN" in str(found.status):
            continue
        layer = layers.get(found.node_name)
        operators.append(
            {
                "operator": found.node_type,
                "names": [found.node_name, *_stands_for(layer)],
                "us": [_later_mean(before.get(found.node_name, 0.0), warmup, _microseconds(found), turns)],
                "bytes": None if layer is None else _bytes(layer),
            }
        )
    dataflow = [
        {
            "names": [node.get_friendly_name()],
            "inputs": [value.get_source_output().get_node().get_friendly_name() for value in node.inputs()],
        }
        for node in model.get_ordered_ops()
    ]
    version = openvino.__version__.split("-")[0]
    return {"runtime": f"openvino {version}", **seconds, "operators": operators, "dataflow": dataflow}


def _later_mean(before: float, warmup: int, after: float, turns: int) -> float:
    """The mean after the first ``warmup`` of ``turns``, from the mean of those and the mean of all."""
    return max(0.0, (after * turns - before * warmup) / (turns - warmup))


def _microseconds(found: Any) -> float:
    return found.real_time.total_seconds() * 1e6


def _stands_for(layer: Any) -> list[str]:
    """The layers of the file that were fused into one of the compiled model."""
    if layer is None or "originalLayersNames" not in layer.get_rt_info():
        return []
    return [name for name in str(layer.get_rt_info()["originalLayersNames"].astype(str)).split(",") if name]


def _bytes(layer: Any) -> int | None:
    """Bytes of a layer's inputs, weights and outputs; None where a size is free."""
    values = [value.get_source_output() for value in layer.inputs()] + list(layer.outputs())
    if any(value.get_partial_shape().is_dynamic for value in values):
        return None
    return sum(int(np.prod(value.get_shape())) * value.get_element_type().size for value in values)


def main() -> None:
    with open(sys.argv[1]) as file:
        job = json.load(file)
    result = {"convert": convert, "run": run, "bench": bench, "profile": profile}[job["do"]](job)
    with open(sys.argv[2], "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
