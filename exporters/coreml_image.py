"""CoreML has no uint8 tensors: a model of pixels takes an image there, whose planes the program gets as floats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deploy_kit.errors import ExportError
from deploy_kit.graph import Graph, aten, is_call, only_user

if TYPE_CHECKING:
    from PIL.Image import Image


def takes_pixels(graph: Graph) -> bool:
    """Whether a graph has its preprocessing inside: its one input is uint8 [B, H, W, C]."""
    return len(graph.example_inputs) == 1 and graph.example_inputs[0].dtype == torch.uint8


def with_planes(graph: Graph) -> Graph:
    """A copy of a graph of pixels for what CoreML makes of an image: float32 [1, C, H, W], from 0 to 255.

    Raises:
        ExportError: a batch of several images, or a pass has moved the cast or the permutation at the entry.
    """
    if graph.example_inputs[0].shape[0] != 1:
        raise ExportError(
            "CoreML takes one image, so preprocessing cannot be embedded for a batch of "
            f"{graph.example_inputs[0].shape[0]}",
            fix="export it with a batch of 1, or without --embed-preprocessing",
        )
    copied = graph.copy()
    pixels = next(node for node in copied.nodes if node.op == "placeholder")
    cast = only_user(pixels)
    permuted = None if cast is None else only_user(cast)
    if permuted is None or not is_call(permuted, aten.permute.default) or permuted.args[1] != [0, 3, 1, 2]:
        raise ExportError("the pixels are not cast and permuted first, so they cannot be replaced by an image")
    pixels.meta["val"] = permuted.meta["val"]
    copied.replace(permuted, pixels)
    copied.clean()
    calibration = tuple(to_planes(inputs) for inputs in graph.calibration)
    return replace(copied, example_inputs=to_planes(graph.example_inputs), calibration=calibration)


def to_planes(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Inputs with pixels, uint8 [B, H, W, C], as planes, float32 [B, C, H, W]; others as they are."""
    return tuple(_planes(x) if x.dtype == torch.uint8 else x for x in inputs)


def _planes(x: Tensor) -> Tensor:
    # not contiguous(): it leaves the strides of a single channel as they are, which coremltools takes for a layout
    return x.permute(0, 3, 1, 2).float().clone(memory_format=torch.contiguous_format)


def to_image(planes: Tensor) -> Image:
    """The image of which CoreML makes these planes."""
    import PIL.Image

    rows = planes[0].to(torch.uint8).permute(1, 2, 0)
    return PIL.Image.fromarray((rows if rows.shape[2] == 3 else rows[:, :, 0]).contiguous().numpy())


def image_type(ct: Any, shape: Sequence[int]) -> Any:
    """coremltools' description of an image whose planes have this shape, [1, C, H, W], as they are."""
    layout = ct.colorlayout.RGB if shape[1] == 3 else ct.colorlayout.GRAYSCALE
    return ct.ImageType(shape=tuple(shape), scale=1.0, bias=[0.0] * 3 if shape[1] == 3 else 0.0, color_layout=layout)
