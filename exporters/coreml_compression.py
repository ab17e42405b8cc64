"""Smaller weights in an ``.mlpackage``: int8 with a scale for each channel, or indices into a palette."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from deploy_kit.exporters.mil.package import quiet

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
