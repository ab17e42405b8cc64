"""From a model to the graph: ``torch.export``, made functional, with nothing else changed."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.export import Dim, ExportedProgram

from deploy_kit.errors import ExportError
from deploy_kit.graph import Graph, argument, aten, is_getitem


def capture(model: nn.Module, example_inputs: tuple[Tensor, ...], *, dynamic_batch: bool = False) -> Graph:
    """Capture ``model`` in evaluation mode as a graph of ATen operators.

    Args:
        model: any module that ``torch.export`` accepts; it is not changed.
        example_inputs: tensors of the shapes and dtypes that it will be given.
        dynamic_batch: leave the first dimension of every input open.

    Raises:
        ExportError: the model cannot be captured, with the reason and the source line.
    """
    model = copy.deepcopy(model).eval()
    shapes = None
    if dynamic_batch:  # torch.export treats a size of 1 as fixed
        example_inputs = tuple(torch.cat([x, x]) if x.shape[0] == 1 else x for x in example_inputs)
        batch = Dim("batch", min=1)
        shapes = tuple({0: batch} for _ in example_inputs)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(model, example_inputs, dynamic_shapes=shapes)
    except Exception as error:  # torch.export raises many types for a model that it cannot follow
        raise ExportError(
            f"the model cannot be captured: {_reason(error)}",
            fix="torch.export must be able to follow forward(); replace data-dependent Python control flow "
            "with tensor operators, or pass a .pt2 that was exported already",
        ) from error
    return from_program(program, example_inputs, dynamic_batch=dynamic_batch)


def from_program(program: ExportedProgram, example_inputs: tuple[Tensor, ...], *, dynamic_batch: bool = False) -> Graph:
    """The graph of a program that was exported already."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if any(_mutates(node) for node in program.graph.nodes):
            program = program.run_decompositions({})
        module = program.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    graph = Graph(module, example_inputs, dynamic_batch)
    _name_constants(graph)
    _restore_batch_norm(graph)
    _drop_no_ops(graph)
    graph.clean()
    return graph


def _mutates(node: fx.Node) -> bool:
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines() or [type(error).__name__]
    location = next((line.strip() for line in text if line.strip().startswith("File ") and "/torch/" not in line), "")
    return f"{text[0]} {location}".strip()


def _name_constants(graph: Graph) -> None:
    """Give every constant's node the fake value that edits rely on."""
    mode = graph._fake_mode()
    for node in graph.nodes:
        value = graph.constant(node)
        if value is not None and "val" not in node.meta:
            node.meta["val"] = mode.from_tensor(value, static_shapes=True)


def _restore_batch_norm(graph: Graph) -> None:
    """Write functionalised inference BatchNorm as ``aten.batch_norm`` again, so that passes know one form."""
    for node in graph.calls(aten._native_batch_norm_legit_no_training.default):
        x, weight, bias, mean, variance, momentum, eps = node.args
        norm = graph.call(
            aten.batch_norm.default,
            *(x, weight, bias, mean, variance, False, momentum, eps, False),
            before=node,
        )
        for user in list(node.users):
            if is_getitem(user) and user.args[1] == 0:
                graph.replace(user, norm)


_NO_OPS = (aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default, aten.dropout.default)


def _drop_no_ops(graph: Graph) -> None:
    for node in graph.calls(*_NO_OPS):
        if node.target is aten.dropout.default and argument(node, "train"):
            continue
        graph.replace(node, node.args[0])
    for node in list(graph.nodes):
        if str(node.target).startswith("aten._assert_tensor_metadata") or node.target == "_guards_fn":
            graph.module.graph.erase_node(node)
