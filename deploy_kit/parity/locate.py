"""Where a wrong artifact went wrong: in capture, in a pass, or in the exporter, and at which module."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from deploy_kit.exporters.base import Exporter
from deploy_kit.fusion import PASSES
from deploy_kit.graph import Graph, is_view, module_path
from deploy_kit.parity.compare import LIMITS, Comparison, Limits, compare
from deploy_kit.parity.reference import Reference, in_float64, run_module, widen_inputs
from deploy_kit.sources import LoadedModel
from deploy_kit.stages import Stages

EXACT = 1e-9
"""Two float64 computations of one function differ by less than this, relatively."""

TAPS = 48
"""How many intermediate tensors are looked at in one export."""


@dataclass(frozen=True)
class Tap:
    """An intermediate tensor as the runtime computes it: its module and operator, and how far it is from float64."""

    module: str
    operator: str
    comparison: Comparison
    failure: str | None


@dataclass(frozen=True)
class Divergence:
    """Where an artifact leaves its model, in words, and the tensors that were looked at around that place, in order."""

    where: str
    taps: list[Tap] = field(default_factory=list)


def locate(loaded: LoadedModel, fused: Graph, passes: Sequence[str], exporter: Exporter, options: Any) -> str | None:
    """Where a float32 artifact leaves its model; None where that cannot be told, for whatever reason."""
    try:
        found = diverge(loaded, fused, passes, exporter, options, LIMITS["fp32"])
    except Exception:  # whatever the search meets, it must not hide the failed proof itself
        return None
    return None if found is None else found.where


def diverge(
    loaded: LoadedModel, graph: Graph, passes: Sequence[str], exporter: Exporter, options: Any, limits: Limits
) -> Divergence | None:
    """The first place where an artifact leaves its model; None where none is found.

    Capture and each of the ``passes``, which made ``graph``, are compared in float64. Then ``graph``, which is what
    the target is given, is exported with intermediate tensors as outputs, and run by its runtime; and once more with
    all tensors between the last that is within ``limits`` and the first that is not. They are compared with float64,
    or where ``limits`` are those of a reduced precision, with what PyTorch makes of the reduced graph.

    Raises:
        DeployKitError: the graph cannot be exported with more outputs, or not be run.
    """
    where = _in_passes(loaded, passes)
    return Divergence(where) if where is not None else _in_exporter(graph, exporter, options, limits)


def _in_passes(loaded: LoadedModel, passes: Sequence[str]) -> str | None:
    graph = loaded.capture()
    inputs = widen_inputs(graph.example_inputs)
    expected = run_module(in_float64(loaded.module), inputs)
    widened = widen(graph)
    if not _equal(run_module(widened.module, inputs), expected):
        return "capture: the graph is not the model"
    for name in passes:
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


def _in_exporter(fused: Graph, exporter: Exporter, options: Any, limits: Limits) -> Divergence | None:
    names = [node.name for node in fused.nodes if _is_tappable(node)]
    step = max(1, len(names) // TAPS)
    coarse = names[step - 1 :: step]
    taps = _tap(fused, coarse, exporter, options, limits)
    first = _first_failure(taps)
    if first is None:
        return None
    start = names.index(coarse[first - 1]) + 1 if first else 0
    between = names[start : names.index(coarse[first]) + 1]
    closer = _tap(fused, between, exporter, options, limits) if len(between) > 1 else taps[first : first + 1]
    found = _first_failure(closer)
    shown = taps[:first] + (closer if found is None else closer[: found + 1])
    worst = taps[first] if found is None else closer[found]
    return Divergence(worst.module or worst.operator, shown)


def _first_failure(taps: Sequence[Tap]) -> int | None:
    return next((index for index, tap in enumerate(taps) if tap.failure is not None), None)


def _tap(fused: Graph, names: Sequence[str], exporter: Exporter, options: Any, limits: Limits) -> list[Tap]:
    """The named tensors as the target's runtime computes them; none where nothing here can run it."""
    tapped, nodes = _with_taps(fused, names)
    inputs = tuple(fused.example_inputs)
    eager = run_module(tapped.module, inputs)
    reduced = limits.noise_ratio is None
    exact = eager if reduced else run_module(in_float64(tapped.module), widen_inputs(inputs))
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
        exported = exporter.export(tapped, Path(scratch), options, Stages())
        ran = exporter.run(Path(scratch, exported.main_file), [inputs], options, exported.details)
    if ran.outputs is None and ran.source is not None:
        ran = ran.source
    if ran.outputs is None:
        return []
    taps = []
    for node, output, right, float32 in zip(nodes, ran.outputs[0], exact, eager):
        module, operator = module_path(node), str(node.target).removeprefix("aten.").removesuffix(".default")
        compared = compare(f"{operator} of {module}", "seeded", [output], Reference([right], [float32]))
        taps.append(Tap(module, operator, compared, compared.failure(limits)))
    return taps


def _with_taps(graph: Graph, names: Sequence[str]) -> tuple[Graph, list[fx.Node]]:
    """A copy of a graph whose first outputs are the named values from along its way, in order."""
    copied = graph.copy()
    taps = [node for node in copied.nodes if node.name in names]
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
