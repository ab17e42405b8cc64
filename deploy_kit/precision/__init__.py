"""Reduced precision: from a fused float32 graph to one in fp16 or int8, the same for every target."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from deploy_kit.errors import ExportError
from deploy_kit.graph import Graph
from deploy_kit.outcome import Outcome
from deploy_kit.parity.compare import LIMITS, Precision
from deploy_kit.parity.reference import run_module
from deploy_kit.precision.half import to_half
from deploy_kit.precision.int8 import QUANTIZE, measure, quantize
from deploy_kit.precision.scheme import Scheme
from deploy_kit.precision.select import find_sites
from deploy_kit.precision.sensitivity import Loss, fewest_in_float, measure_losses, snr_db

MARGIN_DB = 1.0
"""The search for modules to keep asks for so much more than the proof does, which sees other inputs."""


@dataclass(frozen=True)
class Lowered:
    """A graph in another precision, with what the manifest says of it and what the user should read.

    ``explain`` measures what each module loses, worst first; None where no module loses by being lowered.
    """

    graph: Graph
    details: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    explain: Callable[[], list[Loss]] | None = None


def lower_to_half(graph: Graph, keep: Collection[str]) -> Lowered:
    """The graph in fp16; see `deploy_kit.precision.half.to_half`."""
    lowered, kept = to_half(graph, keep)
    inputs = graph.calibration
    simulated = snr_db(lowered, [run_module(graph.module, case) for case in inputs], inputs)
    details = {"kept_in_fp32": [asdict(call) for call in kept], "simulated_snr_db": simulated}
    ranged = [call for call in kept if call.reason != "as asked"]
    notes = []
    if ranged:
        modules = ", ".join(dict.fromkeys(call.module or call.operator for call in ranged))
        notes.append(f"{len(ranged)} operators stay in float32, because fp16 has no room ({modules})")
    return Lowered(lowered, {"fp16": details}, notes)


def lower_to_int8(graph: Graph, scheme: Scheme, keep: Collection[str], *, auto_mixed: bool) -> Lowered:
    """The graph in int8, with ``keep`` and, if ``auto_mixed``, the fewest further modules in float32.

    Raises:
        ExportError: nothing in the graph has an integer kernel, or no mixture keeps the limits of int8.
    """
    numbers = measure(graph, scheme)
    kept = list(keep)
    if auto_mixed:
        kept += _choose_mixture(graph, scheme, numbers, kept)
    lowered = quantize(graph, scheme, numbers, kept)
    sites = find_sites(graph, kept)
    if not sites:
        raise ExportError("the model has no convolution or linear layer left to compute in int8")
    inputs = graph.calibration
    simulated = snr_db(lowered, [run_module(graph.module, case) for case in inputs], inputs)
    details = {"kept_in_fp32": kept, "int8_operators": len(sites), "simulated_snr_db": simulated}
    notes = [f"kept in float32: {', '.join(kept)}"] if auto_mixed and kept else []
    return Lowered(lowered, {"int8": details}, notes, lambda: measure_losses(graph, scheme, numbers, kept))


def _choose_mixture(graph: Graph, scheme: Scheme, numbers: dict[str, Any], keep: list[str]) -> list[str]:
    inputs = graph.calibration
    expected = [run_module(graph.module, case) for case in inputs]
    wanted = (LIMITS["int8"].snr_db or 0) + MARGIN_DB

    def suffices(more: list[str]) -> bool:
        return snr_db(quantize(graph, scheme, numbers, [*keep, *more]), expected, inputs) >= wanted

    if suffices([]):
        return []
    chosen = fewest_in_float(measure_losses(graph, scheme, numbers, keep), suffices)
    if chosen is None:
        raise ExportError("no mixture of int8 and float32 keeps the limits of int8", outcome=Outcome.LOSSY)
    return chosen


def lower(
    graph: Graph, precision: Precision, scheme: Scheme, keep: Collection[str] = (), *, auto_mixed: bool = False
) -> Lowered:
    """A fused float32 graph with calibration inputs in another precision; in float32, the graph itself."""
    if precision == "fp16":
        return lower_to_half(graph, keep)
    if precision == "int8":
        return lower_to_int8(graph, scheme, keep, auto_mixed=auto_mixed)
    return Lowered(graph)


def simulated(graph: Graph, precision: Precision) -> Graph | None:
    """What `lower` made, for PyTorch to compute in its precision; None for an int8 that is a target's own.

    A graph in float32, which its target makes fp16 of, gets weights and results of operators that are rounded to fp16.
    """
    if precision == "fp32" or any(graph.calls(QUANTIZE)) or any(_is_half(node.meta.get("val")) for node in graph.nodes):
        return graph
    return to_half(graph)[0] if precision == "fp16" else None


def _is_half(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.float16


__all__ = ["Loss", "Lowered", "Scheme", "lower", "simulated"]
