"""Write the resizing of small images as a product with a constant matrix."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from deploy_kit.graph import Graph, aten, operand, rank, shape

RESIZES = (aten.upsample_bilinear2d.vec, aten.upsample_bicubic2d.vec, aten.upsample_nearest2d.vec)
LARGEST = 64
"""Pixels of an input, and so the multiply-accumulates of an output, up to which the product was found faster."""


def resize_to_product(graph: Graph) -> list[tuple[fx.Node, str]]:
    """resize(x) = x R, for x as [B, C, H W] and R [H W, H' W'] what the operator makes of each pixel alone.

    Every resize with fixed weights is linear in the image. Needs fixed sizes, but for the batch.
    """
    changes = []
    for resize in graph.calls(*RESIZES):
        x = operand(resize)
        batch, *sizes = shape(x)
        if rank(x) != 4 or not all(isinstance(size, int) for size in (*sizes, *shape(resize)[1:])):
            continue
        channels, height, width = sizes
        if height * width > LARGEST:
            continue
        matrix = _matrix(resize, height, width).to(x.meta["val"].dtype)
        constant = graph.add_constant(matrix, f"{resize.name}_matrix", resize)
        first = batch if isinstance(batch, int) else -1
        pixels = graph.call(aten.reshape.default, x, [first, channels, height * width], before=resize)
        product = graph.call(aten.matmul.default, pixels, constant, before=resize, like=resize)
        graph.replace(resize, graph.call(aten.reshape.default, product, [first, *shape(resize)[1:]], before=resize))
        changes.append((product, f"a product with [{height * width}, {matrix.shape[1]}]"))
    return changes


def _matrix(resize: fx.Node, height: int, width: int) -> Tensor:
    """What the operator makes of each pixel, in float64: [height * width, pixels of the output]."""
    basis = torch.eye(height * width, dtype=torch.float64).reshape(-1, 1, height, width)
    assert callable(resize.target)
    out: Tensor = resize.target(basis, *resize.args[1:])
    return out.flatten(1)
