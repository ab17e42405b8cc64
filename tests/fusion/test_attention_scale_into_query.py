from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deploy_kit.graph import aten
from tests.fusion.support import Net, assert_keeps, assert_rewrites, noise

PASS = "attention_scale_into_query"
SCALINGS = (aten.mul.Tensor, aten.div.Tensor)

HEADS, DIM = 2, 3
SCALE = 0.37


def qkv_then_head(y: Tensor) -> tuple[Tensor, ...]:
    return y.reshape(*y.shape[:2], 3, HEADS, DIM).permute(2, 0, 3, 1, 4).unbind(0)


def head_then_qkv(y: Tensor) -> tuple[Tensor, ...]:
    return y.view(*y.shape[:2], HEADS, 3 * DIM).transpose(1, 2).chunk(3, -1)


def split_sizes(y: Tensor) -> tuple[Tensor, ...]:
    return y.view(*y.shape[:2], HEADS, 3 * DIM).permute(0, 2, 1, 3).split([DIM, DIM, DIM], dim=3)


def indexed(y: Tensor) -> tuple[Tensor, ...]:
    y = y.unflatten(-1, (3, HEADS, DIM)).transpose(1, 3)
    return y[:, :, 0], y[:, :, 1], y[:, :, 2]


def sliced(y: Tensor) -> tuple[Tensor, ...]:
    parts = (y[..., :6], y[..., 6:12], y[..., 12:])
    return tuple(part.reshape(*y.shape[:2], HEADS, DIM).transpose(1, 2) for part in parts)


LAYOUTS = [qkv_then_head, head_then_qkv, split_sizes, indexed, sliced]
SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mul": lambda q, k: (q @ k.mT) * SCALE,
    "rmul": lambda q, k: SCALE * (q @ k.transpose(-2, -1)),
    "div": lambda q, k: (q @ k.transpose(-2, -1)) / 3,
    "integer": lambda q, k: (q @ k.transpose(-2, -1)) * 2,
    "query": lambda q, k: (q * SCALE) @ k.transpose(-2, -1),
    "query div": lambda q, k: (q / 3) @ k.transpose(-2, -1),
    "key": lambda q, k: q @ (k.transpose(-2, -1) * SCALE),
    "in place": lambda q, k: (q @ k.transpose(-2, -1)).mul_(SCALE),
    "bmm": lambda q, k: (torch.bmm(q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2)) * SCALE).unflatten(0, q.shape[:2]),
}


def attention(scores: Callable[[Tensor, Tensor], Tensor], layout: Callable = qkv_then_head, bias: bool = True) -> Net:
    def forward(net: Any, x: Tensor) -> Tensor:
        q, k, v = layout(net.qkv(x))
        return scores(q, k).softmax(-1) @ v

    return Net(forward, qkv=nn.Linear(4, 3 * HEADS * DIM, bias=bias))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scores", SCORES.values(), ids=list(SCORES))
def test_folds(scores: Callable[[Tensor, Tensor], Tensor], layout: Callable) -> None:
    assert_rewrites(PASS, attention(scores, layout), noise(2, 5, 4), at=[""], gone=SCALINGS)


def test_folds_without_bias() -> None:
    assert_rewrites(PASS, attention(SCORES["mul"], bias=False), noise(2, 5, 4), at=[""], gone=SCALINGS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folds_with_a_dynamic_batch(layout: Callable) -> None:
    model = attention(SCORES["mul"], layout)
    graph = assert_rewrites(PASS, model, noise(2, 5, 4), at=[""], gone=SCALINGS, dynamic_batch=True)
    assert graph.module(noise(3, 5, 4)).shape == (3, HEADS, 5, DIM)


def test_folds_into_a_projection_of_its_own() -> None:
    model = Net(
        lambda net, x, y: ((net.q(x) @ net.k(y).transpose(1, 2)) * SCALE).softmax(-1) @ y,
        q=nn.Linear(4, 6),
        k=nn.Linear(4, 6),
    )
    assert_rewrites(PASS, model, noise(2, 5, 4), noise(2, 7, 4), at=[""], gone=SCALINGS)


def test_folds_into_a_convolution() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        q, k, v = net.qkv(x).flatten(2).reshape(2, HEADS, 3 * DIM, -1).chunk(3, 2)
        return v @ ((q.transpose(-2, -1) @ k) * SCALE).softmax(-1).transpose(-2, -1)

    model = Net(forward, qkv=nn.Conv2d(4, 3 * HEADS * DIM, 3, padding=1, groups=2))
    assert_rewrites(PASS, model, noise(2, 4, 3, 3), at=[""], gone=SCALINGS)


def test_folds_a_scale_on_both_sides_of_the_product() -> None:
    model = attention(lambda q, k: ((q * 0.5) @ k.transpose(-2, -1)) * SCALE)
    assert_rewrites(PASS, model, noise(2, 5, 4), at=["", ""], gone=SCALINGS)


def test_folds_a_scaled_query_that_is_used_twice() -> None:
    def scores(q: Tensor, k: Tensor) -> Tensor:
        q = q * SCALE
        return q @ k.transpose(-2, -1) + q.mean(-1, keepdim=True)

    assert_rewrites(PASS, attention(scores), noise(2, 5, 4), at=[""], gone=SCALINGS)


def test_folds_into_only_the_scaled_call_of_a_shared_projection() -> None:
    model = Net(
        lambda net, x: ((net.q(x) @ net.q(x.flip(1)).transpose(1, 2)) * SCALE).softmax(-1) @ net.q(x),
        q=nn.Linear(4, 6),
    )
    assert_rewrites(PASS, model, noise(2, 5, 4), at=[""], gone=SCALINGS)


def test_names_the_module_of_the_scale() -> None:
    model = nn.Sequential(attention(SCORES["mul"]), nn.ReLU())
    assert_rewrites(PASS, model, noise(2, 5, 4), at=["0"], gone=SCALINGS)


def _query_used_again(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1)) * SCALE + q.mean(-1, keepdim=True)


