"""Shapes that are not known before the model runs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx

from deploy_kit.graph import Graph
from deploy_kit.lint.finding import Finding, Severity, findings


def find(graph: Graph, target: str) -> Iterator[Finding]:
    """Findings of the rule ``shapes``."""
    nodes = [node for node in graph.nodes if node.op == "call_function" and _is_free(node)]
    message = "its shape is not known before the model runs: accelerators plan memory ahead, and leave it to the CPU"
    fix = "give it a fixed size: pad to a maximum, or take a fixed number with topk"
    yield from findings(target, "shapes", Severity.WARNING, nodes, message, fix)


def _is_free(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and not all(isinstance(size, int) for size in value.shape)
