"""Operators that TensorRT's parser of ONNX files refuses.

The list for TensorRT 10.15, https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md, has these as not
supported, or says the restriction; sums in ScatterElements are the one that it leaves out. Each was also given to the
parser of TensorRT-RTX 1.7.1, which refused it. Operators that have no form in ONNX at all are not among them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx

from deploy_kit.graph import Graph, is_getitem
from deploy_kit.lint.finding import Finding, Severity, findings
from deploy_kit.statistics import operator_name

ON_THE_HOST = "do it on the host, before the model or after it"
BY_PRODUCTS = "write the transform as products with fixed cosine and sine matrices, for the real and imaginary parts"
BY_DIVISION = "multiply or divide by powers of two, and floor"
BY_MASKS = "compute with masks of booleans or with arithmetic: booleans have their own operators, which are taken"

REFUSED = {
    "DFT": (
        "fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn fft_ifftn fft_rfftn "
        "fft_irfftn",
        BY_PRODUCTS,
    ),
    "Unique": ("_unique2", ON_THE_HOST),
    "Det": ("linalg_det logdet", "write the determinant out, or do it on the host"),
    "BitShift": ("bitwise_left_shift bitwise_right_shift __lshift__ __rshift__", BY_DIVISION),
    "BitwiseAnd, BitwiseOr, BitwiseXor or BitwiseNot": (
        "bitwise_and bitwise_or bitwise_xor bitwise_not __and__ __or__ __xor__",
        BY_MASKS,
    ),
    "Multinomial": ("multinomial", ON_THE_HOST),
    "Bernoulli": ("bernoulli", "take the random numbers as an input"),
    "Col2Im": ("col2im", "use a transposed convolution, or pixel_shuffle where the patches do not overlap"),
    "ScatterElements with a sum": ("scatter_add scatter_reduce bincount", "multiply by a one-hot matrix"),
    "Resize with antialias": (
        "_upsample_bilinear2d_aa _upsample_bicubic2d_aa",
        "resize without antialias, or by fixed matrices along each axis",
    ),
    "MaxPool with its indices": ("max_pool2d_with_indices", "upsample without indices: by a transposed convolution"),
}
"""By what ONNX calls them: the names in ATen, and what to do instead."""


def find(graph: Graph, target: str) -> Iterator[Finding]:
    """Findings of the rule ``parser``."""
    if target != "tensorrt":
        return
    for form, (names, fix) in REFUSED.items():
        nodes = [node for node in graph.nodes if node.op == "call_function" and _is_one(node, names.split())]
        message = f"TensorRT's parser does not take ONNX's {form}, which this becomes"
        yield from findings(target, "parser", Severity.ERROR, nodes, message, fix)


def _is_one(node: fx.Node, names: list[str]) -> bool:
    """Whether a call is one of the operators named, in the form that is refused."""
    name = operator_name(node)
    if name not in names:
        return False
    if name == "scatter_reduce":
        return "sum" in node.args
    if name == "max_pool2d_with_indices":
        return any(is_getitem(user) and user.args[1] == 1 for user in node.users)
    value = node.meta.get("val")
    return not (isinstance(value, torch.Tensor) and value.dtype == torch.bool)
