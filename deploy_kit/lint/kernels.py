"""Convolutions that the fast paths of runtimes do not take."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from deploy_kit.fusion.linear_ops import CONVOLUTIONS
from deploy_kit.graph import Graph, argument, aten, is_call
from deploy_kit.lint.finding import Finding, Severity, findings

LARGE, WIDE = 7, 2
"""A kernel whose side is at least the one, with a stride over the other, is outside of mobile compilers' fast paths:
"patch embedding with large kernel and stride" in EfficientFormer, https://arxiv.org/abs/2206.01191, section 3. Both
DeiT's patches, 16x16 with stride 16, and PoolFormer's stem, 7x7 with stride 4, are; ResNet's, 7x7 with stride 2, is
not."""

NOT_PREPACKED = (aten.conv1d.default, aten.conv1d.padding, aten.conv3d.default, aten.conv3d.padding)


def find(graph: Graph, target: str) -> Iterator[Finding]:
    """Findings of the rule ``kernels``."""
    convolutions = [node for node in graph.nodes if is_call(node, *CONVOLUTIONS)]
    patches = [node for node in convolutions if max(_kernel(node)) >= LARGE and max(_stride(node)) > WIDE]
    message = (
        f"a kernel of {LARGE} or more with a stride over {WIDE} is outside of the fast paths of phones' accelerators"
    )
    fix = "use several 3x3 convolutions with stride 2 instead (it is another function, and needs training)"
    yield from findings(target, "kernels", Severity.WARNING, patches, message, fix)
    if target != "torchscript-lite":
        return
    others = [node for node in graph.nodes if is_call(node, *NOT_PREPACKED)]
    message = "only convolutions in two dimensions are prepacked for XNNPACK"
    yield from findings(target, "kernels", Severity.WARNING, others, message, "add an axis of 1, and use conv2d")


def _kernel(node: fx.Node) -> tuple[int, ...]:
    return tuple(argument(node, "weight").meta["val"].shape[2:])


def _stride(node: fx.Node) -> tuple[int, ...]:
    return tuple(argument(node, "stride"))
