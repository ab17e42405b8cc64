"""The one IR: an ATen graph from ``torch.export``, with the few edits and questions that passes need.

torch.fx types a node's target and arguments as a union of everything they may be. `operand` and `argument`
narrow the arguments; a ``type: ignore`` beside a ``target``, here and in passes, is for that union.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import HigherOrderOperator, OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

aten = torch.ops.aten

VIEW_OPS = frozenset(
    {
        aten.view.default,
        aten.reshape.default,
        aten._unsafe_view.default,
        aten.flatten.using_ints,
        aten.unflatten.int,
        aten.permute.default,
        aten.transpose.int,
        aten.t.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.unsqueeze.default,
        aten.select.int,
        aten.slice.Tensor,
        aten.unbind.int,
        aten.split.Tensor,
        aten.split_with_sizes.default,
        aten.chunk.default,
        aten.expand.default,
        aten.contiguous.default,
        aten.clone.default,
    }
)
"""Operators whose outputs are elements of their first input, rearranged, left out or repeated."""

LAYOUT_OPS = VIEW_OPS - {aten.select.int, aten.slice.Tensor, aten.expand.default} | {
    aten.cat.default,
    aten.stack.default,
    aten.roll.default,
}
"""Operators that only move data about; they cost memory traffic, or a copy, on most runtimes."""


UNTAGGED = (aten.hardswish.default,)
"""Elementwise operators that PyTorch does not tag as such."""


@dataclass
class Graph:
    """A ``torch.fx.GraphModule`` of ATen operators with the example inputs it was captured with.

    Every node that makes a tensor carries ``meta["val"]``, a fake tensor with its shape and dtype;
    the edits below keep that true. Constants (parameters and buffers) are ``get_attr`` nodes.
    ``calibration`` holds inputs from the model's own domain, to measure the ranges of values on; it may be empty.
    """

    module: fx.GraphModule
    example_inputs: tuple[Tensor, ...]
    dynamic_batch: bool = False
    calibration: tuple[tuple[Tensor, ...], ...] = ()

    @property
    def nodes(self) -> fx.graph._node_list:
        """The nodes in order of execution; safe to edit while iterating."""
        return self.module.graph.nodes

    def copy(self) -> Graph:
        """A graph that can be rewritten without touching this one; constants are shared until replaced."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own, about how it copies an output's structure
            module = fx.GraphModule(self.module, copy.deepcopy(self.module.graph))
        return replace(self, module=module)

    def calls(self, *ops: OpOverload | HigherOrderOperator) -> Iterator[fx.Node]:
        """The nodes that call one of ``ops``, in order of execution."""
        return (node for node in list(self.nodes) if is_call(node, *ops))

    def constant(self, node: Any) -> Tensor | None:
        """The tensor that a ``get_attr`` node stands for; None for any other argument."""
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            return None
        value: Any = self.module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return value.detach() if isinstance(value, Tensor) else None

    def add_constant(self, value: Tensor, name: str, before: fx.Node) -> fx.Node:
        """A new constant, called after ``name``, whose node stands before ``before``."""
        name = name.replace(".", "_")
        taken = {str(node.target) for node in self.nodes if node.op == "get_attr"}
        unique, count = name, 1
        while unique in taken or hasattr(self.module, unique):
            unique, count = f"{name}_{count}", count + 1
        self.module.register_buffer(unique, value.detach().clone())
        with self.module.graph.inserting_before(before):
            node = self.module.graph.get_attr(unique)
        node.meta["val"] = self._fake_mode().from_tensor(value.detach(), static_shapes=True)
        return node

    def call(self, op: OpOverload, *args: Any, before: fx.Node, like: fx.Node | None = None, **kwargs: Any) -> fx.Node:
        """A new call of ``op`` before ``before``, recorded under the module that ``like`` came from."""
        with self.module.graph.inserting_before(before):
            node = self.module.graph.call_function(op, args, kwargs)
        source = like or before
        node.meta.update({key: source.meta[key] for key in ("nn_module_stack", "stack_trace") if key in source.meta})
        self.refresh(node)
        return node

    def refresh(self, node: fx.Node) -> None:
        """Recompute ``meta["val"]`` of a call whose arguments were edited."""
        fake_args, fake_kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
        with self._fake_mode():
            node.meta["val"] = node.target(*fake_args, **fake_kwargs)  # type: ignore[operator]

    def replace(self, old: fx.Node, new: fx.Node) -> None:
        """Let every user of ``old`` use ``new``, and drop ``old`` unless ``new`` itself reads it."""
        old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
        if not old.users:
            self.module.graph.erase_node(old)

    def clean(self) -> None:
        """Drop dead nodes and unused constants, check the graph and make it runnable again."""
        _drop_dead_calls(self.module.graph)
        self.module.delete_all_unused_submodules()
        used = {str(node.target) for node in self.nodes if node.op == "get_attr"}
        _drop_unused_tensors(self.module, used)
        self.module.graph.lint()
        self.module.recompile()

    def _fake_mode(self) -> FakeTensorMode:
        for node in self.nodes:
            if isinstance(node.meta.get("val"), FakeTensor):
                return node.meta["val"].fake_mode
        raise AssertionError("a captured graph has fake tensors")


