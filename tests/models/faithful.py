"""What every reference architecture is asked: the published function, its checkpoints, and a graph that deploys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deploy_kit.capture import capture
from deploy_kit.fusion import Policy, fuse_graph
from deploy_kit.fusion.policy import folds
from deploy_kit.graph import Graph
from deploy_kit.models import create_model, get_architecture, load_checkpoint
from deploy_kit.statistics import count
from tests.golden.golden import Golden, sample

Layout = dict[str, tuple[tuple[int, ...], str]]
"""Shape and dtype of every entry of a checkpoint."""


def run(model: nn.Module, *inputs: Tensor) -> Any:
    """The model's outputs, without gradients."""
    with torch.no_grad():
        return model(*inputs)


def relative(found: Tensor, expected: Tensor) -> float:
    """The largest error, relative to the largest output."""
    return float((found - expected).abs().max() / expected.abs().max())


def golden_error(name: str) -> float:
    """The largest relative error over the golden vectors in float64, of a model with one output."""
    golden = Golden.load(name)
    model = create_model(name)
    load_checkpoint(model, golden.state_dict())
    model.double()
    return max(stored_error(run(model, *inputs), expected) for inputs, (expected,) in golden.cases())


def stored_error(output: Tensor, expected: Tensor) -> float:
    """The relative error in the part of an output that a golden vector has."""
    return relative(sample(output, expected.numel()).flatten(), expected.flatten())


def layout(model: nn.Module) -> Layout:
    """The layout of a model's checkpoints."""
    return {key: (tuple(v.shape), str(v.dtype).removeprefix("torch.")) for key, v in model.state_dict().items()}


def golden_layout(name: str, *, without: tuple[str, ...] = ()) -> Layout:
    """The layout of the official checkpoint; keys that end in one of ``without`` are left out."""
    entries = Golden.load(name).meta["layout"]
    return {key: (tuple(shape), dtype) for key, shape, dtype in entries if not key.endswith(without)}


def check_takes_official_values(name: str) -> None:
    """Every entry of the official checkpoint but the index tables is the model's own, with its type and every value."""
    tables = ("attention_bias_idxs",)
    official = Golden.load(name).state_dict()
    model = create_model(name)
    load_checkpoint(model, official)
    own, expected = model.state_dict(), golden_layout(name, without=tables)
    assert set(own) == set(expected)
    for key, (_, dtype) in expected.items():
        assert own[key].dtype == getattr(torch, dtype), key
        assert own[key].flatten().equal(official[key].flatten()), key


def parameters(name: str) -> int:
    """The number of parameters of a model."""
    return get_architecture(name).parameters


def graph_of(name: str, *, dynamic_batch: bool = False, **options: Any) -> Graph:
    """The captured graph of a model for images of its size."""
    model = create_model(name, **options)
    size = options.get("input_size", get_architecture(name).input_size)
    return capture(model, (torch.zeros(1, 3, *size),), dynamic_batch=dynamic_batch)


def check_graph(graph: Graph) -> None:
    """Tensors have four axes at most, and no shapes are computed."""
    assert count(graph).largest_rank == 4
    assert shape_arithmetic(graph) == []


def check_deploys(model: nn.Module, size: tuple[int, int]) -> None:
    """Folded, the graph has rank 4 at most, and neither shapes nor index tables in it, though its batch is free."""
    captured = capture(model, (torch.zeros(1, 3, *size),), dynamic_batch=True)
    graph, _ = fuse_graph(captured, Policy(folds("exact")))
    check_graph(graph)
    assert all(node.meta["val"].is_floating_point() for node in graph.nodes if node.op == "get_attr")


def shape_arithmetic(graph: Graph) -> list[str]:
    """The calls of a graph that compute something else than tensors, or tensors of integers."""
    found = []
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        value = node.meta["val"]
        values = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(v, torch.Tensor) and v.is_floating_point() for v in values):
            found.append(str(node.target))
    return found


def activations(model: nn.Module) -> Mapping[type[nn.Module], int]:
    """How many activations of each kind a model has."""
    kinds = (nn.ReLU, nn.ReLU6, nn.GELU, nn.Hardswish, nn.SiLU, nn.Hardsigmoid)
    found = [type(module) for module in model.modules() if isinstance(module, kinds)]
    return {kind: found.count(kind) for kind in kinds if kind in found}
