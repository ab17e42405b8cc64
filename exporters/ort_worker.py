"""The part of the onnx target that calls native code: onnxruntime, onnxsim and ONNX's checker, in a process of its own.

``python -P ort_worker.py JOB RESULT``: JOB and RESULT are JSON files. ``-P`` keeps this folder, which has an
``onnx.py``, off the path.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

NOT_LOADED = "the file cannot be loaded"
"""How the last words begin where onnxruntime refuses a file."""


def _session(path: str, threads: int, trace: str | None = None) -> onnxruntime.InferenceSession:
    """A session of a file; with ``trace`` it is profiled, and that begins the name of the profile's file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if trace is not None:
        options.enable_profiling, options.profile_file_prefix = True, trace
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common type
        raise SystemExit(f"{NOT_LOADED}: {error}") from None


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
    """Time several models in turn, one inference each a turn; also their largest difference from the first.

    With ``job["count"]`` the ``operators`` of each are counted, once onnxruntime has fused them, as it does on every
    processor.
    """
    sessions = {name: _session(path, job["threads"]) for name, path in job["files"].items()}
    arrays = _read(job["inputs"])[0]
    results = {name: session.run(None, _feed(session, arrays)) for name, session in sessions.items()}
    samples: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(job["warmup"] + job["iterations"]):
        if turn == job["warmup"]:
            begun = time.perf_counter()
        for name, session in sessions.items():
            feed = _feed(session, arrays)
            start = time.perf_counter()
            session.run(None, feed)
            if turn >= job["warmup"]:
                samples[name].append(time.perf_counter() - start)
    window = [begun, time.perf_counter()]
    first = next(iter(results.values()))
    counted = {"operators": {name: _fused(path) for name, path in job["files"].items()}} if job.get("count") else {}
    return {
        "onnxruntime": onnxruntime.__version__,
        "seconds": samples,
        "window": window,
        "difference": {name: _difference(first, result) for name, result in results.items()},
        **counted,
    }


def _fused(path: str) -> int:
    """How many operators are left of a model when onnxruntime has fused them."""
    import onnx

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
        options.optimized_model_filepath = str(Path(scratch, "fused.onnx"))
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "fused.data")
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return len(onnx.load(options.optimized_model_filepath, load_external_data=False).graph.node)


def profile(job: dict[str, Any]) -> dict[str, Any]:
    """Time a model's nodes with onnxruntime's profiler, and in turn whole inferences without it.

    Returns:
        ``plain`` and ``profiled``: seconds of each inference. ``operators``: of each node that ran its ``operator``,
        its ``names`` (one), the ``us`` of each inference, the ``bytes`` of its activations and of its parameters
        (less those that onnxruntime has packed), and its ``macs`` where they follow from shapes alone.
        ``dataflow``: the nodes of ``job["graph"]``, an .onnx, in order.
    """
    import onnx

    plain = _session(job["model"], job["threads"])
    profiled = _session(job["model"], job["threads"], job["trace"])
    feed = _feed(plain, _read(job["inputs"])[0])
    seconds: dict[str, list[float]] = {"plain": [], "profiled": []}
    for turn in range(job["warmup"] + job["iterations"]):
        for name, session in (("plain", plain), ("profiled", profiled)):
            start = time.perf_counter()
            session.run(None, feed)
            if turn >= job["warmup"]:
                seconds[name].append(time.perf_counter() - start)
    events = json.loads(Path(profiled.end_profiling()).read_text())
    graph = onnx.load(job["graph"], load_external_data=False).graph
    dataflow = [{"names": [node.name, *node.output], "inputs": list(node.input)} for node in graph.node]
    operators = _timed_nodes(events, job["warmup"])
    return {
        "runtime": f"onnxruntime {onnxruntime.__version__}",
        **seconds,
        "operators": operators,
        "dataflow": dataflow,
    }


def _timed_nodes(events: list[dict[str, Any]], warmup: int) -> list[dict[str, Any]]:
    """The nodes in a profile, with a time for each run after the first ``warmup``."""
    suffix, runs = "_kernel_time", 0
    nodes: dict[tuple[str, str], dict[str, Any]] = {}
    for event in events:
        runs += event["name"] == "model_run"
        if event.get("cat") != "Node" or not event["name"].endswith(suffix) or runs < warmup:
            continue
        facts, name = event["args"], event["name"][: -len(suffix)]
        node = nodes.setdefault(
            (facts["node_index"], name),
            {
                "operator": facts["op_name"],
                "names": [name],
                "us": [],
                "bytes": int(facts["activation_size"]) + int(facts["output_size"]),
                "parameter_bytes": int(facts["parameter_size"]),
                "macs": _product_macs(facts),
            },
        )
        node["us"].append(event["dur"])
    return list(nodes.values())


