"""Graphs with calibration inputs, and how far two graphs are apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from deploy_kit.capture import capture
from deploy_kit.graph import Graph
from deploy_kit.parity.reference import run_module
from deploy_kit.precision.sensitivity import snr_db


def captured(model: nn.Module, *shape: int, samples: int = 4, scale: float = 1.0) -> Graph:
    """The graph of a model of one input, to be calibrated on noise."""
    generator = torch.Generator().manual_seed(7)
    inputs = tuple((torch.randn(shape, generator=generator) * scale,) for _ in range(samples))
    return replace(capture(model.eval(), inputs[0]), calibration=inputs)


def agreement_db(graph: Graph, other: Graph) -> float:
    """How much of a graph's outputs is left in another's, on the calibration inputs."""
    expected = [run_module(graph.module, case) for case in graph.calibration]
    return snr_db(other, expected, graph.calibration)


def outputs(graph: Graph, *inputs: Tensor) -> Any:
    with torch.no_grad():
        return graph.module(*inputs)


def named(graph: Graph, name: str) -> fx.Node:
    return next(node for node in graph.nodes if node.name == name)
