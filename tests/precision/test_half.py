from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from deploy_kit.errors import UserError
from deploy_kit.graph import aten
from deploy_kit.precision import half
from deploy_kit.precision.half import to_half
from tests.fusion.support import Net
from tests.precision.support import agreement_db, captured, outputs
from tests.support import Tiny, random


def linear_attention(n: Net, x: Tensor) -> Tensor:
    """Its products grow with the square of the input, and come back to normal by a division."""
    q, k = torch.relu(n.q(x)), torch.relu(n.k(x))
    return n.out((q @ (k.transpose(1, 2) @ x)) / (q @ k.sum(1, keepdim=True).transpose(1, 2) + 1e-6))


def test_a_model_computes_in_fp16_between_float32_inputs_and_outputs() -> None:
    graph = captured(random(Tiny()), 1, 3, 32, 32)
    lowered, kept = to_half(graph)
    assert not kept
    layers = list(lowered.calls(aten.conv2d.default, aten.linear.default))
    assert len(layers) == 5
    assert all(node.meta["val"].dtype == torch.float16 for node in layers)
    result = outputs(lowered, *graph.example_inputs)
    assert result.dtype == torch.float32
    assert 45 < agreement_db(graph, lowered) < 100


def test_what_overflows_stays_in_float32_and_nothing_else() -> None:
    net = Net(linear_attention, q=nn.Linear(8, 8), k=nn.Linear(8, 8), out=nn.Linear(8, 8))
    graph = captured(net, 1, 64, 8, scale=120.0)
    lowered, kept = to_half(graph)
    assert {call.operator for call in kept} >= {"aten.matmul.default", "aten.div.Tensor"}
    assert all("reaches" in call.reason for call in kept)
    assert agreement_db(graph, lowered) > 45
    queries, keys, _ = lowered.calls(aten.linear.default)
    assert queries.meta["val"].dtype == keys.meta["val"].dtype == torch.float16


def test_each_call_that_is_kept_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(linear_attention, q=nn.Linear(8, 8), k=nn.Linear(8, 8), out=nn.Linear(8, 8))
    graph = captured(net, 1, 64, 8, scale=400.0)
    reasons = half.audit(graph)
    products = [name for name in reasons if name.startswith("matmul")]
    assert products
    for name in products:
        monkeypatch.setattr(half, "audit", lambda _, left=name: {n: r for n, r in reasons.items() if n != left})
        assert agreement_db(graph, to_half(graph)[0]) < 45


def test_a_mask_of_huge_numbers_may_become_infinite() -> None:
    mask = torch.tensor([[0.0, -3e38], [0.0, 0.0]])
    net = Net(lambda n, x: torch.softmax(x @ x.transpose(1, 2) + n.mask, -1) @ x, mask=mask)
    graph = captured(net, 1, 2, 4)
    lowered, kept = to_half(graph)
    assert not kept
    assert agreement_db(graph, lowered) > 45


def test_a_divisor_s_tiny_constant_is_not_rounded_to_zero() -> None:
    net = Net(lambda n, x: n.a(x) / (torch.relu(n.a(x)).sum(-1, keepdim=True) * 0 + 1e-9) * 1e-9, a=nn.Linear(4, 4))
    graph = captured(net, 2, 4)
    lowered, kept = to_half(graph)
    assert kept
    assert agreement_db(graph, lowered) > 40


def test_a_module_that_is_kept_stays_in_float32() -> None:
    graph = captured(random(Tiny()), 1, 3, 32, 32)
    lowered, kept = to_half(graph, ["head", "norm"])
    assert {call.module for call in kept} == {"head", "norm"}
    last = list(lowered.calls(aten.linear.default))[-1]
    assert last.meta["val"].dtype == torch.float32


def test_a_module_that_does_not_exist_is_an_error() -> None:
    graph = captured(random(Tiny()), 1, 3, 32, 32)
    with pytest.raises(UserError, match="heat"):
        to_half(graph, ["heat"])


def test_integers_stay_integers() -> None:
    net = Net(lambda n, x: n.a(x)[:, torch.tensor([2, 0])], a=nn.Linear(4, 4))
    graph = captured(net, 2, 4)
    assert agreement_db(graph, to_half(graph)[0]) > 45
