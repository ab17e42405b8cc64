"""Measures what this machine can do at best, in a process of its own: ``python -P peaks_worker.py JOB RESULT``.

Short pieces of work, many times, and the best counts: a machine that does other things as well then has time for one.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

SIZES = (256, 512, 1024)
"""Rows and columns of the matrices: large enough for every library to be at its best."""

COPIED = 2**27
"""Bytes that are copied: more than caches hold."""

SECONDS = 0.3
"""How long each piece of work is repeated."""


def _best(work: Callable[[], object]) -> float:
    work()
    best, end = float("inf"), time.perf_counter() + SECONDS
    while (start := time.perf_counter()) < end:
        work()
        best = min(best, time.perf_counter() - start)
    return best


def _torch(a: np.ndarray, b: np.ndarray, threads: int) -> Callable[[], object]:
    left, right = torch.from_numpy(a), torch.from_numpy(b)
    out = torch.empty(len(a), len(a))
    return lambda: torch.mm(left, right, out=out)


def _onnxruntime(a: np.ndarray, b: np.ndarray, threads: int) -> Callable[[], object]:
    make, float32 = onnx.helper, onnx.TensorProto.FLOAT
    given, made = (make.make_tensor_value_info(name, float32, a.shape) for name in "ac")
    graph = make.make_graph(
        [make.make_node("MatMul", ["a", "b"], ["c"])],
        "product",
        [given],
        [made],
        [onnx.numpy_helper.from_array(b, "b")],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"a": a})


def peaks(job: dict[str, Any]) -> dict[str, Any]:
    """GFLOP/s of the best large product in float32, whose it was, and GB/s of a copy (read and written)."""
    torch.set_num_threads(job["threads"])
    random = np.random.default_rng(0)
    gflops: dict[str, float] = {}
    for name, library in (("torch", _torch), ("onnxruntime", _onnxruntime)):
        for size in SIZES:
            a, b = (random.standard_normal((size, size), dtype=np.float32) for _ in range(2))
            reached = 2 * size**3 / _best(library(a, b, job["threads"])) / 1e9
            gflops[name] = max(reached, gflops.get(name, 0.0))
    source = torch.ones(COPIED // 4)
    target = torch.empty_like(source)
    seconds = _best(lambda: target.copy_(source))
    best = max(gflops, key=lambda name: gflops[name])
    return {"gflops": gflops[best], "products_by": best, "gbytes": 2 * COPIED / seconds / 1e9}


def main() -> None:
    with open(sys.argv[1]) as file:
        job = json.load(file)
    with open(sys.argv[2], "w") as file:
        json.dump(peaks(job), file)


if __name__ == "__main__":
    main()