def _unscaled_query_used_again(q: Tensor, k: Tensor) -> Tensor:
    return (q * SCALE) @ k.transpose(-2, -1) + q.mean(-1, keepdim=True)


def _scores_used_again(q: Tensor, k: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1)
    return scores * SCALE + scores.relu()


def _scores_multiplied_twice(q: Tensor, k: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1)
    return scores * SCALE - scores * 2


@pytest.mark.parametrize(
    "scores",
    [
        _query_used_again,
        _unscaled_query_used_again,
        _scores_used_again,
        _scores_multiplied_twice,
        lambda q, k: (q @ q.transpose(-2, -1)) * SCALE,
        lambda q, k: (q[..., :3, :] @ q[..., :3, :]) * SCALE,
        lambda q, k: (q.relu() @ k.transpose(-2, -1)) * SCALE,
        lambda q, k: (nn.functional.normalize(q, dim=-1) @ k.transpose(-2, -1)) * SCALE,
        lambda q, k: (q @ k.transpose(-2, -1)) * q.mean(),
        lambda q, k: (q @ k.transpose(-2, -1)) * torch.tensor(SCALE, dtype=q.dtype),
        lambda q, k: (q @ k.transpose(-2, -1)) + SCALE,
        lambda q, k: torch.div(q @ k.transpose(-2, -1), SCALE, rounding_mode="floor"),
        lambda q, k: (q @ k.transpose(-2, -1)) / 0,
        lambda q, k: (q @ k.transpose(-2, -1)) * 0,
        lambda q, k: (q * SCALE).relu() @ k.transpose(-2, -1),
        lambda q, k: q * SCALE + k.mean(-2, keepdim=True),
    ],
    ids=[
        "query used again",
        "unscaled query used again",
        "scores used again",
        "scores scaled twice",
        "query by itself",
        "square query",
        "activation",
        "normalised",
        "computed factor",
        "tensor",
        "add",
        "floor",
        "division by zero",
        "zero",
        "scale before activation",
        "no product",
    ],
)
def test_keeps(scores: Callable[[Tensor, Tensor], Tensor]) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        q, k, _ = qkv_then_head(net.qkv(x))
        return torch.nan_to_num(scores(q, k), posinf=1, neginf=-1) + 1

    assert_keeps(PASS, Net(forward, qkv=nn.Linear(4, 3 * HEADS * DIM)), noise(2, 5, 4))


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: (lambda y: ((y @ y.transpose(1, 2)) * SCALE).softmax(-1))(net.q(x)),
        lambda net, x: (lambda y: ((y @ y) * SCALE).softmax(-1))(net.q(x)),
        lambda net, x: (lambda y: ((y[..., :3] @ y[..., 1:].transpose(1, 2)) * SCALE).softmax(-1))(net.q(x)),
        lambda net, x: (lambda y: ((y[:, :2] @ y[:, 2:].transpose(1, 2)) * SCALE).softmax(-1))(net.q(x)),
        lambda net, x: (lambda y: (((y[..., :2] @ x.transpose(1, 2)[:, :2]) * SCALE).softmax(-1), y))(net.q(x)),
    ],
    ids=["queries are keys", "squared", "overlapping features", "other tokens", "output"],
)
def test_keeps_features_that_are_used_for_more(forward: Callable[..., Any]) -> None:
    assert_keeps(PASS, Net(forward, q=nn.Linear(4, 4)), noise(2, 4, 4))


def test_keeps_a_learned_temperature() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        q, k, v = qkv_then_head(net.qkv(x))
        return ((q @ k.transpose(-2, -1)) * net.temperature).softmax(-1) @ v

    model = Net(forward, qkv=nn.Linear(4, 3 * HEADS * DIM), temperature=torch.ones(HEADS, 1, 1))
    assert_keeps(PASS, model, noise(2, 5, 4))


def test_keeps_a_computed_projection() -> None:
    model = Net(
        lambda net, x: ((nn.functional.linear(x, net.weight * x.mean()) @ x.transpose(1, 2)) * SCALE).softmax(-1),
        weight=torch.ones(4, 4),
    )
    assert_keeps(PASS, model, noise(2, 5, 4))
