"""Write a depthwise transposed convolution that does not overlap as the product that it is."""

from __future__ import annotations

from torch import Tensor, fx

from deploy_kit.fusion.linear_ops import weight_and_bias
from deploy_kit.graph import Graph, argument, aten, operand, shape


def transposed_conv_to_product(graph: Graph) -> list[tuple[fx.Node, str]]:
    """y[c, r i + u, s j + v] = k[c, u, v] x[c, i, j] + b[c], where kernel and stride are both (r, s).

    Written on [B, H, W, C], where it is one broadcast multiply-add into [B H, r, W, s, C]; rank 5 is
    what it takes to put each factor beside its axis. Needs one filter a channel, no padding and a
    fixed batch.
    """
    changes = []
    for conv in graph.calls(aten.conv_transpose2d.input):
        constants = weight_and_bias(graph, conv)
        if constants is None or not _is_spread(conv, constants[0]):
            continue
        weight, bias = constants
        dtype = conv.meta["val"].dtype
        rows, columns = weight.shape[2:]
        channels, height, width = shape(operand(conv))[1:]
        factors = weight[:, 0].permute(1, 2, 0).reshape(1, rows, 1, columns, channels)
        kernel = graph.add_constant(factors.to(dtype), f"{conv.name}_kernel", conv)
        shift = graph.add_constant(bias.to(dtype), f"{conv.name}_bias", conv)
        x = graph.call(aten.permute.default, conv.args[0], [0, 2, 3, 1], before=conv)
        x = graph.call(aten.reshape.default, x, [-1, 1, width, 1, channels], before=conv)
        y = graph.call(aten.addcmul.default, shift, x, kernel, before=conv)
        y = graph.call(aten.reshape.default, y, [-1, height * rows, width * columns, channels], before=conv)
        graph.replace(conv, graph.call(aten.permute.default, y, [0, 3, 1, 2], before=conv))
        changes.append((conv, f"{rows}x{columns} transposed convolution is a product"))
    return changes


def _is_spread(conv: fx.Node, weight: Tensor) -> bool:
    """Whether each input element alone makes a block of the output, with a filter a channel."""
    kernel = list(weight.shape[2:])
    stride = list(argument(conv, "stride"))
    sizes = shape(operand(conv))
    return (
        weight.shape[1] == 1
        and argument(conv, "groups") == weight.shape[0]
        and (stride * 2 if len(stride) == 1 else stride) == kernel
        and set(argument(conv, "padding")) == {0}
        and set(argument(conv, "output_padding")) == {0}
        and set(argument(conv, "dilation")) == {1}
        and len(sizes) == 4
        and all(isinstance(size, int) for size in sizes)
    )
