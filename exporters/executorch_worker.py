"""The part of the executorch target that needs ExecuTorch, in a process of its own: it runs native code.

``python -P executorch_worker.py JOB RESULT``: JOB and RESULT are JSON files. ``-P`` keeps this folder,
which has an ``executorch.py``, off the path.
"""

from __future__ import annotations

import gc
import io
import json
import logging
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx


def lower(job: dict[str, Any]) -> dict[str, Any]:
    """Lower an exported program to a file, and say where its operators went."""
    from executorch.exir import to_edge_transform_and_lower

    if job["quick"]:
        _make_quick()
    program = torch.export.load(job["source"])
    edge = to_edge_transform_and_lower(program, partitioner=_partitioners(job, program))
    placement = _placement(edge.exported_program().graph_module)
    manager = edge.to_executorch()
    with Path(job["target"]).open("wb") as file:
        manager.write_to_file(file)
    if job["bundle"] is not None:
        _bundle(manager, job["bundle"], torch.load(job["cases"], weights_only=True))
    plan = manager.executorch_program.execution_plan[0]
    return {**placement, "arena_bytes": sum(plan.non_const_buffer_sizes)}


def _make_quick() -> None:
    """Leave out what takes a fifth of a lowering and changes nothing in its file.

    Every pass makes each node anew, with a deep copy of where it came from, which grows from pass to pass. Nothing
    writes into that, so a copy may be the same object. Graphs are full of cycles, and little of them can be freed.
    """
    from torch.fx.traceback import NodeSource

    NodeSource.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]  # which is what copy looks for
    gc.freeze()
    gc.disable()


def _partitioners(job: dict[str, Any], program: torch.export.ExportedProgram) -> list[Any]:
    delegate = job["delegate"]
    if delegate == "xnnpack":
        from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

        out = {f"{name}.default" for name in job.get("keep_out", [])}
        return [XnnpackPartitioner([config for config in ALL_PARTITIONER_CONFIGS if config.target_name not in out])]
    if delegate == "coreml":
        from executorch.backends.apple.coreml.partition import CoreMLPartitioner

        pixels = any(x.dtype == torch.uint8 for x in program.example_inputs[0])
        casts = ["dim_order_ops._to_dim_order_copy.default"] if pixels else []  # CoreML has no uint8 tensors
        return [CoreMLPartitioner(skip_ops_for_coreml_delegation=casts)]
    if delegate == "vulkan":
        from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner

        return [VulkanPartitioner()]
    return []


def _placement(module: fx.GraphModule) -> dict[str, Any]:
    """How often each operator is called inside and outside of delegates, and how many delegates there are."""
    from executorch.exir.lowered_backend_module import get_lowered_submodules

    lowered = [submodule for _, submodule, _ in get_lowered_submodules(module)]
    inside = sum((_count(submodule.original_module.graph) for submodule in lowered), Counter[str]())
    outside = _count(module.graph)
    subgraphs = outside.pop("executorch_call_delegate", 0)
    return {
        "delegated": dict(inside.most_common()),
        "undelegated": dict(outside.most_common()),
        "subgraphs": subgraphs,
    }


def _count(graph: fx.Graph) -> Counter[str]:
    names = (getattr(node.target, "__name__", str(node.target)) for node in graph.nodes if node.op == "call_function")
    return Counter(name.split(".")[-2] if "." in name else name for name in names if name != "getitem")


def _bundle(manager: Any, target: str, cases: list[dict[str, list[Tensor]]]) -> None:
    """Write the program with inputs and the outputs that are expected for them."""
    from executorch.devtools.bundled_program.config import MethodTestCase, MethodTestSuite
    from executorch.devtools.bundled_program.core import BundledProgram
    from executorch.devtools.bundled_program.serialize import serialize_from_bundled_program_to_flatbuffer

    tests = [MethodTestCase(inputs=case["inputs"], expected_outputs=case["outputs"]) for case in cases]
    bundled = BundledProgram(manager, [MethodTestSuite("forward", tests)])
    Path(target).write_bytes(serialize_from_bundled_program_to_flatbuffer(bundled))


class Program:
    """A program that ExecuTorch's runtime has loaded; its bytes must live as long as it does."""

    def __init__(self, path: str, threads: int):
        from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
        from executorch.runtime import Runtime

        _unsafe_reset_threadpool(threads)
        self.data = Path(path).read_bytes()
        try:
            self.program = Runtime.get().load_program(self.data)
            self.method = self.program.load_method("forward")
        except RuntimeError as error:
            raise SystemExit(f"the file cannot be loaded: {_root_cause(error)}") from None

    def __call__(self, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        assert self.method is not None
        return list(self.method.execute(inputs))


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run a file on every set of inputs, and keep the outputs."""
    program = Program(job["target"], job["threads"])
    outputs = [[x.clone() for x in program(inputs)] for inputs in torch.load(job["inputs"], weights_only=True)]
    buffer = io.BytesIO()
    torch.save(outputs, buffer)  # torch's own writer aborts where the disk is full
    Path(job["outputs"]).write_bytes(buffer.getvalue())
    return {}


def check_bundle(job: dict[str, Any]) -> dict[str, Any]:
    """Let the runtime compare a bundled program's first case with what it expects; ``problem`` says what is wrong."""
    from executorch.extension.pybindings import portable_lib

    data = Path(job["target"]).read_bytes()  # must live as long as what is made of it
    bundled = portable_lib._load_bundled_program_from_buffer(data)
    try:
        bundled.verify_result_with_bundled_expected_output("forward", 0, rtol=job["rtol"], atol=job["atol"])
    except RuntimeError as error:
        return {"problem": str(error).splitlines()[0]}
    return {"problem": None}


def bench(job: dict[str, Any]) -> dict[str, Any]:
    """Time several files in turn, one inference each a turn, so that what disturbs one disturbs all."""
    programs = {name: Program(path, job["threads"]) for name, path in job["files"].items()}
    inputs = torch.load(job["inputs"], weights_only=True)[0]
    samples: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(job["warmup"] + job["iterations"]):
        if turn == job["warmup"]:
            begun = time.perf_counter()
        for name, program in programs.items():
            start = time.perf_counter()
            program(inputs)
            if turn >= job["warmup"]:
                samples[name].append(time.perf_counter() - start)
    return {"seconds": samples, "window": [begun, time.perf_counter()]}


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def main() -> None:
    logging.disable(logging.WARNING)  # of packages that ExecuTorch imports and does not use here
    warnings.simplefilter("ignore")  # of torch about itself: they would be the last words
    job = json.loads(Path(sys.argv[1]).read_text())
    jobs = {"lower": lower, "run": run, "check_bundle": check_bundle, "bench": bench}
    try:
        result = jobs[job["do"]](job)
    except Exception as error:  # many types come out of lowering; the user needs the reason alone
        raise SystemExit(_root_cause(error)) from None
    Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
