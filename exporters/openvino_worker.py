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
        for name, model in models.items():
            start = time.perf_counter()
            model(inputs)
            if turn >= job["warmup"]:
                samples[name].append(time.perf_counter() - start)
    return {"seconds": samples}


def main() -> None:
    with open(sys.argv[1]) as file:
        job = json.load(file)
    result = {"convert": convert, "run": run, "bench": bench}[job["do"]](job)
    with open(sys.argv[2], "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
