"""The few layers that several architectures share, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "hardswish": nn.Hardswish,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
}
"""Every activation that ``create_model(activation=...)`` takes, by name."""


class ChannelMLP(nn.Module):
    """Two linear layers on the last axis with an activation between: ``[..., dim] -> [..., dim]``."""

    def __init__(self, dim: int, hidden: int, activation: Callable[[], nn.Module]):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = activation()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class ConvMLP(nn.Module):
    """`ChannelMLP` as 1x1 convolutions: ``[B, dim, H, W] -> [B, dim, H, W]``."""

    def __init__(self, dim: int, hidden: int, activation: Callable[[], nn.Module]):
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.act = activation()
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


def randomize_(model: nn.Module, seed: int, gain: float = 0.5) -> None:
    """Give every parameter and running statistic of ``model`` a seeded random value, in place.

    Norm gains, biases and running statistics are drawn too: with the usual ones and zeros, an
    exporter that forgets one of them would compute the right answer by luck. ``gain`` is the
    variance that a matrix or kernel keeps. The global random state is not touched.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, std: float, mean: float = 0.0) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * std + mean)

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2:
                normal(parameter, (gain / parameter[0].numel()) ** 0.5)
            elif name.endswith("weight"):
                normal(parameter, 0.1, mean=1.0)
            else:
                normal(parameter, 0.1)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                normal(buffer, 0.1)
            elif name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
