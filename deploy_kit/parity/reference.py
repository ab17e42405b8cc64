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
        ExportError: the model does not run in float64, returns something else than finite tensors, or
            something else each time.
    """
    single, double = copy.deepcopy(model).eval(), in_float64(model)
    references = []
    for case in cases:
        eager = _run(single, case.inputs, "the model does not run", "mend its forward()")
        exact = _run(
            double,
            widen_inputs(case.inputs),
            "the model does not run in float64, so nothing can be proven",
            "make tensors in forward() with the dtype of an input (x.new_zeros, dtype=x.dtype)",
        )
        if not all(torch.isfinite(output).all() for output in exact):
            raise ExportError(
                f"the model returns values that are not finite for {case.name}, so nothing can be proven",
                fix="check its weights",
            )
        references.append(Reference(exact, eager))
    _refuse_randomness(single, cases[0], references[0])
    return references


def _refuse_randomness(model: nn.Module, case: Case, reference: Reference) -> None:
    again = run_module(model, case.inputs)
    if any(not torch.equal(first, second) for first, second in zip(reference.eager, again)):
        raise ExportError(
            "the model returns something else each time it is run, so nothing can be proven",
            fix="take the randomness out of its forward(), such as dropout that stays on in evaluation mode",
        )


def _run(module: nn.Module, inputs: tuple[Tensor, ...], problem: str, fix: str) -> list[Tensor]:
    try:
        return run_module(module, inputs)
    except ExportError:
        raise
    except Exception as error:  # whatever somebody's forward() raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(f"{problem}: {reason}", fix=fix) from error


def widen_inputs(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The inputs in float64; integers, which are pixels or indices, stay as they are."""
    return tuple(x.double() if x.is_floating_point() else x for x in inputs)


def in_float64(model: nn.Module) -> nn.Module:
    """A copy of ``model`` whose parameters, buffers and casts to float32 are float64."""
    double = copy.deepcopy(model).eval().double()
    for module in double.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.args = pytree.tree_map(_widen, node.args)
                node.kwargs = pytree.tree_map(_widen, node.kwargs)
            module.recompile()
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
    """The tensors that a module returns, in order, whatever structure they come in; ``inputs`` stay as they are."""
    with torch.no_grad(), one_thread():
        leaves = pytree.tree_leaves(module(*(x.clone() for x in inputs)))
    if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise ExportError(
            "the model's outputs are not all tensors", fix="return a tensor, or a tuple or dict of tensors"
        )
    return leaves
