"""Smaller weights in an ``.mlpackage``: int8 with a scale for each channel, or indices into a palette."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from deploy_kit.exporters.mil.package import quiet
from deploy_kit.graph import Graph
from deploy_kit.precision.int8 import weight_scale

Kind = Literal["int8", "palette8", "palette6", "palette4"]

PALETTE_BITS: dict[str, int] = {"palette8": 8, "palette6": 6, "palette4": 4}

LEAST_IOS = 16
"""MIL has ``constexpr_affine_dequantize`` and ``constexpr_lut_to_dense`` from iOS 16 on."""

SMALLEST = 2048
"""Tensors of at most this many elements stay as they are, and so do those of one axis, such as biases.

A palette of 256 numbers costs as much as 256 elements in the weights' own type, so that of a smaller tensor little
is spared; and depthwise kernels, biases and gains, which is what small tensors are, lose the most to rounding.
"""


def compress(source: Path, target: Path, kind: str) -> None:
    """Write a package with compressed weights; it computes in the same types as before.

    Args:
        source: the ``.mlpackage`` to read.
        target: the one to write.
        kind: ``int8``, or a key of `PALETTE_BITS`.
    """
    with quiet():
        import coremltools as ct
        from coremltools.optimize import coreml as optimize

        model = ct.models.MLModel(str(source), skip_model_load=True)
        if kind in PALETTE_BITS:
            compressed = optimize.palettize_weights(model, _configuration(optimize, _palette(optimize, kind)))
        else:
            compressed = optimize.linear_quantize_weights(model, _configuration(optimize, _linear(optimize)))
        compressed.save(str(target))


def _configuration(optimize: Any, everywhere: Any) -> Any:
    return optimize.OptimizationConfig(global_config=everywhere)


def _palette(optimize: Any, kind: str) -> Any:
    return optimize.OpPalettizerConfig(mode="kmeans", nbits=PALETTE_BITS[kind], weight_threshold=SMALLEST)


def _linear(optimize: Any) -> Any:
    return optimize.OpLinearQuantizerConfig(
        mode="linear_symmetric", dtype="int8", granularity="per_channel", weight_threshold=SMALLEST
    )


ROUNDS = 10
"""So many times a palette is fitted to its tensor; it changes little after that."""


def with_rounded_weights(graph: Graph, kind: str) -> Graph:
    """A copy of a graph with the weights that a compressed package computes with, by `compress` in PyTorch.

    A palette is not the very one of the package, and loses about as much.
    """
    copied = graph.copy()
    for node in list(copied.nodes):
        weight = copied.constant(node)
        if weight is None or not weight.is_floating_point() or weight.dim() < 2 or weight.numel() <= SMALLEST:
            continue
        rounded = _to_palette(weight, 2 ** PALETTE_BITS[kind]) if kind in PALETTE_BITS else _to_int8(weight)
        copied.replace(node, copied.add_constant(rounded, f"{node.target}_{kind}", before=node))
    copied.clean()
    return copied


def _to_int8(weight: Tensor) -> Tensor:
    scale = weight_scale(weight).reshape(-1, *(1 for _ in weight.shape[1:]))
    return torch.round(weight / scale) * scale


def _to_palette(weight: Tensor, size: int) -> Tensor:
    """Each element as the nearest color of a palette of so many, which are the means of what is nearest to them.

    They begin halfway between equal steps and quantiles: rare values get more colors than their number, and fewer
    than their range.
    """
    values = weight.flatten().sort().values
    quantiles = values[torch.arange(size) * (len(values) - 1) // (size - 1)]
    colors = (quantiles + torch.linspace(values[0].item(), values[-1].item(), size)) / 2
    for _ in range(ROUNDS):
        nearest = _nearest(values, colors)
        sums = torch.zeros_like(colors).index_add(0, nearest, values)
        counts = torch.bincount(nearest, minlength=size)
        colors = torch.where(counts > 0, sums / counts.clamp(min=1), colors).sort().values
    return colors[_nearest(weight, colors)]


def _nearest(values: Tensor, colors: Tensor) -> Tensor:
    """The index of the nearest of some sorted colors."""
    return torch.bucketize(values.contiguous(), (colors[1:] + colors[:-1]) / 2)
