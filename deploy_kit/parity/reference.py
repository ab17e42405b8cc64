"""What the original model computes, in float64, and how far its own float32 is from that."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from deploy_kit.errors import ExportError
from deploy_kit.parity.inputs import Case


@dataclass(frozen=True)
class Reference:
    """For one case: the outputs in float64, and those of eager float32."""

    exact: list[Tensor]
    eager: list[Tensor]


def compute_references(model: nn.Module, cases: Sequence[Case]) -> list[Reference]:
    """Run the original model on every case, in float64 and in float32.

    Args:
        model: the module as it was given, before capture and fusion; it is not changed.

    Raises:
        ExportError: the model does not run in float64, or returns something else than tensors.
    """
    single = copy.deepcopy(model).eval()
    double = in_float64(model)
    references = []
    for case in cases:
        try:
            exact = run_module(double, tuple(x.double() for x in case.inputs))
        except RuntimeError as error:
            raise ExportError(
                f"the model does not run in float64, so nothing can be proven: {error}",
                fix="make tensors in forward() with the dtype of an input (x.new_zeros, dtype=x.dtype)",
            ) from error
        references.append(Reference(exact, run_module(single, case.inputs)))
    return references


def in_float64(model: nn.Module) -> nn.Module:
    """A copy of ``model`` whose parameters, buffers and casts to float32 are float64."""
    double = copy.deepcopy(model).eval().double()
    if isinstance(double, torch.fx.GraphModule):
        for node in double.graph.nodes:
            node.args = pytree.tree_map(_widen, node.args)
            node.kwargs = pytree.tree_map(_widen, node.kwargs)
        double.recompile()
    return double


def _widen(value: object) -> object:
    return torch.float64 if value is torch.float32 else value


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread within the body: on a busy machine, more spend their time waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_module(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The tensors that a module returns, in order, whatever structure they come in."""
    with torch.no_grad(), one_thread():
        leaves = pytree.tree_leaves(module(*inputs))
    if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise ExportError(
            "the model's outputs are not all tensors", fix="return a tensor, or a tuple or dict of tensors"
        )
    return leaves
