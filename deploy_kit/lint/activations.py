"""Activations that a runtime is slow at."""

from __future__ import annotations

from collections.abc import Iterator

from deploy_kit.graph import Graph, aten, is_call
from deploy_kit.lint.finding import Finding, Severity, findings

SLOW = {
    "torchscript-lite": (
        (aten.gelu.default, aten.gelu_.default),
        "the mobile interpreter computes it with ATen's kernel, not with XNNPACK's",
    ),
    "coreml": (
        (aten.hardswish.default, aten.hardswish_.default, aten.hardsigmoid.default),
        "it is several times slower than ReLU or GELU on iPhones: https://arxiv.org/abs/2206.01191, section 3",
    ),
}
"""By target, the activations and what is known of them."""


def find(graph: Graph, target: str) -> Iterator[Finding]:
    """Findings of the rule ``activations``."""
    if target not in SLOW:
        return
    operators, message = SLOW[target]
    nodes = [node for node in graph.nodes if is_call(node, *operators)]
    fix = "train with another activation (`--activation` of a reference model): it is another function"
    yield from findings(target, "activations", Severity.NOTE, nodes, message, fix)