def _product_macs(facts: dict[str, Any]) -> int | None:
    """Multiply-accumulates of a matrix product, from the shapes of its left side and of its result."""
    if facts["op_name"] not in ("MatMul", "FusedMatMul", "Gemm"):
        return None
    (left,), (result,) = facts["input_type_shape"][0].values(), facts["output_type_shape"][0].values()
    if len(left) < 2 or len(result) < 2:
        return None
    if result[-2] not in left[-2:]:
        return None
    return int(np.prod(result)) * (left[-1] if result[-2] == left[-2] else left[-2])


def _difference(expected: list[np.ndarray], got: list[np.ndarray]) -> float | None:
    """The largest difference relative to the largest value, over all outputs; null where shapes differ."""
    if [a.shape for a in expected] != [a.shape for a in got]:
        return None
    return max(float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)) for a, b in zip(expected, got))


def check(job: dict[str, Any]) -> dict[str, Any]:
    """Check a file with ONNX's own checker; returns the ``problem`` or None, and how often each operator is there."""
    import onnx

    try:
        onnx.checker.check_model(job["model"], full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return {"problem": _first_line(error), "operators": {}}
    graph = onnx.load(job["model"], load_external_data=False).graph
    return {"problem": None, "operators": dict(Counter(node.op_type for node in graph.node).most_common())}


def simplify(job: dict[str, Any]) -> dict[str, Any]:
    """Write onnxsim's form of a model, with its weights in the file ``data`` if that is named.

    Returns:
        ``confirmed``: whether onnxsim could confirm that its result computes the same.
    """
    import onnx
    import onnxsim

    model, confirmed = onnxsim.simplify(job["model"])
    external = {"save_as_external_data": True, "location": job["data"]} if job["data"] else {}
    onnx.save(model, job["target"], **external)
    return {"confirmed": bool(confirmed)}


def convert(job: dict[str, Any]) -> dict[str, Any]:
    """Write a ``.onnx`` once more in onnxruntime's own format, beside it, and the list of what a build needs for it.

    Everything is optimized that any processor gains from. The platform ``arm`` leaves out NCHWc, a layout that only
    x86 computes in, and keeps int8 as int8, which x86 would turn into uint8.

    Returns:
        How often each operator is in the ``.ort``, by ``domain;opset;name``.
    """
    from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort
    from onnxruntime.tools.reduced_build_config_parser import parse_config

    source, config = Path(job["model"]), Path(job["config"])
    convert_onnx_models_to_ort(
        source, optimization_styles=[OptimizationStyle.Fixed], target_platform="arm", enable_type_reduction=True
    )
    written = source.with_suffix(".required_operators_and_types.config")
    lines = [line for line in written.read_text().splitlines() if not line.startswith("#")]  # folders of this machine
    written.unlink()
    config.write_text("\n".join([f"# The operators of {source.with_suffix('.ort').name}, and their types", *lines, ""]))
    operators = _operators(source.with_suffix(".ort"))
    listed, _ = parse_config(str(config), True)
    for domain, opset, name in (operator.split(";") for operator in operators):
        if name not in listed.get(domain, {}).get(int(opset), ()):
            raise SystemExit(f"{name} ({domain}, opset {opset}) is not in {config.name}, and the model needs it")
    return {"operators": operators}


def _operators(file: Path) -> dict[str, int]:
    """How often each operator is in an ``.ort`` file, read from it without loading it."""
    from onnxruntime.tools.ort_format_model.ort_model_processor import OrtFormatModelProcessor

    found: Counter[str] = Counter()

    class Counting(OrtFormatModelProcessor):
        def _add_required_op(self, domain: str, opset: int, op_type: str) -> None:
            found[f"{domain};{opset};{op_type}"] += 1

    Counting(str(file), {}, None).process()
    return dict(found.most_common())


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def main() -> None:
    with open(sys.argv[1]) as file:
        job = json.load(file)
    jobs = {"run": run, "bench": bench, "profile": profile, "check": check, "simplify": simplify, "convert": convert}
    result = jobs[job["do"]](job)
    with open(sys.argv[2], "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
