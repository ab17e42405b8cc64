"""From a model to the graph: ``torch.export``, made functional, with nothing else changed."""

from __future__ import annotations

import copy
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.export import Dim, ExportedProgram, ShapesCollection

from deploy_kit.errors import ExportError
from deploy_kit.graph import Graph, argument, aten, is_getitem, operand, set_argument, shape, source_line


def capture(model: nn.Module, example_inputs: tuple[Tensor, ...], *, dynamic_batch: bool = False) -> Graph:
    """Capture ``model`` in evaluation mode as a graph of ATen operators.

    Args:
        model: any module that ``torch.export`` accepts; it is not changed.
        example_inputs: tensors of the shapes and dtypes that it will be given.
        dynamic_batch: leave the first dimension of every input open.

    Raises:
        ExportError: the model cannot be captured, with the reason and the source line.
    """
    shapes = ShapesCollection() if dynamic_batch else None
    if dynamic_batch:  # torch.export treats a size of 1 as fixed
        example_inputs = tuple(torch.cat([x, x]) if x.shape[0] == 1 else x for x in example_inputs)
    inputs = tuple(x.clone() for x in example_inputs)  # torch.export takes one tensor given twice for one input
    if shapes is not None:
        batch = Dim("batch", min=1)
        for x in inputs:
            shapes[x] = {0: batch}
    try:
        model = copy.deepcopy(model).eval()
        model.register_forward_pre_hook(_spare_the_inputs)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(model, inputs, dynamic_shapes=shapes)  # type: ignore[arg-type]  # torch's type is narrower
    except Exception as error:  # torch.export raises many types for a model that it cannot follow
        raise ExportError(
            f"the model cannot be captured: {_reason(error)}",
            fix="torch.export must be able to follow forward(); replace data-dependent Python control flow "
            "with tensor operators, or pass a .pt2 that was exported already",
        ) from error
    return from_program(program, example_inputs, dynamic_batch=dynamic_batch)


def from_program(program: ExportedProgram, example_inputs: tuple[Tensor, ...], *, dynamic_batch: bool = False) -> Graph:
    """The graph of a program that was exported already.

    Raises:
        ExportError: the program changes one of its buffers while it runs.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if any(_mutates(node) for node in _nodes_of_all_regions(program)):
            program = program.run_decompositions({})
        module = program.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    graph = Graph(module, example_inputs, dynamic_batch)
    _inline_regions(graph)
    _refuse_state(graph)
    _name_constants(graph)
    _restore_batch_norm(graph)
    _number_padding(graph)
    _forget_strides(graph)
    _number_shapes(graph)
    _drop_no_ops(graph)
    graph.clean()
    return graph


def _spare_the_inputs(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Let in-place operators at the start of a model write to copies, which are dropped from the graph."""
    return tuple(x.clone() if isinstance(x, Tensor) else x for x in inputs)


def _nodes_of_all_regions(program: ExportedProgram) -> Iterator[fx.Node]:
    for module in program.graph_module.modules():
        if isinstance(module, fx.GraphModule):
            yield from module.graph.nodes


def _mutates(node: fx.Node) -> bool:
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def _reason(error: Exception) -> str:
    """The first line of what went wrong, and the innermost line of the model's own source on the way there."""
    text = str(error).strip().splitlines() or [type(error).__name__]
    libraries = (str(Path(torch.__file__).parent), __file__, "<")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(libraries)]
    location = f' (File "{frames[-1].filename}", line {frames[-1].lineno}: {frames[-1].line})' if frames else ""
    return f"{text[0]}{location}"


_NO_GRAD, _AUTOCAST = torch.ops.higher_order.wrap_with_set_grad_enabled, torch.ops.higher_order.wrap_with_autocast


