"""Static int8: a graph with quantize and dequantize operators, from which every target makes its integer kernels."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from torch import Tensor, fx

from deploy_kit.graph import Graph, is_call, operand, set_argument
from deploy_kit.precision.calibrate import choose, record
from deploy_kit.precision.scheme import Affine, Scheme
from deploy_kit.precision.select import Site, find_sites, find_sums, source

aten = torch.ops.aten
QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default
DEQUANTIZE_WEIGHT = torch.ops.quantized_decomposed.dequantize_per_channel.default

BIAS_STEPS = 2.0**30
"""A bias is at most so many steps of its channel: runtimes keep it in int32 at the product of the two scales."""


def measure(graph: Graph, scheme: Scheme) -> dict[str, Affine]:
    """The int8 parameters of every value that may be stored in int8, by its node's name.

    Args:
        graph: a float32 graph with calibration inputs.
    """
    sites = find_sites(graph)
    nodes = {source(operand(site.call)) for site in sites} | {site.result for site in sites}
    nodes |= set(find_sums(graph, sites))
    values = record(graph, nodes, graph.calibration)
    return {name: choose(seen, scheme) for name, seen in values.items()}


def quantize(
    graph: Graph,
    scheme: Scheme,
    numbers: dict[str, Affine],
    keep: Collection[str] = (),
    only: Collection[str] | None = None,
) -> Graph:
    """A graph whose convolutions and linear layers read and return int8, with int8 weights.

    Around each, ``dequantize(quantize(x))`` rounds what it reads and returns; a runtime fuses
    ``quantize(call(dequantize(x), dequantize(w)))`` into one integer kernel. A residual sum of two such
    results is int8 as well.

    Args:
        graph: float32; it is not changed.
        numbers: from `measure` of this graph.
        keep: modules that stay in float32.
        only: if given, the names of the calls' nodes to quantize, and no others.
    """
    copied = graph.copy()
    sites = [site for site in find_sites(copied, keep) if only is None or site.call.name in only]
    sums = find_sums(copied, sites)
    roots = {site.call: numbers[source(operand(site.call)).name] for site in sites}
    for site in sites:
        _quantize_weight(copied, site, roots[site.call])
    for result in (*(site.result for site in sites), *sums):
        _store(copied, result, numbers[result.name])
    for site in sites:
        _read(copied, site.call, roots[site.call])
    copied.clean()
    return replace(copied, calibration=graph.calibration)


def _store(graph: Graph, node: fx.Node, numbers: Affine) -> None:
    """Let every user of ``node`` read it from int8, each by a dequantization of its own: runtimes fuse it with that."""
    users = list(node.users)
    arguments = (numbers.scale, numbers.zero_point, numbers.lowest, numbers.highest, numbers.dtype)
    stored = graph.call(QUANTIZE, node, *arguments, before=node.next, like=node)
    for user in users:
        read = graph.call(DEQUANTIZE, stored, *arguments, before=user, like=node)
        user.replace_input_with(node, read)


def _read(graph: Graph, call: fx.Node, numbers: Affine) -> None:
    """Let a call read its input from int8; one that is stored so already is not stored again."""
    value = operand(call)
    if is_call(value, DEQUANTIZE):
        return
    arguments = (numbers.scale, numbers.zero_point, numbers.lowest, numbers.highest, numbers.dtype)
    stored = graph.call(QUANTIZE, value, *arguments, before=call)
    call.args = (graph.call(DEQUANTIZE, stored, *arguments, before=call), *call.args[1:])


def _quantize_weight(graph: Graph, site: Site, numbers: Affine) -> None:
    call = site.call
    weight, bias = graph.constant(call.args[1]), graph.constant(call.args[2]) if len(call.args) > 2 else None
    assert weight is not None
    scale = weight_scale(weight)
    if bias is not None:
        scale = torch.maximum(scale, bias.abs() / (BIAS_STEPS * numbers.scale))
    steps = scale.reshape(-1, *(1 for _ in weight.shape[1:]))
    stored = torch.clamp(torch.round(weight / steps), -127, 127).to(torch.int8)
    name = str(operand(call, 1).target)
    constants = [
        graph.add_constant(value, f"{name}_{kind}", before=call)
        for kind, value in (("int8", stored), ("scale", scale), ("zero", torch.zeros(len(scale), dtype=torch.int64)))
    ]
    read = graph.call(DEQUANTIZE_WEIGHT, *constants, 0, -127, 127, torch.int8, before=call)
    set_argument(call, "weight", read)


def weight_scale(weight: Tensor) -> Tensor:
    """The scale of each output channel: its largest magnitude is 127. A channel of zeros has a scale as well."""
    return torch.clamp(weight.abs().flatten(1).amax(1), min=1e-8) / 127
