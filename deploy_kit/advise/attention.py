"""Variants of a model's attention: without the softmax, and without attention at all."""

from __future__ import annotations

from torch import fx

from deploy_kit.advise.variant import Effect, Variant
from deploy_kit.fusion.decompose_attention import decompose_attention
from deploy_kit.graph import Graph, argument, aten, is_call, is_view, operand, rank, shape

PRODUCTS = (aten.matmul.default, aten.bmm.default)


def attention_variants() -> list[Variant]:
    """ReLU in the place of softmax (https://arxiv.org/abs/2309.08586), and values alone: all that attention costs."""
    return [
        Variant("attention", "ReLU divided by the number of keys, for softmax", Effect.RETRAIN, _relu_for_softmax),
        Variant("attention", "values alone: what attention costs at most", Effect.RETRAIN, _values_alone),
    ]


def _relu_for_softmax(graph: Graph) -> int:
    decompose_attention(graph)
    changed = 0
    for softmax in graph.calls(aten.softmax.int):
        axis = argument(softmax, "dim") % rank(softmax)
        if _product_with_values(softmax) is None or axis != rank(softmax) - 1:
            continue
        positive = graph.call(aten.relu.default, operand(softmax), before=softmax)
        graph.replace(softmax, graph.call(aten.mul.Tensor, positive, 1 / shape(softmax)[-1], before=softmax))
        changed += 1
    return changed


def _values_alone(graph: Graph) -> int:
    decompose_attention(graph)
    changed = 0
    for softmax in graph.calls(aten.softmax.int):
        product = _product_with_values(softmax)
        if product is None:
            continue
        left, right = operand(product), operand(product, 1)
        values = right if _comes_from(left, softmax) else left
        if shape(values) == shape(product):
            graph.replace(product, values)
            changed += 1
    return changed


def _product_with_values(softmax: fx.Node) -> fx.Node | None:
    """The matrix product that attention weights go into, behind any views; None where they go elsewhere."""
    node = softmax
    while len(node.users) == 1:
        (user,) = node.users
        if is_call(user, *PRODUCTS):
            return user
        if not is_view(user) and not is_call(user, aten.dropout.default):
            return None
        node = user
    return None


def _comes_from(node: fx.Node, source: fx.Node) -> bool:
    """Whether a node is ``source`` behind views alone."""
    while node is not source and (is_view(node) or is_call(node, aten.dropout.default)):
        node = operand(node)
    return node is source
