from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deploy_kit.graph import Graph, aten, set_argument
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "decompose_attention"
ATTENTION = aten.scaled_dot_product_attention.default
BLIND = torch.tensor([[True, False, True, True], [False] * 4, [False, True, False, True], [True] * 4, [True] * 4])
SEEING = BLIND | torch.tensor([True, False, False, False])


def attention(**options: Any) -> Net:
    return Net(lambda net, q, k, v: F.scaled_dot_product_attention(q, k, v, **options))


def qkv(queries: int = 5, keys: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    return noise(2, 3, queries, 6), noise(2, 3, keys, 6, seed=2), noise(2, 3, keys, 8, seed=3)


@pytest.mark.parametrize(
    "options",
    [{}, {"scale": 0.3}, {"is_causal": True}, {"attn_mask": SEEING}, {"attn_mask": BLIND}, {"attn_mask": BLIND[:, :1]}],
    ids=["plain", "scale", "causal", "boolean mask", "mask that hides every key", "broadcast mask"],
)
def test_is_exact(options: dict[str, Any]) -> None:
    assert_rewrites(PASS, attention(**options), *qkv(), at=[""], gone=(ATTENTION,))


@pytest.mark.parametrize(("queries", "keys"), [(4, 4), (6, 3), (3, 6), (1, 5)])
def test_is_exact_for_causal_attention_of_any_size(queries: int, keys: int) -> None:
    assert_rewrites(PASS, attention(is_causal=True), *qkv(queries, keys), at=[""], gone=(ATTENTION,))


@pytest.mark.parametrize("mask", [SEEING, BLIND], ids=["seeing", "blind"])
@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_is_exact_for_a_mask_that_is_an_input(mask: Tensor, additive: bool, dynamic_batch: bool) -> None:
    model = Net(lambda net, q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m))
    if additive:
        mask = noise(5, 4).masked_fill(~mask, -torch.inf)
    inputs = (*qkv(), mask.expand(2, 1, 5, 4))
    assert_rewrites(PASS, model, *inputs, at=[""], gone=(ATTENTION,), dynamic_batch=dynamic_batch)


@pytest.mark.parametrize("shape", [(5, 4), (3, 5, 4), (2, 1, 1, 4)], ids=str)
def test_is_exact_for_a_learned_bias(shape: tuple[int, ...]) -> None:
    model = Net(
        lambda net, q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=net.bias), bias=torch.ones(shape)
    )
    assert_rewrites(PASS, model, *qkv(), at=[""], gone=(ATTENTION,))


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"attn_mask": SEEING}], ids=["plain", "causal", "mask"])
def test_adds_only_what_is_needed(options: dict[str, Any]) -> None:
    graph = assert_rewrites(PASS, attention(**options), *qkv(), at=[""])
    names = [node.target.__name__.split(".")[0] for node in graph.nodes if node.op == "call_function"]
    added = ["add"] if options else []
    assert names == ["transpose", "matmul", "mul", *added, "softmax", "matmul"]


def test_adds_the_check_for_hidden_rows_only_where_a_row_may_be_hidden() -> None:
    graph = assert_rewrites(PASS, attention(attn_mask=BLIND), *qkv(), at=[""])
    assert len(list(graph.calls(aten.where.self))) == 1


def test_is_exact_in_three_dimensions() -> None:
    q, k, v = (x[0] for x in qkv())
    assert_rewrites(PASS, attention(), q, k, v, at=[""], gone=(ATTENTION,))


def test_keeps_grouped_queries() -> None:
    assert_keeps(PASS, attention(enable_gqa=True), noise(2, 6, 5, 6), *qkv()[1:])


def test_keeps_dropout() -> None:
    def drop(graph: Graph) -> None:
        for node in graph.calls(ATTENTION):
            set_argument(node, "dropout_p", 1e-30)

    assert_keeps(PASS, attention(), *qkv(), edit=drop)


@pytest.mark.parametrize(
    "forward",
    [
        lambda tokens, x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
        lambda tokens, x: F.scaled_dot_product_attention(tokens, x, x, is_causal=True),
        lambda tokens, x: F.scaled_dot_product_attention(x, tokens, tokens, is_causal=True),
    ],
    ids=["both", "keys", "queries"],
)
def test_keeps_a_causal_mask_of_a_dynamic_size(forward: Callable[..., Tensor]) -> None:
    model = Net(lambda net, x: forward(net.tokens, x.transpose(0, 1)), tokens=torch.ones(3, 4, 6))
    assert_keeps(PASS, model, noise(5, 3, 6), dynamic_batch=True)
