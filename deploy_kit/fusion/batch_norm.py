"""BatchNorm in evaluation mode as what it is: one gain and one shift a channel."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx

from deploy_kit.graph import Graph, argument


@dataclass(frozen=True)
class ChannelAffine:
    """``y[:, c] = gain[c] * x[:, c] + shift[c]`` in float64."""

    gain: Tensor
    shift: Tensor


def as_affine(graph: Graph, norm: fx.Node) -> ChannelAffine | None:
    """The gain and shift of a BatchNorm call; None in training mode or where a statistic is not constant."""
    mean, variance = (graph.constant(argument(norm, name)) for name in ("running_mean", "running_var"))
    if argument(norm, "training") or mean is None or variance is None:
        return None
    gain = (variance.double() + argument(norm, "eps")).rsqrt()
    for name in ("weight", "bias"):
        if argument(norm, name) is not None and graph.constant(argument(norm, name)) is None:
            return None
    weight, bias = (graph.constant(argument(norm, name)) for name in ("weight", "bias"))
    if weight is not None:
        gain = gain * weight.double()
    shift = -mean.double() * gain
    if bias is not None:
        shift = shift + bias.double()
    return ChannelAffine(gain, shift)
