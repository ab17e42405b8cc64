"""What every test of a pass asks: did it rewrite, where, and does the graph still compute the same?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload

from deploy_kit.capture import capture
from deploy_kit.fusion import PASSES, Rewrite
from deploy_kit.graph import Graph
from deploy_kit.models.layers import randomize_


class Net(nn.Module):
    """A module made of a function ``forward(net, *inputs)`` and the modules and parameters that it uses."""

    def __init__(self, function: Callable[..., Any], **members: nn.Module | Tensor):
        super().__init__()
        self.function = function
        for name, member in members.items():
            setattr(self, name, nn.Parameter(member) if isinstance(member, Tensor) else member)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


class Shapes(fx.Interpreter):
    """Runs a graph and compares each tensor with the fake one that passes rely on."""

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            fake = n.meta["val"]
            assert [size for size in fake.shape if isinstance(size, int)] == [
                real for size, real in zip(fake.shape, value.shape) if isinstance(size, int)
            ], n
            assert fake.dtype == value.dtype, n
        return value


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def relative_error(actual: Any, expected: Any) -> float:
    if isinstance(expected, tuple | list):
        return max(relative_error(a, e) for a, e in zip(actual, expected, strict=True))
    assert actual.shape == expected.shape
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@torch.no_grad()
def apply(
    name: str,
    model: nn.Module,
    *inputs: Tensor,
    dynamic_batch: bool = False,
    edit: Callable[[Graph], None] = lambda graph: None,
) -> tuple[Graph, list[Rewrite]]:
    """Run a pass on a random model, require that its output stays, and return the graph and the rewrites."""
    randomize_(model, seed=0)
    graph = capture(model.double().eval(), inputs, dynamic_batch=dynamic_batch)
    edit(graph)
    graph.module.recompile()
    expected = graph.copy().module(*inputs)
    before = str(graph.module.graph)
    rewrites = PASSES[name].run(graph)
    actual = Shapes(graph.module).run(*inputs)
    error = relative_error(actual, expected if isinstance(actual, Tensor) else tuple(expected))
    assert error <= 1e-12, f"{name} changed the output by {error:.1e}"
    assert relative_error(graph.module(*inputs), expected) <= 1e-12
    if not rewrites:
        assert str(graph.module.graph) == before
    return graph, rewrites


def assert_rewrites(
    name: str, model: nn.Module, *inputs: Tensor, at: list[str], gone: tuple[OpOverload, ...] = (), **options: Any
) -> Graph:
    """Require that a pass rewrites at these module paths, leaves none of the ops ``gone``, and is exact."""
    graph, rewrites = apply(name, model, *inputs, **options)
    assert [rewrite.module for rewrite in rewrites] == at
    assert {rewrite.pass_name for rewrite in rewrites} == {name}
    assert not list(graph.calls(*gone))
    return graph


def assert_keeps(name: str, model: nn.Module, *inputs: Tensor, **options: Any) -> None:
    """Require that a pass leaves a model alone."""
    _, rewrites = apply(name, model, *inputs, **options)
    assert rewrites == []
