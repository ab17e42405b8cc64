from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deploy_kit.capture import capture
from deploy_kit.statistics import Statistics, count
from tests.support import Tiny

IMAGE = torch.zeros(1, 8, 16, 16)


def counted(model: nn.Module, *inputs: Tensor, **options: Any) -> Statistics:
    return count(capture(model.eval(), inputs or (IMAGE,), **options))


class Attention(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, v)


class Written(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(-1, -2)).softmax(-1) @ v


HEADS = (torch.zeros(1, 2, 10, 4), torch.zeros(1, 2, 12, 4), torch.zeros(1, 2, 12, 6))


@pytest.mark.parametrize(
    ("model", "inputs", "macs"),
    [
        (nn.Conv2d(8, 4, 3, padding=1), (IMAGE,), 4 * 16 * 16 * 8 * 9),
        (nn.Conv2d(8, 8, 3, stride=2, groups=8), (IMAGE,), 8 * 7 * 7 * 9),
        (nn.Conv2d(8, 4, 3, bias=False, groups=2), (IMAGE,), 4 * 14 * 14 * 4 * 9),
        (nn.ConvTranspose2d(8, 4, 2, stride=2), (IMAGE,), 8 * 16 * 16 * 4 * 4),
        (nn.ConvTranspose2d(8, 8, 2, stride=2, groups=8), (IMAGE,), 8 * 16 * 16 * 4),
        (nn.Linear(16, 5), (IMAGE,), 8 * 16 * 16 * 5),
        (Attention(), HEADS, 2 * 10 * 12 * (4 + 6)),
        (Written(), HEADS, 2 * 10 * 12 * (4 + 6)),
        (nn.ReLU(), (IMAGE,), 0),
    ],
)
def test_multiply_accumulates_are_those_of_the_formula(model: nn.Module, inputs: tuple[Tensor, ...], macs: int) -> None:
    assert counted(model, *inputs).macs == macs


def test_parameters_count_each_tensor_once() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    assert counted(model).parameters == 2 * (16 * 16 + 16)
    model[2].weight = model[0].weight
    assert counted(model).parameters == 16 * 16 + 2 * 16


def test_operators_are_counted_by_name() -> None:
    statistics = counted(Tiny(), torch.zeros(1, 3, 32, 32))
    assert statistics.operators["linear"] == 3
    assert statistics.operators["conv2d"] == 2
    assert statistics.operators["batch_norm"] == 1
    assert statistics.operator_count == sum(statistics.operators.values())
    assert statistics.layout_operators == 2


def test_the_largest_rank_is_of_any_tensor_on_the_way() -> None:
    class Windows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(1, 8, 4, 4, 4, 4).permute(0, 2, 4, 1, 3, 5).reshape(16, 8, 16)

    assert counted(Windows()).largest_rank == 6


def test_a_free_batch_counts_one_batch_of_the_example() -> None:
    fixed, free = counted(nn.Linear(16, 5)), counted(nn.Linear(16, 5), IMAGE, dynamic_batch=True)
    assert free.macs % fixed.macs == 0
    assert free.parameters == fixed.parameters
