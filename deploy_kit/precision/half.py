"""fp16: a graph that computes in half precision, except where a value has no room in it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from deploy_kit.errors import unknown_name
from deploy_kit.graph import Graph, is_view, module_path, operand
from deploy_kit.parity.reference import one_thread
from deploy_kit.precision.select import is_within

aten = torch.ops.aten

LARGEST, SMALLEST = 65504.0, 2.0**-25
"""The largest number of fp16, and the largest that it rounds to zero."""

HEADROOM = 2.0
"""Inputs that were not calibrated on may be this many times as large as those that were."""

INFINITE = 1e38
"""Larger constants stand for infinity, such as those of attention masks, and may become it."""


@dataclass(frozen=True)
class Kept:
    """A call that stays in float32: its node, the module that made it, and why."""

    operator: str
    module: str
    reason: str


class _Ranges(fx.Interpreter):
    """Runs a graph in float32 and keeps the largest magnitude of every value."""

    def __init__(self, module: fx.GraphModule):
        super().__init__(module)
        self.largest: dict[str, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
            finite = value.abs()
            finite = finite[finite < INFINITE]
            largest = finite.max().item() if finite.numel() else 0.0
            self.largest[n.name] = max(self.largest.get(n.name, 0.0), largest)
        return value


def audit(graph: Graph) -> dict[str, str]:
    """The calls that must stay in float32, by their nodes' names, with the reason.

    A value needs float32 if its largest magnitude on the calibration inputs, with headroom, is beyond fp16's
    largest, or if it is computed with a constant that fp16 rounds to zero. The calls that make it or read it
    stay in float32: with one of them less, the value would pass through fp16. Views take the type of their
    source.
    """
    ranges = _Ranges(graph.module)
    with torch.no_grad(), one_thread():
        for inputs in graph.calibration:
            ranges.run(*(x.clone() for x in inputs))
    reasons: dict[str, str] = {}
    for node in graph.nodes:
        largest = ranges.largest.get(node.name, 0.0)
        if largest * HEADROOM > LARGEST:
            reason = f"{node.name} reaches {largest:.3g}"
            for call in (node, *_readers(node)):
                reasons.setdefault(call.name, reason)
        elif (tiny := _tiny_constant(node)) is not None:
            reasons.setdefault(node.name, f"fp16 rounds its constant {tiny:.3g} to zero")
            for call in _readers(node):
                reasons.setdefault(call.name, f"{node.name} is computed with {tiny:.3g}")
    return {
        node.name: reasons[node.name] for node in graph.nodes if node.op == "call_function" and node.name in reasons
    }


def _readers(node: fx.Node) -> Iterable[fx.Node]:
    """The calls that read a value, through views as well."""
    for user in node.users:
        if user.op == "call_function":
            yield user
            if is_view(user):
                yield from _readers(user)


def _tiny_constant(node: fx.Node) -> float | None:
    if node.op != "call_function" or not _is_float(node):
        return None
    numbers = [x for x in (*node.args, *node.kwargs.values()) if isinstance(x, float)]
    if node.target in (aten.layer_norm.default, aten.group_norm.default, aten.batch_norm.default):
        return None  # runtimes keep a norm's epsilon in float32
    return next((x for x in numbers if 0 < abs(x) <= SMALLEST), None)


def to_half(graph: Graph, keep: Collection[str] = ()) -> tuple[Graph, list[Kept]]:
    """A graph that computes in fp16; its inputs and outputs stay float32.

    Args:
        graph: float32, with calibration inputs; it is not changed.
        keep: modules that stay in float32.

    Returns:
        The graph, and the calls that stay in float32.

    Raises:
        UserError: a name in ``keep`` is of no module.
    """
    reasons = audit(graph)
    reasons |= dict.fromkeys(_within(graph, keep), "as asked")
    copied = graph.copy()
    casts: dict[tuple[fx.Node, torch.dtype], fx.Node] = {}
    kept = []
    for node in list(copied.nodes):
        if node.op == "output":
            _cast_inputs(copied, node, torch.float32, casts)
        if node.op != "call_function" or not _touches_floats(node):
            continue
        wanted = torch.float32 if node.name in reasons else torch.float16
        if is_view(node) and node.name not in reasons:
            wanted = operand(node).meta["val"].dtype if _is_float(operand(node)) else wanted
        if node.name in reasons and not is_view(node):
            kept.append(Kept(str(node.target), module_path(node), reasons[node.name]))
        _cast_inputs(copied, node, wanted, casts)
        if wanted == torch.float16:
            node.args, node.kwargs = fx.node.map_aggregate((node.args, node.kwargs), _halve)
        copied.refresh(node)
    copied.clean()
    return replace(copied, calibration=graph.calibration), kept


def _within(graph: Graph, keep: Collection[str]) -> list[str]:
    """The calls of some modules, by their nodes' names; `UserError` for a module that makes none."""
    calls = [node for node in graph.nodes if node.op == "call_function"]
    found = []
    for name in keep:
        within = [node.name for node in calls if is_within(module_path(node), name)]
        if not within:
            raise unknown_name("module", name, sorted({module_path(node) for node in calls} - {""}))
        found += within
    return found


def _halve(value: Any) -> Any:
    return torch.float16 if value is torch.float32 else value


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def _touches_floats(node: fx.Node) -> bool:
    values = node.meta.get("val")
    made = values if isinstance(values, (tuple, list)) else [values]
    return any(isinstance(x, Tensor) and x.is_floating_point() for x in made) or any(
        _is_float(x) for x in node.all_input_nodes
    )


def _cast_inputs(graph: Graph, node: fx.Node, wanted: torch.dtype, casts: dict[Any, fx.Node]) -> None:
    for value in node.all_input_nodes:
        if not _is_float(value) or value.meta["val"].dtype == wanted:
            continue
        if (value, wanted) not in casts:
            casts[value, wanted] = _cast(graph, value, wanted)
        node.replace_input_with(value, casts[value, wanted])


def _cast(graph: Graph, value: fx.Node, wanted: torch.dtype) -> fx.Node:
    constant = graph.constant(value)
    if constant is not None:
        return graph.add_constant(constant.to(wanted), f"{value.target}_half", before=value.next)
    before = value.next
    while before.op == "placeholder":
        before = before.next
    return graph.call(aten._to_copy.default, value, dtype=wanted, before=before, like=value)
