"""Write LayerNorm over channels with matrix products in place of averages, for runtimes that have no norm."""

from __future__ import annotations

import torch
from torch import fx

from deploy_kit.fusion.compose_permutations import TO_IMAGE, TO_TOKENS
from deploy_kit.graph import Graph, argument, aten, rank, shape


def layer_norm_to_products(graph: Graph) -> list[tuple[fx.Node, str]]:
    """norm(x) = d / sqrt(d^2 u + eps) * g + b, with d = x - x u and u = (1/C, ..., 1/C)^T: averages are products.

    On tokens [B, H, W, C] it is written as pointwise convolutions of the image [B, C, H, W], so that
    it needs no change of layout between convolutions; otherwise as linear layers.
    """
    changes = []
    for norm in graph.calls(aten.layer_norm.default):
        if len(argument(norm, "normalized_shape")) != 1:
            continue
        image = rank(norm) == 4
        product = aten.conv2d.default if image else aten.linear.default
        x = norm.args[0]
        if image:
            x = graph.call(aten.permute.default, x, TO_IMAGE, before=norm)
        mean, bias = _averages(graph, norm, image)
        centred = graph.call(aten.sub.Tensor, x, graph.call(product, x, mean, before=norm), before=norm)
        squares = graph.call(aten.mul.Tensor, centred, centred, before=norm)
        variance = graph.call(product, squares, mean, bias, before=norm)
        out = graph.call(aten.mul.Tensor, centred, graph.call(aten.rsqrt.default, variance, before=norm), before=norm)
        for name, op in (("weight", aten.mul.Tensor), ("bias", aten.add.Tensor)):
            value = argument(norm, name)
            if value is not None:
                if image:
                    value = graph.call(aten.reshape.default, value, [1, -1, 1, 1], before=norm)
                out = graph.call(op, out, value, before=norm)
        graph.replace(norm, graph.call(aten.permute.default, out, TO_TOKENS, before=norm) if image else out)
        changes.append((norm, "averages written as " + ("pointwise convolutions" if image else "linear layers")))
    return changes


def _averages(graph: Graph, norm: fx.Node, image: bool) -> tuple[fx.Node, fx.Node]:
    """The matrix that averages channels, and epsilon as the bias that is added to an average."""
    size, dtype = shape(norm)[-1], norm.meta["val"].dtype
    matrix = torch.full((1, size, 1, 1) if image else (1, size), 1 / size, dtype=dtype)
    eps = torch.full((1,), argument(norm, "eps"), dtype=dtype)
    return graph.add_constant(matrix, f"{norm.name}_average", norm), graph.add_constant(eps, f"{norm.name}_eps", norm)
