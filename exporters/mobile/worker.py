"""The part of the torchscript-lite target that runs inside a mobile interpreter.

``python worker.py JOB RESULT``: JOB and RESULT are JSON files. It needs Python 3.8 and any torch from
1.11 on, and nothing of deploykit: the interpreter that has XNNPACK is usually not ours.
"""

from __future__ import annotations

import io
import json
import sys
import time
from typing import Any, Dict, Tuple  # noqa: UP035  # Python 3.8 has no tuple[...] to evaluate

import torch
import torch.backends.xnnpack
import torch.jit.mobile
from torch.jit.mobile import (
    _backport_for_mobile_to_buffer,
    _export_operator_list,
    _get_model_bytecode_version,
    _load_for_lite_interpreter,
)


def probe(job: dict[str, Any]) -> dict[str, Any]:
    """Whether this interpreter can prepack, tried on one convolution."""
    return {"torch": torch.__version__, "xnnpack": _can_prepack(), "python": sys.executable}


def _can_prepack() -> bool:
    if not torch.backends.xnnpack.enabled:  # type: ignore[attr-defined]  # not in torch's stubs
        return False
    from torch.utils.mobile_optimizer import optimize_for_mobile

    conv = torch.nn.Conv2d(3, 4, 1).eval()
    with torch.no_grad():
        traced = torch.jit.freeze(torch.jit.trace(conv, torch.zeros(1, 3, 8, 8)))
    return "prepacked::" in str(optimize_for_mobile(traced).graph)


def save(job: dict[str, Any]) -> dict[str, Any]:
    """Write a TorchScript file for the lite interpreter, prepacked if asked."""
    module = torch.jit.load(job["source"], map_location="cpu").eval()
    if job["prepack"]:
        from torch.utils.mobile_optimizer import optimize_for_mobile

        module = optimize_for_mobile(module)
    _write(job["target"], module._save_to_buffer_for_lite_interpreter())
    version = job.get("bytecode_version")
    if version is not None and version != _get_model_bytecode_version(job["target"]):
        backported = _backport_for_mobile_to_buffer(job["target"], version)
        if not backported:
            raise SystemExit(f"this model cannot be written as bytecode version {version}")
        _write(job["target"], backported)
    found = inspect(job)
    return {**found, "calls": _count_calls(module, {name.split(".")[0] for name in found["operators"]})}


def _count_calls(module: Any, kinds: set[str]) -> dict[str, int]:
    """How often each of the file's operators is called, by name without its overload, most often first."""
    nodes = module.inlined_graph.findAllNodes
    counts = {kind: len(nodes(kind, recurse=True)) for kind in sorted(kinds)}
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _write(path: str, content: bytes) -> None:
    """Write a file from Python: torch's own writer aborts the process where the disk is full."""
    with open(path, "wb") as file:
        file.write(content)


def inspect(job: dict[str, Any]) -> dict[str, Any]:
    """Bytecode version of a file, and the operators that a build of the runtime needs for it."""
    loaded = _load_for_lite_interpreter(job["target"], map_location="cpu")
    return {
        "torch": torch.__version__,
        "bytecode_version": _get_model_bytecode_version(job["target"]),
        "operators": sorted(_export_operator_list(loaded)),
    }


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run a file on every set of inputs, and keep the outputs."""
    torch.set_num_threads(job["threads"])
    try:
        module = _load_for_lite_interpreter(job["target"], map_location="cpu")
    except RuntimeError as error:
        raise SystemExit(f"the file cannot be loaded: {error}") from None
    with torch.no_grad():
        outputs = [_flat(module(*inputs)) for inputs in torch.load(job["inputs"])]
    buffer = io.BytesIO()
    torch.save(outputs, buffer)
    _write(job["outputs"], buffer.getvalue())
    return {
        "torch": torch.__version__,
        "xnnpack": bool(torch.backends.xnnpack.enabled),  # type: ignore[attr-defined]  # not in torch's stubs
        "engine": torch.backends.quantized.engine,
    }


def _flat(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value.contiguous().clone()]
    values = value.values() if isinstance(value, dict) else value
    return [leaf for item in values for leaf in _flat(item)]


def bench(job: dict[str, Any]) -> dict[str, Any]:
    """Time several files in turn, one inference each a turn, so that what disturbs one disturbs all.

    oneDNN computes some operators on x86 that are not prepacked, and is on no phone: it can be off.
    """
    torch.set_num_threads(job["threads"])
    torch._C._set_mkldnn_enabled(job["onednn"])
    modules = {name: _load_for_lite_interpreter(path, map_location="cpu") for name, path in job["files"].items()}
    inputs = torch.load(job["inputs"])[0]
    samples: dict[str, list[float]] = {name: [] for name in modules}
    with torch.no_grad():
        for turn in range(job["warmup"] + job["iterations"]):
            if turn == job["warmup"]:
                begun = time.perf_counter()
            for name, module in modules.items():
                start = time.perf_counter()
                module(*inputs)
                if turn >= job["warmup"]:
                    samples[name].append(time.perf_counter() - start)
    return {"torch": torch.__version__, "seconds": samples, "window": [begun, time.perf_counter()]}


LITE_INTERPRETER = 6
"""The profiler's scope of an operator that the interpreter itself calls."""


