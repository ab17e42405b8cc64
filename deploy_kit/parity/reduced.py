"""Why an fp16 or int8 file fails its proof: its precision costs that much, or the file is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deploy_kit.graph import Graph
from deploy_kit.parity.compare import Comparison, Limits, Precision
from deploy_kit.parity.inputs import Case
from deploy_kit.parity.origin import Origin
from deploy_kit.parity.proof import Proof, judge
from deploy_kit.parity.reference import Reference, run_module

WORSE_DB = 10.0
"""A file may be so much further from float64 than PyTorch in the same precision: runtimes round in other places."""

ROOM_DB = 20.0
"""What an intermediate tensor keeps beyond the limit of the outputs by more than this does no harm."""


@dataclass(frozen=True)
class Simulation:
    """What PyTorch makes of the graphs that a file was made from, on the cases of the file's proof.

    ``fused`` is in float32; ``reduced`` in the file's precision, and None where PyTorch cannot compute in it.
    """

    fused: Proof
    reduced: Proof | None


def simulate(origin: Origin, cases: Sequence[Case], references: Sequence[Reference]) -> Simulation:
    """Run the fused graph in PyTorch, in float32 and in the precision of the file."""
    exporter, options = origin.exporter, origin.options
    fused = prove_graph(origin.fused, cases, references)
    try:
        graph = exporter.simulated(origin.lowered, options)
        reduced = None if graph is None else prove_graph(graph, cases, references, exporter.precision(options))
    except Exception:  # as of an operator without fp16 on this processor: it must not hide the failed proof itself
        reduced = None
    return Simulation(fused, reduced)


def prove_graph(
    graph: Graph, cases: Sequence[Case], references: Sequence[Reference], precision: Precision = "fp32"
) -> Proof:
    """The proof of a graph that PyTorch runs, by the limits of a precision."""
    outputs = [run_module(graph.module, case.inputs) for case in cases]
    return judge(cases, references, outputs, "PyTorch", precision)


def fault(proof: Proof, simulation: Simulation) -> str | None:
    """What shows that a file which fails its proof is wrong; None where its precision may be all that it suffers from.

    It is wrong if the fused graph is not the model, or if PyTorch in the same precision is nearer to float64 by more
    than `WORSE_DB`, and keeps that much at all.
    """
    if not simulation.fused.passed:
        return f"so does the fused graph in float32: {simulation.fused.failures[0]}"
    reduced = simulation.reduced
    if reduced is None or proof.snr_db is None or reduced.snr_db is None:
        return None
    if reduced.snr_db < WORSE_DB or reduced.snr_db - proof.snr_db <= WORSE_DB:
        return None
    return f"PyTorch keeps {reduced.snr_db:.1f} dB in the same precision"


def failure(tensor: Comparison, simulated: Comparison, limits: Limits) -> str | None:
    """Why an intermediate tensor of a file is wrong; None where its precision may be the reason.

    Args:
        tensor: as the file's runtime computes it, compared with float64.
        simulated: as PyTorch computes it in the same precision.
        limits: of the file's outputs.
    """
    if tensor.snr_db is None or simulated.snr_db is None:
        return None if tensor.problem is None or simulated.problem else tensor.failure(limits)
    allowed = min(simulated.snr_db - WORSE_DB, (limits.snr_db or 0.0) + ROOM_DB)
    if tensor.snr_db >= allowed:
        return None
    return (
        f"{tensor.case}: the SNR is {tensor.snr_db:.1f} dB, and PyTorch's in the same precision {simulated.snr_db:.1f}"
    )
