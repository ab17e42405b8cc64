"""Variants of a model's stem: the layers from the image to the first features at a quarter of its size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import fx

from deploy_kit.advise.activations import kind_of
from deploy_kit.advise.variant import Effect, Variant
from deploy_kit.graph import Graph, aten, is_call, only_user, rank, shape

CHAIN = (aten.conv2d.default, aten.batch_norm.default, aten.max_pool2d.default, aten.avg_pool2d.default)


@dataclass(frozen=True)
class Stem:
    """The chain of single layers that an image goes through first, and by how much it shrinks it."""

    image: fx.Node
    end: fx.Node
    stride: int


def stem_variants() -> list[Variant]:
    """One convolution of patches that do not overlap, and two of 3x3 with stride 2, for stems of stride 4."""
    return [
        Variant("stem", "one convolution of 4x4 patches", Effect.RETRAIN, partial(_write, [(4, 4)])),
        Variant("stem", "two 3x3 convolutions with stride 2", Effect.RETRAIN, partial(_write, [(3, 2), (3, 2)])),
    ]


def find_stem(graph: Graph) -> Stem | None:
    """The longest chain of convolutions, norms, pools and activations from the image that shrinks it by 4."""
    images = [node for node in graph.nodes if node.op == "placeholder" and rank(node) == 4]
    if len(images) != 1 or not images[0].meta["val"].is_floating_point():
        return None
    image = node = images[0]
    stem = None
    while (user := only_user(node)) is not None and (is_call(user, *CHAIN) or kind_of(user) is not None):
        if user.args[0] is not node:
            break
        node = user
        if shape(node)[2] * 4 == shape(image)[2] and shape(node)[3] * 4 == shape(image)[3]:
            stem = Stem(image, node, 4)
    return stem


def _write(layers: list[tuple[int, int]], graph: Graph) -> int:
    """Replace the stem by convolutions of these kernels and strides, with ReLU between them and half as many
    channels before the last."""
    stem = find_stem(graph)
    if stem is None:
        return 0
    convolutions = _convolutions(stem)
    if [(kernel, stride) for kernel, stride in convolutions] == layers:
        return 0
    before = stem.end
    channels = shape(stem.end)[1]
    x = stem.image
    for index, (kernel, stride) in enumerate(layers):
        last = index == len(layers) - 1
        width = channels if last else channels // 2
        inputs = shape(x)[1]
        generator = torch.Generator().manual_seed(index)
        weight = torch.randn(width, inputs, kernel, kernel, generator=generator) / (inputs * kernel**2) ** 0.5
        dtype = stem.image.meta["val"].dtype
        constant = graph.add_constant(weight.to(dtype), "stem_weight", before)
        bias = graph.add_constant(torch.zeros(width, dtype=dtype), "stem_bias", before)
        padding = (kernel - stride + 1) // 2
        x = graph.call(
            aten.conv2d.default, x, constant, bias, [stride, stride], [padding, padding], before=before, like=before
        )
        if not last:
            x = graph.call(aten.relu.default, x, before=before, like=before)
    if shape(x) != shape(stem.end):
        return 0
    graph.replace(stem.end, x)
    return 1


def _convolutions(stem: Stem) -> list[tuple[int, int]]:
    """Kernel and stride of each convolution of a stem, in order."""
    found = []
    node = stem.end
    while node is not stem.image:
        if is_call(node, aten.conv2d.default):
            before = node.args[0]
            assert isinstance(before, fx.Node)
            weight = node.args[1]
            assert isinstance(weight, fx.Node)
            found.append((shape(weight)[2], shape(before)[2] // shape(node)[2]))
        source = node.args[0]
        assert isinstance(source, fx.Node)
        node = source
    return found[::-1]
