"""Add up convolutions of one input, and a residual around them, in one kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from deploy_kit.fusion.batch_norm import ChannelAffine
from deploy_kit.fusion.channel_affine import channel_affine
from deploy_kit.fusion.linear_ops import CONVOLUTIONS, LINEAR, channel_axis, set_weight_and_bias, weight_and_bias
from deploy_kit.fusion.windows import per_axis
from deploy_kit.graph import Graph, argument, aten, is_call, only_user, operand, set_argument, shape


def parallel_convs_into_one(graph: Graph) -> list[tuple[fx.Node, str]]:
    """conv_a(x) + conv_b(x) + (g * x + s) = conv(x), with the kernels of a and b, and g, in the middle of one.

    For linear layers likewise. The kernels have odd sides, equal stride and groups, dilations that agree, and
    padding that centres them alike; g and s are one a channel, such as BatchNorm's, or a plain residual's 1 and
    0, and need stride 1. Nothing else uses the terms, which may be any of a longer sum. Only where the one
    kernel has no more elements than all had. A residual around one depthwise convolution is
    identity_into_depthwise's.
    """
    changes = []
    for root in graph.calls(aten.add.Tensor):
        if not _is_plain(root) or _is_plain(only_user(root)):
            continue
        adds, terms = _sum(root)
        branches = [branch for term in terms if (branch := _branch(graph, term)) is not None]
        for alike in _alike(branches):
            group = [branch for branch in alike if branch.node in terms]
            if not group:
                continue
            others = [term for term in terms if all(term is not branch.node for branch in group)]
            gains = [(term, gain) for term in others if (gain := _gain(graph, term, group[0])) is not None]
            if not _pays(group, gains):
                continue
            _write(graph, group, [gain for _, gain in gains])
            merged = [branch.node for branch in group[1:]] + [term for term, _ in gains]
            for term in merged:
                _drop(graph, adds, term)
                terms.remove(term)
            changes.append((group[0].node, f"added up with {', '.join(term.name for term in merged)}"))
    return changes


@dataclass(frozen=True)
class _Branch:
    """A convolution in a sum, of rows of ``weight`` and ``bias``; a linear layer has a kernel without axes.

    ``corner`` is where the kernel's centre first lies, along each axis: padding less half its width.
    """

    node: fx.Node
    weight: Tensor
    bias: Tensor
    stride: list[int]
    dilation: list[int]
    corner: list[int]

    @property
    def kernel(self) -> list[int]:
        """The sides of the kernel."""
        return list(self.weight.shape[2:])

    @property
    def groups(self) -> int:
        """How many groups of channels there are that do not meet."""
        return 1 if is_call(self.node, LINEAR) else argument(self.node, "groups")


def _is_plain(node: fx.Node | None) -> bool:
    """Whether a node is a sum of two tensors like itself, of which nothing is repeated or multiplied."""
    if node is None or not is_call(node, aten.add.Tensor) or argument(node, "alpha") != 1:
        return False
    return all(
        isinstance(x, fx.Node) and shape(x) == shape(node) and x.meta["val"].dtype == node.meta["val"].dtype
        for x in node.args[:2]
    )


def _sum(root: fx.Node) -> tuple[list[fx.Node], list[fx.Node]]:
    """The sums that make a sum of several terms, and the terms in order of execution."""
    adds, terms = [root], []
    for add in adds:
        for x in (operand(add, 0), operand(add, 1)):
            if _is_plain(x) and only_user(x) is add:
                adds.append(x)
            else:
                terms.append(x)
    return adds, sorted(terms)


def _branch(graph: Graph, term: fx.Node) -> _Branch | None:
    if not is_call(term, LINEAR, *CONVOLUTIONS) or only_user(term) is None:
        return None
    constants = weight_and_bias(graph, term)
    if constants is None or not all(side % 2 for side in constants[0].shape[2:]):
        return None
    kernel = constants[0].shape[2:]
    if is_call(term, LINEAR):
        return _Branch(term, *constants, [], [], [])
    named = (per_axis(argument(term, name), len(kernel)) for name in ("stride", "padding", "dilation"))
    stride, padding, dilation = named
    corner = [p - d * (side // 2) for p, d, side in zip(padding, dilation, kernel)]
    return _Branch(term, *constants, stride, dilation, corner)


def _alike(branches: list[_Branch]) -> list[list[_Branch]]:
    """The branches in groups, each of which one kernel could compute."""
    groups: list[list[_Branch]] = []
    for branch in branches:
        group = next((group for group in groups if all(_fit(branch, other) for other in group)), None)
        if group is None:
            groups.append([branch])
        else:
            group.append(branch)
    return groups


def _fit(a: _Branch, b: _Branch) -> bool:
    return (
        operand(a.node) is operand(b.node)
        and (a.groups, a.stride, a.corner) == (b.groups, b.stride, b.corner)
        and all(1 in (m, n) or d == e for m, n, d, e in zip(a.kernel, b.kernel, a.dilation, b.dilation))
    )


def _gain(graph: Graph, term: fx.Node, branch: _Branch) -> ChannelAffine | None:
    """What a term multiplies ``branch``'s input by and adds to it; None where it is anything else.

    With stride 1 a kernel is centred where its output, like the term, has the shape of its input.
    """
    x, axis = operand(branch.node), channel_axis(branch.node)
    if any(step != 1 for step in branch.stride):
        return None
    if term is x:
        ones = torch.ones_like(branch.bias)
        return ChannelAffine(ones, 0 * ones)
    return None if only_user(term) is None else channel_affine(graph, term, x, axis)


def _pays(group: list[_Branch], gains: list[tuple[fx.Node, ChannelAffine]]) -> bool:
    if len(group) + len(gains) < 2:
        return False
    x = operand(group[0].node)
    depthwise = group[0].groups > 1 and group[0].weight.shape[1] == 1
    if len(group) == 1 and depthwise and all(term is x for term, _ in gains):
        return False
    return math.prod(_widest(group)) <= sum(math.prod(branch.kernel) for branch in group)


def _widest(group: list[_Branch]) -> list[int]:
    return [max(sides) for sides in zip(*(branch.kernel for branch in group))]


def _write(graph: Graph, group: list[_Branch], gains: list[ChannelAffine]) -> None:
    """Give the first branch the kernel of all."""
    first, kernel = group[0], _widest(group)
    weight = sum((_widened(branch.weight, kernel) for branch in group), torch.zeros(())).contiguous()
    bias = sum((branch.bias for branch in group), torch.zeros(()))
    rows = torch.arange(len(weight))
    centres = weight.reshape(*weight.shape[:2], -1)
    for gain in gains:
        centres[rows, rows % weight.shape[1], centres.shape[2] // 2] += gain.gain
        bias = bias + gain.shift
    set_weight_and_bias(graph, first.node, weight, bias)
    if is_call(first.node, *CONVOLUTIONS):
        wide = [next(b.dilation[i] for b in group if b.kernel[i] == side) for i, side in enumerate(kernel)]
        set_argument(first.node, "padding", [c + d * (n // 2) for c, d, n in zip(first.corner, wide, kernel)])
        set_argument(first.node, "dilation", wide)


def _widened(weight: Tensor, kernel: list[int]) -> Tensor:
    """A kernel in the middle of a larger one."""
    borders = [(side - own) // 2 for own, side in zip(weight.shape[2:], kernel)]
    return F.pad(weight, [border for border in reversed(borders) for _ in range(2)])


def _drop(graph: Graph, adds: list[fx.Node], term: fx.Node) -> None:
    """Leave one term out of a sum."""
    parent = next(add for add in adds if term in add.args[:2])
    first, second = operand(parent, 0), operand(parent, 1)
    adds.remove(parent)
    graph.replace(parent, second if first is term else first)
