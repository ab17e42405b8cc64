"""The part of the onnx target that runs onnxruntime, in a process of its own.

``python ort_worker.py JOB RESULT``: JOB and RESULT are JSON files.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import onnxruntime


def _session(path: str, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _read(path: str) -> list[list[np.ndarray]]:
    """The cases in an .npz file whose names are ``case:input``, each a list of arrays."""
    with np.load(path) as file:
        cases: dict[int, dict[int, np.ndarray]] = {}
        for name in file.files:
            case, index = map(int, name.split(":"))
            cases.setdefault(case, {})[index] = file[name]
    return [[cases[case][index] for index in sorted(cases[case])] for case in sorted(cases)]


def _feed(session: onnxruntime.InferenceSession, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
    return {given.name: array for given, array in zip(session.get_inputs(), arrays)}


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run a model on every case, and keep the outputs."""
    session = _session(job["model"], job["threads"])
    outputs = {}
    for case, arrays in enumerate(_read(job["inputs"])):
        for index, output in enumerate(session.run(None, _feed(session, arrays))):
            outputs[f"{case}:{index}"] = output
    np.savez(job["outputs"], **outputs)
    return {"onnxruntime": onnxruntime.__version__}


def bench(job: dict[str, Any]) -> dict[str, Any]:
    """Time several models in turn, one inference each a turn; also their largest difference from the first."""
    sessions = {name: _session(path, job["threads"]) for name, path in job["files"].items()}
    arrays = _read(job["inputs"])[0]
    results = {name: session.run(None, _feed(session, arrays)) for name, session in sessions.items()}
    samples: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(job["warmup"] + job["iterations"]):
        for name, session in sessions.items():
            feed = _feed(session, arrays)
            start = time.perf_counter()
            session.run(None, feed)
            if turn >= job["warmup"]:
                samples[name].append(time.perf_counter() - start)
    first = next(iter(results.values()))
    return {
        "onnxruntime": onnxruntime.__version__,
        "seconds": samples,
        "difference": {name: _difference(first, result) for name, result in results.items()},
    }


def _difference(expected: list[np.ndarray], got: list[np.ndarray]) -> float | None:
    """The largest difference relative to the largest value, over all outputs; null where shapes differ."""
    if [a.shape for a in expected] != [a.shape for a in got]:
        return None
    return max(float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)) for a, b in zip(expected, got))


def main() -> None:
    with open(sys.argv[1]) as file:
        job = json.load(file)
    result = {"run": run, "bench": bench}[job["do"]](job)
    with open(sys.argv[2], "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
