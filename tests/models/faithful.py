"""What every reference architecture is asked: the published function, its checkpoints, and a graph that deploys."""

from __future__ import annotations

import torch
from torch import nn

from deploy_kit.capture import capture
from deploy_kit.graph import Graph
from deploy_kit.models import create_model, get_architecture, load_checkpoint
from deploy_kit.statistics import count
from tests.golden.golden import Golden, sample


def golden_error(name: str) -> float:
    """The largest error over the golden vectors in float64, relative to the largest output."""
    golden = Golden.load(name)
    model = create_model(name)
    load_checkpoint(model, golden.state_dict())
    model.double()
    errors = []
    for inputs, (expected,) in golden.cases():
        with torch.no_grad():
            output = model(*inputs)
        output = output if output.shape == expected.shape else sample(output)
        errors.append(((output - expected).abs().max() / expected.abs().max()).item())
    return max(errors)


def layout(model: nn.Module) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of every entry of a model's checkpoints."""
    return {key: (tuple(v.shape), str(v.dtype).removeprefix("torch.")) for key, v in model.state_dict().items()}


def golden_layout(name: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of every entry of the official checkpoint."""
    return {key: (tuple(shape), dtype) for key, shape, dtype in Golden.load(name).meta["layout"]}


def without_values(name: str) -> nn.Module:
    """The model with shapes alone, which takes no memory."""
    architecture = get_architecture(name)
    with torch.device("meta"):
        options = {"num_classes": architecture.num_classes, "activation": architecture.activation}
        return architecture.build_for(architecture.input_size, **options).eval()


def parameters(name: str) -> int:
    """The number of parameters of a model."""
    return sum(parameter.numel() for parameter in without_values(name).parameters())


def macs(name: str) -> int:
    """Multiply-accumulates of one image of the default size, counted on the graph."""
    images = torch.zeros(1, 3, *get_architecture(name).input_size, device="meta")
    counted = count(capture(without_values(name), (images,))).macs
    assert counted is not None
    return counted


def graph_of(name: str, *, dynamic_batch: bool = False, **options: object) -> Graph:
    """The captured graph of a model for images of its size."""
    model = create_model(name, **options)  # type: ignore[arg-type]
    size = options.get("input_size", get_architecture(name).input_size)
    return capture(model, (torch.zeros(1, 3, *size),), dynamic_batch=dynamic_batch)  # type: ignore[misc]


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