def _drop_dead_calls(graph: fx.Graph) -> None:
    for node in reversed(list(graph.nodes)):
        if node.op in ("call_function", "get_attr") and not node.users:
            graph.erase_node(node)


def _drop_unused_tensors(module: fx.GraphModule, used: set[str]) -> None:
    for name, _ in [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]:
        if name not in used:
            owner, _, leaf = name.rpartition(".")
            delattr(module.get_submodule(owner), leaf)


def is_call(node: Any, *ops: OpOverload | HigherOrderOperator) -> bool:
    """Whether ``node`` is a call of one of ``ops``."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in ops


def is_view(node: Any) -> bool:
    """Whether ``node`` only rearranges or selects elements of its first input (see `VIEW_OPS`)."""
    return isinstance(node, fx.Node) and node.op == "call_function" and (node.target in VIEW_OPS or is_getitem(node))


def is_elementwise(op: Any) -> bool:
    """Whether an operator makes each element of its output from the elements at that place, and writes over none."""
    if not isinstance(op, OpOverload) or op._schema.is_mutable:
        return False
    return torch.Tag.pointwise in op.tags or op in UNTAGGED


def is_getitem(node: fx.Node) -> bool:
    """Whether ``node`` takes one of several outputs of a call."""
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem"


def operand(node: fx.Node, index: int = 0) -> fx.Node:
    """The node that a call takes as its argument at ``index``."""
    value = node.args[index]
    assert isinstance(value, fx.Node)
    return value


def only_user(node: fx.Node) -> fx.Node | None:
    """The single user of ``node``, which uses it once; None where there are more or none."""
    users = list(node.users)
    if len(users) != 1:
        return None
    operands: list[fx.Node] = []
    fx.node.map_arg((users[0].args, users[0].kwargs), operands.append)
    return users[0] if operands.count(node) == 1 else None


def argument(node: fx.Node, name: str) -> Any:
    """The value of a call's argument by its name in the operator's schema, or the schema's default."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    for index, parameter in enumerate(schema):
        if parameter.name == name:
            if index < len(node.args):
                return node.args[index]
            return node.kwargs.get(name, parameter.default_value)
    raise AssertionError(f"{node.target} has no argument called {name}")


def set_argument(node: fx.Node, name: str, value: Any) -> None:
    """Set a call's argument by its name in the operator's schema."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    index = [parameter.name for parameter in schema].index(name)
    if schema[index].kwarg_only:
        node.kwargs = {**node.kwargs, name: value}
        return
    args = list(node.args)
    while len(args) <= index:
        parameter = schema[len(args)]
        args.append(node.kwargs.get(parameter.name, parameter.default_value))
    args[index] = value
    node.args = tuple(args)
    node.kwargs = {key: kept for key, kept in node.kwargs.items() if key not in {p.name for p in schema[: len(args)]}}


def shape(node: fx.Node) -> tuple[Any, ...]:
    """The shape of the tensor that a node makes; a dynamic size is a ``torch.SymInt``."""
    return tuple(node.meta["val"].shape)


def rank(node: fx.Node) -> int:
    """The number of dimensions of the tensor that a node makes."""
    return node.meta["val"].dim()


def module_path(node: fx.Node) -> str:
    """The path in the original model of the module that made this call, such as ``blocks1.0.attn.qkv``.

    Empty where the call was made by the model itself.
    """
    stack = node.meta.get("nn_module_stack")
    return list(stack.values())[-1][0] if stack else ""


def source_line(node: fx.Node) -> str:
    """The innermost line of the model's source that made this call, or an empty string."""
    lines = (node.meta.get("stack_trace") or "").strip().splitlines()
    files = [i for i, line in enumerate(lines) if line.strip().startswith("File ")]
    outside = [i for i in files if "/torch/" not in lines[i]]
    chosen = (outside or files)[-1:]
    return " ".join(line.strip() for i in chosen for line in lines[i : i + 2])
