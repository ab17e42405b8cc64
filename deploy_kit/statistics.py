"""What a graph costs: operators, layout operators, tensor rank, parameters and multiply-accumulates."""

from __future__ import annotations

import math
from collections import Counter

import torch
from pydantic import BaseModel, ConfigDict
from torch import fx

from deploy_kit.fusion.linear_ops import CONVOLUTIONS, LINEAR, TRANSPOSED_CONVOLUTIONS
from deploy_kit.graph import LAYOUT_OPS, Graph, argument, aten, is_call, is_getitem, operand, shape


class Statistics(BaseModel):
    """Counts of one graph.

    ``macs`` are of one batch of the example inputs, attention included; None where an operator is
    among them whose multiply-accumulates are not counted here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    operators: dict[str, int]
    layout_operators: int
    largest_rank: int
    parameters: int
    macs: int | None

    @property
    def operator_count(self) -> int:
        """All operator calls."""
        return sum(self.operators.values())


def count(graph: Graph) -> Statistics:
    """Count a graph's operators and costs; nothing is run."""
    calls = [node for node in graph.nodes if node.op == "call_function" and not is_getitem(node)]
    operators = Counter(operator_name(node) for node in calls)
    constants = {node.target: graph.constant(node) for node in graph.nodes if node.op == "get_attr"}
    parameters = {value.data_ptr(): value for value in constants.values() if value is not None}
    return Statistics(
        operators=dict(operators.most_common()),
        layout_operators=sum(node.target in LAYOUT_OPS for node in calls),
        largest_rank=max(
            (node.meta["val"].dim() for node in calls if isinstance(node.meta["val"], torch.Tensor)), default=0
        ),
        parameters=sum(value.numel() for value in parameters.values() if value.is_floating_point()),
        macs=None if any(node.target in UNCOUNTED for node in calls) else sum(macs_of(node) for node in calls),
    )


UNCOUNTED = frozenset(
    {
        aten.einsum.default,
        aten.lstm.input,
        aten.gru.input,
        aten.rnn_tanh.input,
        aten.rnn_relu.input,
        aten.bilinear.default,
    }
)


def operator_name(node: fx.Node) -> str:
    """A call's operator, such as ``permute``."""
    return str(node.target).removeprefix("aten.").split(".")[0]


def macs_of(node: fx.Node) -> int:
    """Multiply-accumulates of one call, those of `UNCOUNTED` aside."""
    if is_call(node, *CONVOLUTIONS, LINEAR):
        weight = argument(node, "weight").meta["val"]
        return size_of(shape(node)) * math.prod(weight.shape[1:])
    if is_call(node, *TRANSPOSED_CONVOLUTIONS):
        weight = argument(node, "weight").meta["val"]
        return size_of(shape(operand(node))) * math.prod(weight.shape[1:])
    if is_call(node, aten.matmul.default, aten.bmm.default, aten.mm.default):
        return size_of(shape(node)) * size_of(shape(operand(node))[-1:])
    if is_call(node, aten.addmm.default, aten.baddbmm.default):
        return size_of(shape(node)) * size_of(shape(operand(node, 1))[-1:])
    if is_call(node, aten.addcmul.default):
        return size_of(shape(node))
    if is_call(node, aten.scaled_dot_product_attention.default):
        queries, keys = shape(operand(node)), shape(operand(node, 1))
        width = size_of(queries[-1:]) + size_of(shape(operand(node, 2))[-1:])
        return size_of(queries[:-1]) * size_of(keys[-2:-1]) * width
    return 0


def size_of(sizes: tuple) -> int:
    """The number of elements of a shape; a dynamic size counts at its example value."""
    return math.prod(size if isinstance(size, int) else size.node.hint for size in sizes)
