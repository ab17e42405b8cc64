"""Operators that compute nothing and move memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import fx

from deploy_kit.graph import LAYOUT_OPS, Graph, argument, aten, is_call, operand, shape
from deploy_kit.lint.finding import Finding, Severity, by_module, findings
from deploy_kit.statistics import size_of

MANY_BYTES = 1 << 20
"""What a module may move without a word: 1 MiB an inference."""


def find(graph: Graph, target: str) -> Iterator[Finding]:
    """Findings of the rule ``layout``: what fusion for the target has left, where it moves much."""
    moving = [node for node in graph.nodes if node.op == "call_function" and node.target in LAYOUT_OPS and copies(node)]
    for _, calls in by_module(moving):
        moved = sum(2 * bytes_of(node) for node in calls)
        if moved >= MANY_BYTES:
            message = "these move memory and compute nothing"
            fix = "keep one layout: 1x1 convolutions instead of linear layers on images, or tokens that stay tokens"
            for finding in findings(target, "layout", Severity.NOTE, calls, message, fix):
                yield replace(finding, bytes=moved)


def copies(node: fx.Node) -> bool:
    """Whether a layout operator moves memory in runtimes without strides: all but those that only rename axes."""
    if is_call(node, aten.permute.default):
        before = shape(operand(node))
        order = [axis % len(before) for axis in argument(node, "dims") if before[axis] != 1]
        return order != sorted(order)
    if is_call(node, aten.transpose.int):
        sizes = shape(operand(node))
        first, second = sorted(argument(node, name) % len(sizes) for name in ("dim0", "dim1"))
        return sum(size != 1 for size in sizes[first : second + 1]) > 1
    return is_call(node, aten.clone.default, aten.contiguous.default, aten.roll.default)


def bytes_of(node: fx.Node) -> int:
    """The size of what a call makes."""
    return size_of(shape(node)) * node.meta["val"].dtype.itemsize