def profile(job: dict[str, Any]) -> dict[str, Any]:
    """Time a file's operators with the autograd profiler, and in turn whole inferences without it.

    An operator's time is its own, without that of the operators that it calls: a copy inside of a LayerNorm is a copy.

    Returns:
        ``plain`` and ``profiled``: seconds of each inference. ``calls``: the interpreter's calls in order, each with
        the name of its ``operator`` and the ``parts`` of its time: of each name in it the ``calls`` and the ``us`` of
        each inference.
    """
    torch.set_num_threads(job["threads"])
    try:
        module = _load_for_lite_interpreter(job["target"], map_location="cpu")
    except RuntimeError as error:
        raise SystemExit(f"the file cannot be loaded: {error}") from None
    inputs = torch.load(job["inputs"])[0]
    seconds: dict[str, list[float]] = {"plain": [], "profiled": []}
    turns: list[list[Call]] = []
    with torch.no_grad():
        for turn in range(job["warmup"] + job["iterations"]):
            start = time.perf_counter()
            module(*inputs)
            plain = time.perf_counter() - start
            with torch.autograd.profiler.profile() as profiler:
                start = time.perf_counter()
                module(*inputs)
                profiled = time.perf_counter() - start
            if turn >= job["warmup"]:
                seconds["plain"].append(plain)
                seconds["profiled"].append(profiled)
                turns.append(_calls(profiler.function_events))
    return {"runtime": f"torch lite {torch.__version__}", **seconds, "calls": _together(turns)}


Call = Tuple[str, Dict[str, Tuple[int, float]]]  # noqa: UP006  # as above
"""One call of the interpreter: its operator, and of each operator's name within it the calls and the microseconds."""


def _calls(events: Any) -> list[Call]:
    """The interpreter's calls in order, each with the operators within it, less the time of those within these.

    The interpreter's call of an operator and the operator's own function are two events of one name: one call. The
    profiler's own sum counts events twice that begin and end in the same microsecond, which most here do.
    """
    ordered = sorted(events, key=lambda event: (event.time_range.start, event.id))
    own = _own_times(ordered)
    calls: list[Call] = []
    before = None
    for event, microseconds in zip(ordered, own):
        called = event.scope == LITE_INTERPRETER or not calls
        if called:
            calls.append((event.name, {}))
        within = calls[-1][1]
        same = not called and before is not None and before.scope == LITE_INTERPRETER and before.name == event.name
        count, total = within.get(event.name, (0, 0.0))
        within[event.name] = (count + (not same), total + microseconds)
        before = event
    return calls


def _own_times(events: list[Any]) -> list[float]:
    """Microseconds of each event, less those of the events within it; they are in the order in which they began."""
    own = [0.0] * len(events)
    around: list[tuple[int, float]] = []
    for index, event in enumerate(events):
        start, end = event.time_range.start, event.time_range.end
        while around and start >= around[-1][1]:
            around.pop()
        if around:
            outer, until = around[-1]
            end = min(end, until)
            own[outer] -= end - start
        own[index] += end - start
        around.append((index, end))
    return own


def _together(turns: list[list[Call]]) -> list[dict[str, Any]]:
    """The calls of every inference, which are the same ones, as one list with the times of each inference."""
    names = [name for name, _ in turns[0]]
    if any([name for name, _ in turn] != names for turn in turns):
        raise SystemExit("the file calls other operators in one inference than in the next, and cannot be profiled")
    return [{"operator": name, "parts": _parts([turn[index][1] for turn in turns])} for index, name in enumerate(names)]


def _parts(times: list[dict[str, tuple[int, float]]]) -> list[dict[str, Any]]:
    """What one call consists of, by name, from the inferences' times of it."""
    names = dict.fromkeys(name for inference in times for name in inference)
    return [
        {
            "operator": name,
            "calls": max(inference.get(name, (0, 0.0))[0] for inference in times),
            "us": [inference.get(name, (0, 0.0))[1] for inference in times],
        }
        for name in names
    ]


def main() -> None:
    with open(sys.argv[1]) as file:
        job = json.load(file)
    if "qnnpack" in torch.backends.quantized.supported_engines:
        torch.backends.quantized.engine = "qnnpack"  # what phones have
    jobs = {"probe": probe, "save": save, "inspect": inspect, "run": run, "bench": bench, "profile": profile}
    result = jobs[job["do"]](job)
    with open(sys.argv[2], "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
