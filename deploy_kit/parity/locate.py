"""Where a wrong artifact went wrong: in capture, in a pass, or in the exporter, and at which module."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from deploy_kit.exporters.base import Exporter
from deploy_kit.fusion import PASSES, Policy
from deploy_kit.graph import Graph, is_view, module_path
from deploy_kit.parity.compare import compare
from deploy_kit.parity.reference import Reference, in_float64, run_module, widen_inputs
from deploy_kit.sources import LoadedModel
from deploy_kit.stages import Stages

EXACT = 1e-9
"""Two float64 computations of one function differ by less than this, relatively."""

TAPS = 48


def locate(loaded: LoadedModel, fused: Graph, exporter: Exporter, options: Any) -> str | None:
    """The first place where an artifact leaves its model; None where none can be told.

    Capture and each pass are compared in float64; then the fused graph is exported once more with
    intermediate tensors as outputs, and run by the target's runtime.
    """
    try:
        return _in_passes(loaded, exporter.policy(options)) or _in_exporter(fused, exporter, options)
    except Exception:  # whatever the search meets, it must not hide the failed proof itself
        return None


def _in_passes(loaded: LoadedModel, policy: Policy) -> str | None:
    graph = loaded.capture()
    inputs = widen_inputs(graph.example_inputs)
    expected = run_module(in_float64(loaded.module), inputs)
    widened = widen(graph)
    if not _equal(run_module(widened.module, inputs), expected):
        return "capture: the graph is not the model"
    for name in policy.names:
        rewrites = PASSES[name].run(widened)
        if not _equal(run_module(widened.module, inputs), expected):
            modules = ", ".join(dict.fromkeys(rewrite.module or "the model" for rewrite in rewrites))
            return f"the pass {name}, at {modules}"
    return None


def widen(graph: Graph) -> Graph:
    """A copy of a graph that computes in float64, with its fake values in float64 too."""
    copied = graph.copy()
    module = in_float64(copied.module)
    assert isinstance(module, fx.GraphModule)
    for node in module.graph.nodes:
        if isinstance(node.meta.get("val"), Tensor) and node.meta["val"].is_floating_point():
            node.meta["val"] = node.meta["val"].double()
    return Graph(module, widen_inputs(graph.example_inputs), graph.dynamic_batch)


def _equal(outputs: list[Tensor], expected: list[Tensor]) -> bool:
    return all(
        a.shape == b.shape and ((a - b).abs().max() <= EXACT * b.abs().max()).item() for a, b in zip(outputs, expected)
    )


def _in_exporter(fused: Graph, exporter: Exporter, options: Any) -> str | None:
    tapped, taps = _with_taps(fused)
    inputs = tuple(fused.example_inputs)
    exact = run_module(in_float64(tapped.module), widen_inputs(inputs))
    eager = run_module(tapped.module, inputs)
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
        exported = exporter.export(tapped, Path(scratch), options, Stages())
        ran = exporter.run(Path(scratch, exported.main_file), [inputs], options, exported.details)
    if ran.outputs is None and ran.source is not None:
        ran = ran.source
    if ran.outputs is None:
        return None
    for index, node in enumerate(taps):
        result = compare(node.name, "noise", [ran.outputs[0][index]], Reference([exact[index]], [eager[index]]))
        if result.failure():
            return module_path(node) or node.name
    return None


def _with_taps(graph: Graph) -> tuple[Graph, list[fx.Node]]:
    """A copy of a graph whose first outputs are values from along its way, in order."""
    copied = graph.copy()
    nodes = [node for node in copied.nodes if _is_tappable(node)]
    step = max(1, len(nodes) // TAPS)
    taps = nodes[step - 1 :: step]
    output = next(node for node in copied.nodes if node.op == "output")
    old = output.all_input_nodes
    output.args = ((*taps, *old),)
    copied.module.graph.set_codegen(fx.graph.CodeGen())
    copied.module.recompile()
    return copied, taps


def _is_tappable(node: fx.Node) -> bool:
    """Whether a node makes a float tensor that no later operator writes over."""
    value = node.meta.get("val")
    if node.op != "call_function" or not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return False
    return not is_view(node) and not _is_overwritten(node)


def _is_overwritten(node: fx.Node) -> bool:
    return any(
        (isinstance(user.target, torch._ops.OpOverload) and user.target._schema.is_mutable and user.args[0] is node)
        or (is_view(user) and _is_overwritten(user))
        for user in node.users
    )
