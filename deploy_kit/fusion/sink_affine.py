"""Moving a gain and a shift of each channel forward into the linear maps that read them."""

from __future__ import annotations

from deploy_kit.fusion.batch_norm import ChannelAffine
from deploy_kit.fusion.channels import ChannelUse
from deploy_kit.fusion.linear_ops import (
    CONVOLUTIONS,
    LINEAR,
    channel_axis,
    has_no_padding,
    scale_inputs,
    set_weight_and_bias,
    shift_inputs,
    weight_and_bias,
)
from deploy_kit.graph import Graph, is_call


def accepts_affine(graph: Graph, use: ChannelUse) -> bool:
    """Whether the consumer is a linear layer, or a convolution without padding, over these channels."""
    consumer = use.consumer
    return (
        is_call(consumer, *CONVOLUTIONS, LINEAR)
        and has_no_padding(consumer)
        and channel_axis(consumer) == use.axis
        and weight_and_bias(graph, consumer) is not None
    )


def sink_affine(graph: Graph, use: ChannelUse, affine: ChannelAffine) -> None:
    """Let ``consumer(x)`` compute what ``consumer(gain * x + shift)`` did."""
    constants = weight_and_bias(graph, use.consumer)
    assert constants is not None
    weight, bias = constants
    folded = scale_inputs(use.consumer, weight, affine.gain)
    set_weight_and_bias(graph, use.consumer, folded, bias + shift_inputs(use.consumer, weight, affine.shift))
