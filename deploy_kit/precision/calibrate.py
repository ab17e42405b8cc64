"""The ranges of a graph's values, measured on calibration inputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from deploy_kit.graph import Graph
from deploy_kit.parity.reference import one_thread
from deploy_kit.precision.scheme import Affine, Scheme, affine

KEPT = 4096
"""So many elements of a value are kept of each input, evenly spaced."""

SHRINKS = tuple(step / 20 for step in range(4, 21))
"""The parts of each end of the full range that are tried."""


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, wanted: set[str]):
        super().__init__(module)
        self.wanted = wanted
        self.seen: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.wanted:
            flat = value.detach().reshape(-1)
            step = max(1, flat.numel() // KEPT)
            self.seen[n.name] = torch.cat([flat[::step], flat.min().reshape(1), flat.max().reshape(1)]).clone()
        return value


def record(graph: Graph, nodes: Iterable[fx.Node], inputs: Sequence[tuple[Tensor, ...]]) -> dict[str, Tensor]:
    """Elements of each node's value over all inputs, with the least and the greatest, by the node's name."""
    recorder = _Recorder(graph.module, {node.name for node in nodes})
    pieces: dict[str, list[Tensor]] = {name: [] for name in recorder.wanted}
    with torch.no_grad(), one_thread():
        for case in inputs:
            recorder.run(*(x.clone() for x in case))
            for name, values in recorder.seen.items():
                pieces[name].append(values)
    return {name: torch.cat(values) for name, values in pieces.items()}


def choose(values: Tensor, scheme: Scheme) -> Affine:
    """The parameters with the least mean square error on ``values``.

    The full range is not always the best: a few outliers would cost all other values their resolution. Each end
    is tried in turn.
    """
    low, high = values.min().item(), values.max().item()
    high *= min(SHRINKS, key=lambda part: _error(values, affine(low, high * part, scheme)))
    low *= min(SHRINKS, key=lambda part: _error(values, affine(low * part, high, scheme)))
    return affine(low, high, scheme)


def _error(values: Tensor, numbers: Affine) -> float:
    return (round_to(values, numbers) - values).square().mean().item()


def round_to(values: Tensor, numbers: Affine) -> Tensor:
    """``values`` after a passage through int8."""
    stored = torch.clamp(torch.round(values / numbers.scale) + numbers.zero_point, numbers.lowest, numbers.highest)
    return (stored - numbers.zero_point) * numbers.scale
