"""Variants of a model's activations: each kind that phones have kernels for, in the place of all others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import fx
from torch._ops import OpOverload

from deploy_kit.advise.variant import Effect, Variant
from deploy_kit.graph import Graph, argument, aten, is_call

GELU = aten.gelu.default
ACTIVATIONS: dict[str, tuple[OpOverload, dict[str, Any]]] = {
    "GELU": (GELU, {}),
    "tanh-GELU": (GELU, {"approximate": "tanh"}),
    "ReLU": (aten.relu.default, {}),
    "SiLU": (aten.silu.default, {}),
    "hard-swish": (aten.hardswish.default, {}),
}
"""Each kind's operator and its arguments beside the input."""

IN_PLACE = {aten.relu_.default: "ReLU", aten.silu_.default: "SiLU", aten.hardswish_.default: "hard-swish"}


def activation_variants() -> list[Variant]:
    """Every activation of a model as ReLU, and so on; GELU as the form with tanh alone."""
    variants = [
        Variant("activation", f"every activation as {name}", Effect.RETRAIN, partial(_replace, name, lambda kind: True))
        for name in ACTIVATIONS
        if name != "tanh-GELU"
    ]
    approximate = partial(_replace, "tanh-GELU", lambda kind: kind == "GELU")
    return [Variant("activation", "GELU in its form with tanh", Effect.APPROXIMATE, approximate), *variants]


def _replace(name: str, concerns: Callable[[str], bool], graph: Graph) -> int:
    """Let every activation of the kinds that are concerned be the one called ``name``."""
    changed = 0
    op, arguments = ACTIVATIONS[name]
    for node in list(graph.nodes):
        kind = kind_of(node)
        if kind is None or kind == name or not concerns(kind):
            continue
        graph.replace(node, graph.call(op, node.args[0], before=node, **arguments))
        changed += 1
    return changed


def kind_of(node: fx.Node) -> str | None:
    """Which of `ACTIVATIONS` a node is; None where it is none of them."""
    if is_call(node, GELU):
        return "tanh-GELU" if argument(node, "approximate") == "tanh" else "GELU"
    if is_call(node, *IN_PLACE):
        target: Any = node.target
        return IN_PLACE[target]
    return next((name for name, (op, _) in ACTIVATIONS.items() if is_call(node, op)), None)
