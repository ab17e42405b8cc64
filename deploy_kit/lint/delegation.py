"""Operators that fall off the accelerator."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx

from deploy_kit.graph import Graph, argument, aten, operand, rank
from deploy_kit.lint.finding import Finding, Severity, findings
from deploy_kit.statistics import operator_name

XNNPACK = frozenset(
    {
        "_native_batch_norm_legit_no_training", "_softmax", "abs", "add", "addmm", "avg_pool2d", "bmm", "cat",
        "ceil", "clamp", "clone", "constant_pad_nd", "convolution", "cos", "div", "elu", "exp", "floor", "gelu",
        "hardswish", "hardtanh", "leaky_relu", "linear", "log", "max", "maximum", "max_pool2d", "mean", "minimum",
        "mm", "mul", "neg", "permute", "pow", "prelu", "relu", "rsqrt", "sigmoid", "sin", "slice", "sqrt", "sub",
        "tanh", "unsqueeze", "upsample_bilinear2d", "view"
    }
)  # fmt: skip
"""Core ATen's operators that XNNPACK's partitioner takes, in ExecuTorch 1.4.1 (``xnnpack/partition/config``)."""

FREE = frozenset({"alias", "detach", "lift_fresh_copy", "squeeze", "getitem"})
"""Operators that are removed, or rewritten to one that is taken, before anything is partitioned."""

HEAVY = frozenset({"convolution", "linear", "addmm", "mm", "bmm", "matmul"})
"""Operators that portable kernels compute hundreds of times more slowly."""

WHAT_TO_DO = {
    "native_layer_norm": "let deploykit decompose it (it does for shapes that it knows), or use BatchNorm",
    "native_group_norm": "let deploykit decompose it (it does for shapes that it knows), or use BatchNorm",
    "expand": "make attention's tensors of rank 3, or give constants their whole shape",
    "select": "slice one element, and keep its axis",
    "split_with_sizes": "slice, or make separate projections",
    "index": "precompute the table, or slice",
    "gather": "precompute the order, or slice",
    "topk": "choose a fixed set, or do it on the host",
    "sort": "do it on the host",
    "upsample_nearest2d": "repeat by a transposed convolution, or resize bilinearly",
    "upsample_bicubic2d": "resize bilinearly, or by fixed matrices along each axis",
}

DATA_DEPENDENT = frozenset({"topk", "sort", "argsort", "gather", "index", "nonzero", "scatter", "masked_select"})
"""Operators whose memory accesses depend on values: the Neural Engine and NPUs leave them to the CPU."""


def find(graph: Graph, target: str) -> Iterator[Finding]:
    """Findings of the rule ``delegation``."""
    if target == "executorch":
        yield from _outside_xnnpack(graph)
    elif target in ("coreml", "onnx"):
        nodes = [node for node in graph.nodes if node.op == "call_function" and operator_name(node) in DATA_DEPENDENT]
        message = "accelerators leave this to the CPU, and the tensors around it are copied there and back"
        fix = "compute the indices on the host and pass them in, or replace it by slices or a fixed table"
        yield from findings(target, "delegation", Severity.WARNING, nodes, message, fix)


def _outside_xnnpack(graph: Graph) -> Iterator[Finding]:
    outside: dict[str, list[fx.Node]] = {}
    for node in _core_calls(graph):
        name = operator_name(node)
        if name not in FREE and not _taken(name, node):
            outside.setdefault(name, []).append(node)
    for name, nodes in outside.items():
        heavy = name in HEAVY
        message = f"XNNPACK does not take {name}: " + (
            "portable kernels compute it hundreds of times more slowly"
            if heavy
            else "each place where it stands cuts the delegated part in two, with copies between"
        )
        fix = WHAT_TO_DO.get(name, "replace it by operators that XNNPACK has")
        severity = Severity.ERROR if heavy else Severity.WARNING
        yield from findings("executorch", "delegation", severity, nodes, message, fix)


def _taken(name: str, node: fx.Node) -> bool:
    """Whether XNNPACK takes a call of an operator that core ATen has."""
    if name == "mean":
        axes = sorted(axis % rank(operand(node)) for axis in argument(node, "dim"))
        return axes == [2, 3] and rank(operand(node)) == 4 and argument(node, "keepdim")
    if name == "slice":
        return argument(node, "step") == 1
    if name == "_softmax":
        return argument(node, "dim") in (-1, rank(node) - 1)
    return name in XNNPACK


def _core_calls(graph: Graph) -> Iterator[fx.Node]:
    """The graph's calls in core ATen's operators, and those that XNNPACK takes before they are decomposed."""
    table = torch.export.default_decompositions()
    for kept in (aten.linear.default, aten.hardswish.default, aten.max_pool2d.default, aten.upsample_bilinear2d.vec):
        table.pop(kept, None)
    with torch.no_grad():
        program = torch.export.export(graph.module, tuple(graph.example_inputs)).run_decompositions(table)
    for node in program.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            yield node