def _inline_regions(graph: Graph) -> None:
    """Write the body of each ``no_grad`` or disabled ``autocast`` block where it stands: neither changes a value."""
    for node in graph.calls(_NO_GRAD, _AUTOCAST):
        if node.target is _AUTOCAST and node.args[2]:
            continue
        at = 1 if node.target is _NO_GRAD else 4
        region = graph.module.get_submodule(str(operand(node, at).target))
        assert isinstance(region, fx.GraphModule)
        body = region.graph
        inputs = dict(zip(body.find_nodes(op="placeholder"), node.args[at + 1 :]))
        with graph.module.graph.inserting_before(node):
            outputs: Any = graph.module.graph.graph_copy(body, inputs)
        for user in list(node.users):
            graph.replace(user, outputs[user.args[1]])


def _refuse_state(graph: Graph) -> None:
    for node in graph.nodes:
        if _mutates(node):
            state, value = operand(node, 0), operand(node, 1)
            raise ExportError(
                f"the model changes {str(state.target)!r} while it runs: {source_line(value)}",
                fix="export the model in evaluation mode, or give the state as an input and return it as an output",
            )


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


_NAMED_PADDING = {
    aten.conv1d.padding: aten.conv1d.default,
    aten.conv2d.padding: aten.conv2d.default,
    aten.conv3d.padding: aten.conv3d.default,
}


def _number_padding(graph: Graph) -> None:
    """Write ``padding="same"`` and ``"valid"`` as numbers; an odd one adds its last row by itself."""
    for node in graph.calls(*_NAMED_PADDING):
        kernel, dilation = shape(argument(node, "weight"))[2:], argument(node, "dilation")
        dilation = list(dilation) * len(kernel) if len(dilation) == 1 else dilation
        same = argument(node, "padding") == "same"
        total = [step * (side - 1) if same else 0 for side, step in zip(kernel, dilation)]
        if any(amount % 2 for amount in total):
            uneven = [side for amount in reversed(total) for side in (0, amount % 2)]
            padded = graph.call(aten.constant_pad_nd.default, node.args[0], uneven, before=node)
            node.args = (padded, *node.args[1:])
        set_argument(node, "padding", [amount // 2 for amount in total])
        node.target = _NAMED_PADDING[node.target]  # type: ignore[index]


def _forget_strides(graph: Graph) -> None:
    """Let no operator depend on how its input lies in memory: a rewrite may change that."""
    for node in graph.calls(aten.view.default, aten._unsafe_view.default):
        node.target = aten.reshape.default


_LIKE_ANOTHER = {
    aten.reshape_as.default: aten.reshape.default,
    aten.view_as.default: aten.reshape.default,
    aten.expand_as.default: aten.expand.default,
}


def _number_shapes(graph: Graph) -> None:
    """Write the shape of another tensor as the numbers that it is, so that the other has one use less.

    One size may be free in a reshape, and is then written as -1: the others tell what it is.
    """
    for node in graph.calls(*_LIKE_ANOTHER):
        plain = _LIKE_ANOTHER[node.target]  # type: ignore[index]
        sizes = [size if isinstance(size, int) else -1 for size in shape(operand(node, 1))]
        if -1 not in sizes or (plain is aten.reshape.default and sizes.count(-1) == 1 and 0 not in sizes):
            graph.replace(node, graph.call(plain, operand(node), sizes, before=node))


_DROPOUTS = (
    aten.dropout.default,
    aten.alpha_dropout.default,
    aten.feature_dropout.default,
    aten.feature_alpha_dropout.default,
)
_EVERYTHING = tuple((start, end, 1) for start in (None, 0) for end in (None, 2**63 - 1))
_NO_OPS = (aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default, aten.clone.default)


def _drop_no_ops(graph: Graph) -> None:
    for node in graph.calls(*_NO_OPS, *_DROPOUTS):
        if node.target in _DROPOUTS and argument(node, "train"):
            continue
        graph.replace(node, operand(node))
    for node in graph.calls(aten.slice.Tensor):
        if tuple(argument(node, name) for name in ("start", "end", "step")) in _EVERYTHING:
            graph.replace(node, operand(node))
    for node in list(graph.nodes):
        if str(node.target).startswith("aten._assert_tensor_metadata") or node.target == "_guards_fn":
            graph.module.graph.erase_node(node)
