"""Fold the scale of attention scores into the projection that makes the queries."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from deploy_kit.fusion.linear_ops import (
    CONVOLUTIONS,
    LINEAR,
    channel_axis,
    scale_outputs,
    set_weight_and_bias,
    weight_and_bias,
)
from deploy_kit.graph import Graph, aten, is_call, is_getitem, is_view, only_user, operand, shape

PRODUCTS = (aten.matmul.default, aten.bmm.default)


def attention_scale_into_query(graph: Graph) -> list[tuple[fx.Node, str]]:
    """c * (q k^T) = (c q) k^T, and c * (W x + b) = (c W) x + c b for the rows of W that make q.

    The scale is a number that multiplies or divides the scores, the queries or, all the same, the
    keys. The queries may be any selection of a joint projection's outputs, behind any views, as
    long as those outputs are used for nothing else.
    """
    changes = []
    for scaling in graph.calls(aten.mul.Tensor, aten.div.Tensor, aten.mul.Scalar, aten.div.Scalar):
        factor, x = _factor(scaling), scaling.args[0]
        if factor is None or not isinstance(x, fx.Node) or only_user(x) is not scaling:
            continue
        product = is_call(x, *PRODUCTS) and x.args[0] is not x.args[1]
        feeds_product = any(is_call(user, *PRODUCTS) for user in scaling.users)
        if not product and not feeds_product:
            continue
        query = x.args[0] if product else x
        user = x if product else scaling
        assert isinstance(query, fx.Node)
        if _scale_features(graph, query, user, factor):
            graph.replace(scaling, x)
            changes.append((scaling, f"scale {factor:.6g} folded into the projection"))
    return changes


def _factor(scaling: fx.Node) -> float | None:
    value = scaling.args[1]
    if not isinstance(value, int | float) or value == 0:
        return None
    return 1 / value if is_call(scaling, aten.div.Tensor, aten.div.Scalar) else float(value)


def _scale_features(graph: Graph, tensor: fx.Node, user: fx.Node, factor: float) -> bool:
    """Scale what ``user`` reads as ``tensor`` at its source; False where that cannot be done alone."""
    source = tensor
    while is_view(source):
        source = operand(source)
    constants = weight_and_bias(graph, source) if is_call(source, *CONVOLUTIONS, LINEAR) else None
    if constants is None:
        return False
    uses = _features_used(source)
    (scaled,) = (features for consumer, operand, features in uses if consumer is user and operand is tensor)
    others = [features for consumer, operand, features in uses if not (consumer is user and operand is tensor)]
    if any(torch.isin(features, scaled).any() for features in others):
        return False
    weight, bias = constants
    gain = torch.ones_like(bias)
    gain[scaled] = factor
    set_weight_and_bias(graph, source, scale_outputs(source, weight, gain), gain * bias)
    return True


def _features_used(source: fx.Node) -> list[tuple[fx.Node, fx.Node, Tensor]]:
    """For each use behind views: the consumer, its operand, and which of ``source``'s channels it reads.

    The views run on a tensor that holds channel numbers, so any way of splitting a projection is
    understood; a dynamic size stands at its example value.
    """
    sizes = [_number(size) for size in shape(source)]
    axis = channel_axis(source)
    numbers = torch.arange(sizes[axis]).reshape([-1 if i == axis else 1 for i in range(len(sizes))]).expand(sizes)
    uses: list[tuple[fx.Node, fx.Node, Tensor]] = []
    pending: list[tuple[fx.Node, object]] = [(source, numbers)]
    while pending:
        node, value = pending.pop()
        for user in node.users:
            if not is_view(user):
                assert isinstance(value, Tensor)
                uses.append((user, node, value.unique()))
                continue
            rest, named = fx.node.map_arg((user.args[1:], user.kwargs), lambda n: _number(n.meta["val"]))
            pending.append((user, value[rest[0]] if is_getitem(user) else user.target(value, *rest, **named)))  # type: ignore
    return uses


def _number(size: int | torch.SymInt) -> int:
    return size if isinstance(size, int) else size.node.hint
