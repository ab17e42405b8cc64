"""Where a wrong artifact went wrong: in capture, in a pass, or in the exporter, and at which module."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, fx

from deploy_kit.fusion import PASSES
from deploy_kit.graph import Graph, aten, is_call, is_view, module_path, only_user, operand
from deploy_kit.parity.compare import LIMITS, NO_NOISE_DB, Comparison, compare
from deploy_kit.parity.inputs import Case
from deploy_kit.parity.origin import Origin
from deploy_kit.parity.proof import Proof
from deploy_kit.parity.reduced import failure
from deploy_kit.parity.reference import Reference, in_float64, run_module, widen_inputs
from deploy_kit.precision.int8 import DEQUANTIZE, QUANTIZE
from deploy_kit.precision.select import is_clamp
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


def locate(origin: Origin, proof: Proof, cases: Sequence[Case]) -> str | None:
    """Where a file leaves its model; None where that cannot be told, for whatever reason."""
    try:
        found = diverge(origin, proof, cases)
    except Exception:  # whatever the search meets, it must not hide the failed proof itself
        return None
    return None if found is None else found.where


def diverge(origin: Origin, proof: Proof, cases: Sequence[Case]) -> Divergence | None:
    """The first place where a file leaves its model, on the worst case of its proof; None where none is found.

    Capture and each of the passes are compared in float64. Then the graph that the target is given is exported with
    intermediate tensors as outputs, and run by its runtime; and once more with all tensors between the last right one
    and the first wrong one. They are compared with float64 by the limits of float32, or in a reduced precision with
    how far PyTorch in that precision is from it.

    Raises:
        DeployKitError: the graph cannot be exported with more outputs, or not be run.
    """
    inputs = _worst(proof, cases).inputs
    where = _in_passes(origin.loaded, origin.passes, inputs)
    return Divergence(where) if where is not None else _in_exporter(origin, inputs)


def _worst(proof: Proof, cases: Sequence[Case]) -> Case:
    """The case whose outputs cannot be compared, or that keeps the least."""
    compared = list(zip(cases, proof.cases))
    if not compared:
        return cases[0]
    return min(compared, key=lambda pair: -NO_NOISE_DB if pair[1].snr_db is None else pair[1].snr_db)[0]


def _in_passes(loaded: LoadedModel, passes: Sequence[str], inputs: tuple[Tensor, ...]) -> str | None:
    graph = loaded.capture()
    fit = [x.shape for x in inputs] == [x.shape for x in graph.example_inputs]  # those of a larger batch do not
    inputs = widen_inputs(inputs if fit else graph.example_inputs)
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


def _in_exporter(origin: Origin, inputs: tuple[Tensor, ...]) -> Divergence | None:
    captured = {node.name for node in origin.fused.nodes}
    names = [node.name for node in origin.lowered.nodes if node.name in captured and _is_tappable(node)]
    step = max(1, len(names) // TAPS)
    coarse = [*names[step - 1 : -1 : step], *names[-1:]]
    taps = _tap(origin, coarse, inputs)
    first = _first_failure(taps)
    if first is None:
        return None
    start = names.index(coarse[first - 1]) + 1 if first else 0
    between = names[start : names.index(coarse[first]) + 1]
    closer = _tap(origin, between, inputs) if len(between) > 1 else taps[first : first + 1]
    found = _first_failure(closer)
    shown = taps[:first] + ([*closer, taps[first]] if found is None else closer[: found + 1])
    worst = taps[first] if found is None else closer[found]
    return Divergence(worst.module or worst.operator, shown)


def _first_failure(taps: Sequence[Tap]) -> int | None:
    return next((index for index, tap in enumerate(taps) if tap.failure is not None), None)


def _tap(origin: Origin, names: Collection[str], inputs: tuple[Tensor, ...]) -> list[Tap]:
    """The named tensors as the target's runtime computes them; none where nothing here can run it."""
    exporter, options = origin.exporter, origin.options
    tapped, fused = _with_taps(origin.lowered, names), _with_taps(origin.fused, names)
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
        exported = exporter.export(tapped, Path(scratch), options, Stages())
        ran = exporter.run(Path(scratch, exported.main_file), [inputs], options, exported.details)
    if ran.outputs is None and ran.source is not None:
        ran = ran.source
    if ran.outputs is None:
        return []
    eager = run_module(fused.module, inputs)
    exact = run_module(in_float64(fused.module), widen_inputs(inputs))
    precision = exporter.precision(options)
    simulated = exporter.simulated(tapped, options) if precision != "fp32" else None
    rounded = None if simulated is None else run_module(simulated.module, inputs)
    taps = []
    for index, node in enumerate(node for node in origin.lowered.nodes if node.name in names):
        node = _kernel_of(node)
        module, operator = module_path(node), str(node.target).removeprefix("aten.").removesuffix(".default")
        name, reference = f"{operator} of {module}", Reference([exact[index]], [eager[index]])
        compared = compare(name, "seeded", [ran.outputs[0][index]], reference)
        if rounded is None:
            wrong = compared.failure(LIMITS[precision])
        else:
            wrong = failure(compared, compare(name, "seeded", [rounded[index]], reference), LIMITS[precision])
        taps.append(Tap(module, operator, compared, wrong))
    return taps


def _with_taps(graph: Graph, names: Collection[str]) -> Graph:
    """A copy of a graph whose first outputs are the named values from along its way, in order."""
    copied = graph.copy()
    nodes = [node for node in copied.nodes if node.name in names]
    output = next(node for node in copied.nodes if node.op == "output")
    taps = [_read(copied, node, output) for node in nodes]
    output.args = ((*taps, *output.all_input_nodes),)
    copied.module.graph.set_codegen(fx.graph.CodeGen())
    copied.module.recompile()
    return copied


def _read(graph: Graph, node: fx.Node, output: fx.Node) -> fx.Node:
    """A value as an output: in float32, and from int8 where it is stored so, as its integer kernel makes it."""
    store = only_user(node)
    if store is not None and is_call(store, QUANTIZE):
        return graph.call(DEQUANTIZE, store, *store.args[1:], before=output, like=node)
    if node.meta["val"].dtype == torch.float16:
        return graph.call(aten._to_copy.default, node, dtype=torch.float32, before=output, like=node)
    return node


def _is_tappable(node: fx.Node) -> bool:
    """Whether a node makes a float tensor that no later operator writes over, and no kernel keeps to itself."""
    value = node.meta.get("val")
    if node.op != "call_function" or not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return False
    return not is_view(node) and not _is_overwritten(node) and not _is_clamped_in_kernel(node)


def _kernel_of(node: fx.Node) -> fx.Node:
    """The call of the integer kernel that makes a value, where that clamps it as well; else the value's own node."""
    return operand(node) if is_clamp(node) and _is_clamped_in_kernel(operand(node)) else node


def _is_clamped_in_kernel(node: fx.Node) -> bool:
    """Whether an integer kernel clamps a value before it stores it; as an output, it would not be that kernel's."""
    clamp = only_user(node)
    return clamp is not None and is_clamp(clamp) and is_call(only_user(clamp), QUANTIZE)


def _is_overwritten(node: fx.Node) -> bool:
    return any(
        (isinstance(user.target, torch._ops.OpOverload) and user.target._schema.is_mutable and user.args[0] is node)
        or (is_view(user) and _is_overwritten(user))
        for user in node.users
    )
