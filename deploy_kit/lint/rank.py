"""Tensors of more dimensions than accelerators take."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from deploy_kit.graph import Graph
from deploy_kit.lint.finding import Finding, Severity, findings

MOST = {"coreml": 5}
"""The dimensions that a target refuses to go beyond: CoreML's programs have no tensors of rank 6."""

FAST = 4
"""What NPUs, mobile GPUs and the Neural Engine compute with; the rest runs on the CPU, or is refused."""

ACCELERATED = ("coreml", "executorch", "onnx")
"""The targets whose artifacts may be given to such an accelerator."""


def find(graph: Graph, target: str) -> Iterator[Finding]:
    """Findings of the rule ``rank``."""
    if target not in ACCELERATED:
        return
    ranks = {
        node: node.meta["val"].dim()
        for node in graph.nodes
        if node.op == "call_function" and isinstance(node.meta.get("val"), torch.Tensor)
    }
    most = MOST.get(target)
    refused = [node for node, rank in ranks.items() if most is not None and rank > most]
    slow = [node for node, rank in ranks.items() if rank > FAST and node not in refused]
    fix = "merge axes that are not permuted on their own, or loop over one of them by slices"
    yield from findings(target, "rank", Severity.ERROR, refused, f"{target} refuses tensors of rank over {most}", fix)
    message = f"tensors of rank over {FAST} run on the CPU, where NPUs and mobile GPUs were to do the work"
    yield from findings(target, "rank", Severity.WARNING, slow, message, fix)
