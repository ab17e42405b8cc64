"""What tests of LeViT and its descendants ask beside `tests.models.faithful`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from deploy_kit.capture import capture
from deploy_kit.fusion import Policy, fuse_graph
from deploy_kit.fusion.policy import folds
from deploy_kit.models import create_model, load_checkpoint
from deploy_kit.statistics import count
from tests.golden.golden import Golden
from tests.models.faithful import shape_arithmetic


def run(model: nn.Module, *inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return model(*inputs)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def check_official_layout(name: str) -> None:
    """Every key of the official layout but the index tables is the model's own, with its type and every value."""
    golden = Golden.load(name)
    official = {key: value for key, value in golden.state_dict().items() if not key.endswith("attention_bias_idxs")}
    model = create_model(name)
    load_checkpoint(model, golden.state_dict())
    own = model.state_dict()
    assert set(own) == set(official)
    for key, _, dtype in golden.meta["layout"]:
        if key in own:
            assert own[key].dtype == getattr(torch, dtype), key
            assert own[key].flatten().equal(official[key].flatten()), key


def check_deploys(model: nn.Module, size: tuple[int, int]) -> None:
    """Folded, the graph has rank 4 at most, and neither shapes nor index tables in it, though its batch is free."""
    captured = capture(model, (torch.zeros(1, 3, *size),), dynamic_batch=True)
    graph, _ = fuse_graph(captured, Policy(folds("exact")))
    assert count(graph).largest_rank == 4
    assert not shape_arithmetic(graph)
    assert all(node.meta["val"].is_floating_point() for node in graph.nodes if node.op == "get_attr")


def activations(model: nn.Module) -> Mapping[type[nn.Module], int]:
    """How many activations of each kind a model has."""
    kinds = (nn.ReLU, nn.GELU, nn.Hardswish, nn.SiLU)
    found = [type(module) for module in model.modules() if isinstance(module, kinds)]
    return {kind: found.count(kind) for kind in kinds if kind in found}
