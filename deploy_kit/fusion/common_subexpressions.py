"""Compute once what is computed twice, and not at all what is there already."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from deploy_kit.fusion.axes import is_functional
from deploy_kit.graph import Graph, argument, aten, is_call, operand

DROPOUTS = (
    aten.dropout.default,
    aten.alpha_dropout.default,
    aten.feature_dropout.default,
    aten.feature_alpha_dropout.default,
)
ALIASES = (aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default)
CASTS = (
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.to.device,
    aten.to.other,
    aten._to_copy.default,
    aten.type_as.default,
)
SAME_IF_OF_ITS_SHAPE = (
    aten.expand.default,
    aten.expand_as.default,
    aten.broadcast_to.default,
    aten.slice.Tensor,
)
"""Operators that only leave out elements or repeat them: none where the shape is the same."""

PADS = (aten.pad.default, aten.constant_pad_nd.default)
NEUTRAL = {
    aten.add.Tensor: 0,
    aten.add.Scalar: 0,
    aten.sub.Tensor: 0,
    aten.sub.Scalar: 0,
    aten.mul.Tensor: 1,
    aten.mul.Scalar: 1,
    aten.div.Tensor: 1,
    aten.div.Scalar: 1,
}
"""The second operand that changes nothing."""

SYMMETRIC = (aten.add.Tensor, aten.mul.Tensor)


def common_subexpressions(graph: Graph) -> list[tuple[fx.Node, str]]:
    """f(x) computed twice = f(x) computed once, and x + 0 = x * 1 = x / 1 = dropout(x) in evaluation = x.

    Also for casts to the dtype that x has, and for slices, expansions and padding that change nothing. f is any
    operator without randomness, whose tensors nobody writes over; equal constants are one argument.
    """
    changes: list[tuple[fx.Node, str]] = []
    if not is_functional(graph):
        return changes
    seen: dict[Hashable, fx.Node] = {}
    keys = _Keys(graph)
    for node in [node for node in graph.nodes if node.op == "call_function"]:
        x = _unchanged(graph, node)
        if x is not None:
            first, why = x, "changes nothing"
        elif is_repeatable(node):
            first, why = seen.setdefault(keys.of(node), node), "computed before"
        else:
            continue
        if first is not node and _substitute(node, first):
            changes.append((node, why))
    return changes


def is_repeatable(node: fx.Node) -> bool:
    """Whether a call gives the same result for the same arguments, and changes nothing else."""
    if getattr(node.target, "__module__", "") == "_operator":
        return True
    if not isinstance(node.target, OpOverload) or node.target.namespace != "aten":
        return False
    if torch.Tag.nondeterministic_seeded in node.target.tags:
        return False
    trained = [p.name for p in node.target._schema.arguments if p.name in ("train", "training", "use_input_stats")]
    return not any(argument(node, name) for name in trained)


class _Keys:
    """Names of what a call computes: equal names, equal values."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.constants: dict[str, Hashable] = {}

    def of(self, node: fx.Node) -> Hashable:
        """The operator with its arguments, where those that are not given have the schema's defaults."""
        if isinstance(node.target, OpOverload):
            names = [parameter.name for parameter in node.target._schema.arguments]
            return node.target, tuple(self._value(argument(node, name)) for name in names)
        return node.target, self._value(node.args), self._value(sorted(node.kwargs.items()))

    def _value(self, value: Any) -> Hashable:
        if isinstance(value, fx.Node):
            return self._constant(value) if value.op == "get_attr" else value
        if isinstance(value, list | tuple):
            return tuple(self._value(item) for item in value)
        return type(value), repr(value)

    def _constant(self, node: fx.Node) -> Hashable:
        name = str(node.target)
        value = self.graph.constant(node)
        if value is None:
            return name
        if name not in self.constants:
            data = value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            self.constants[name] = (value.dtype, tuple(value.shape), hashlib.sha256(data).digest())
        return self.constants[name]


def _unchanged(graph: Graph, node: fx.Node) -> fx.Node | None:
    """The input of a call that returns it as it is; None where it does anything."""
    if is_call(node, *DROPOUTS):
        return operand(node) if not argument(node, "train") or argument(node, "p") == 0 else None
    if is_call(node, *ALIASES):
        return operand(node)
    if is_call(node, *CASTS):
        return operand(node) if node.kwargs.get("memory_format") is None and _is_alike(operand(node), node) else None
    if is_call(node, *SAME_IF_OF_ITS_SHAPE):
        return operand(node) if _is_alike(operand(node), node) else None
    if is_call(node, *PADS):
        return operand(node) if all(type(side) is int and side == 0 for side in argument(node, "pad")) else None
    if is_call(node, *NEUTRAL):
        return _other_operand(graph, node)
    return None


def _other_operand(graph: Graph, node: fx.Node) -> fx.Node | None:
    """What is added to zero, multiplied by one, and so on, and gives a result of its own shape and dtype."""
    neutral = NEUTRAL[node.target]  # type: ignore[index]
    pairs = [node.args, node.args[::-1]] if is_call(node, *SYMMETRIC) else [node.args]
    for x, other in (pair[:2] for pair in pairs):
        if isinstance(x, fx.Node) and _is_all(graph, other, neutral) and _is_alike(x, node):
            return x if "alpha" not in node.kwargs or x is node.args[0] else None
    return None


def _is_all(graph: Graph, value: Any, number: int) -> bool:
    if isinstance(value, fx.Node):
        constant = graph.constant(value)
        return constant is not None and bool((constant == number).all())
    return isinstance(value, int | float) and value == number


def _is_alike(x: fx.Node, node: fx.Node) -> bool:
    """Whether two tensors have the same shape for every batch, the same dtype and the same device."""
    a, b = x.meta["val"], node.meta["val"]
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return False
    return (a.dtype, a.device) == (b.dtype, b.device) and _sizes(a) == _sizes(b)


def _sizes(value: Tensor) -> list[Any]:
    return [size if isinstance(size, int) else size.node.expr for size in value.shape]


def _substitute(node: fx.Node, first: fx.Node) -> bool:
    """Let the users of ``node`` use ``first``; False where there are none.

    The output is none of them where it would be an input or a constant as it is, which CoreML refuses.
    """
    users = [user for user in node.users if user.op != "output" or first.op == "call_function"]
    for user in users:
        user.replace_input_with(node, first)
    return bool(users)
