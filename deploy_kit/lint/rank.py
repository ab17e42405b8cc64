"""Tensors of more dimensions than accelerators take."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from deploy_kit.graph import Graph
from deploy_kit.lint.finding import Finding, Severity, findings

MOST = {"coreml": 5, "tensorrt": 8}
"""The dimensions that a target refuses to go beyond: CoreML's programs have no tensors of rank 6, and TensorRT's
``Dims::MAX_DIMS`` is 8 (https://docs.nvidia.com/deeplearning/tensorrt/api/c_api/classnvinfer1_1_1_dims64.html)."""

PHONES = "tensors of rank over 4 run on the CPU, where NPUs and mobile GPUs were to do the work"
INTEL = "tensors of rank over 8 run on the CPU alone: Intel's GPUs have none"

FAST = {"coreml": (4, PHONES), "executorch": (4, PHONES), "onnx": (4, PHONES), "openvino": (8, INTEL)}
"""What the accelerators compute with that a target's artifacts may be given to, and what becomes of the rest. That of
OpenVINO's plugin for GPUs is from https://github.com/openvinotoolkit/openvino/pull/16810; it was 6 before 2023.1."""


def find(graph: Graph, target: str) -> Iterator[Finding]:
    """Findings of the rule ``rank``."""
    ranks = {
        node: node.meta["val"].dim()
        for node in graph.nodes
        if node.op == "call_function" and isinstance(node.meta.get("val"), torch.Tensor)
    }
    fix = "merge axes that are not permuted on their own, or loop over one of them by slices"
    most = MOST.get(target)
    refused = [node for node, rank in ranks.items() if most is not None and rank > most]
    yield from findings(target, "rank", Severity.ERROR, refused, f"{target} refuses tensors of rank over {most}", fix)
    if target in FAST:
        fast, message = FAST[target]
        slow = [node for node, rank in ranks.items() if rank > fast and node not in refused]
        yield from findings(target, "rank", Severity.WARNING, slow, message, fix)
