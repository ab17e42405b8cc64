"""Which modules a reduced precision loses at, and the fewest that have to stay in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from deploy_kit.graph import Graph
from deploy_kit.parity.reference import run_module
from deploy_kit.precision.int8 import quantize
from deploy_kit.precision.scheme import Affine, Scheme
from deploy_kit.precision.select import find_sites

NO_NOISE_DB = 999.0
"""The SNR without an error; its negative is that of a result which is not finite."""

SAMPLES = 4
"""So many calibration inputs the search looks at."""


@dataclass(frozen=True)
class Loss:
    """A module, and the SNR in dB of the whole model's output when nothing but this module is int8."""

    module: str
    snr_db: float


def snr_db(graph: Graph, expected: Sequence[list[Tensor]], inputs: Sequence[tuple[Tensor, ...]]) -> float:
    """The power of the expected outputs over that of a graph's error, in dB, on the worst input and output."""
    worst = NO_NOISE_DB
    for case, wanted in zip(inputs, expected, strict=True):
        for exact, got in zip(wanted, run_module(graph.module, case), strict=True):
            noise = (got.double() - exact.double()).square().sum().item()
            signal = exact.double().square().sum().item()
            if not math.isfinite(noise):
                return -NO_NOISE_DB
            if noise > 0:
                worst = min(worst, 10 * math.log10(max(signal, 1e-300) / noise))
    return worst


def measure_losses(graph: Graph, scheme: Scheme, numbers: dict[str, Affine], keep: Collection[str] = ()) -> list[Loss]:
    """What each module's own int8 costs, worst first; a module in ``keep`` is left out.

    Args:
        graph: float32, with calibration inputs.
        numbers: from `deploy_kit.precision.int8.measure` of this graph.
    """
    inputs = graph.calibration[:SAMPLES]
    expected = [run_module(graph.module, case) for case in inputs]
    calls: dict[str, list[str]] = {}
    for site in find_sites(graph, keep):
        calls.setdefault(site.name, []).append(site.call.name)
    losses = [
        Loss(module, snr_db(quantize(graph, scheme, numbers, only=only), expected, inputs))
        for module, only in calls.items()
    ]
    return sorted(losses, key=lambda loss: loss.snr_db)


def fewest_in_float(losses: Sequence[Loss], suffices: Callable[[list[str]], bool]) -> list[str] | None:
    """A smallest set of modules that must stay in float32: it suffices, and without any one of them it does not.

    The modules that lose most are taken first, as many as are needed; then each is given back that is not.
    That finds no set which only modules that lose little on their own would make.

    Args:
        losses: of all modules, worst first.
        suffices: whether the rest may be int8 when these modules are not.

    Returns:
        The modules, worst first; None where even all of them do not suffice.
    """
    modules = [loss.module for loss in losses]
    if not suffices(modules):
        return None
    low, high = 0, len(modules)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(modules[:middle]) else (middle + 1, high)
    kept = modules[:low]
    for module in reversed(modules[: low - 1]):
        fewer = [name for name in kept if name != module]
        kept = fewer if suffices(fewer) else kept
    return kept
