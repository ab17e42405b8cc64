"""Stating an ONNX model in another version of the operator set than the one it was converted to.

torch converts to the opsets of `CONVERTED`. A newer one only gets its number: the operators that are here are the same
in it. For an older one each operator is stated in the form that it had then, or in operators that were there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from onnxscript import ir

from deploy_kit.errors import ExportError
from deploy_kit.exporters.onnx_file import OLDEST_OPSET

CONVERTED = range(18, 26)
"""The opsets that torch's exporter and onnxscript's converter write by themselves."""

Stated = tuple[list[ir.Node], list[ir.Value]]
"""What stands for a node: nodes, in order, and the values that stand for its outputs."""


def nearest(opset: int) -> int:
    """The opset to convert to before stating the model in ``opset``."""
    return min(max(opset, CONVERTED.start), CONVERTED.stop - 1)


def restate(model: ir.Model, opset: int) -> None:
    """State a model in ``opset``, in place; raises `ExportError` naming an operator that has no form in it."""
    source = model.graph.opset_imports[""]
    if opset == source:
        return
    for node in list(model.graph):
        if node.domain == "" and not _fits(node, source, opset):
            _replace(model.graph, node, source, opset)
    for node in model.graph:
        node.version = opset
        for name in _to_drop(node, source, opset):
            del node.attributes[name]
    model.graph.opset_imports[""] = model.opset_imports[""] = opset
    if opset < source:
        model.ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])


def _replace(graph: ir.Graph, node: ir.Node, source: int, opset: int) -> None:
    stated = _statement(node, source, opset)
    if stated is None:
        raise ExportError(
            f"the operator {node.op_type} has no form in ONNX's opset {opset}, only from {_least(node, source)} on",
            fix=f"choose an --opset of at least {_least(node, source)}",
        )
    ir.convenience.replace_nodes_and_values(graph, node, [node], stated[0], node.outputs, stated[1])


def _statement(node: ir.Node, source: int, opset: int) -> Stated | None:
    """What stands for a node in an opset where it does not fit; None where nothing does."""
    stated = STATEMENTS[node.op_type](node) if node.op_type in STATEMENTS else None
    return stated if stated is not None and all(_fits(new, source, opset) for new in stated[0]) else None


def _least(node: ir.Node, source: int) -> int:
    """The oldest opset that has a node or what stands for it."""
    opsets = range(OLDEST_OPSET, source)
    return next((o for o in opsets if _fits(node, source, o) or _statement(node, source, o) is not None), source)


def _schema(op_type: str, opset: int) -> Any:
    """What an opset says of an operator; None where it does not have it."""
    try:
        return onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None


def _fits(node: ir.Node, source: int, opset: int) -> bool:
    """Whether a node means the same in ``opset`` as in ``source``, once what `_to_drop` names is gone."""
    schema, newer = _schema(node.op_type, opset), _schema(node.op_type, source)
    if schema is None or newer is None or schema.since_version == newer.since_version:
        return schema is not None
    if opset > source:  # whatever changed may have changed its meaning
        return False
    dropped = _to_drop(node, source, opset)
    return (
        all(name in schema.attributes for name in node.attributes if name not in dropped)
        and len(node.inputs) <= schema.max_input
        and len(node.outputs) <= schema.max_output
        and all(_takes(schema, index, value) for index, value in enumerate(node.inputs))
    )


def _to_drop(node: ir.Node, source: int, opset: int) -> list[str]:
    """Attributes that ``opset`` does not know and that say nothing: they have the value that they have by default."""
    schema, newer = _schema(node.op_type, opset), _schema(node.op_type, source)
    if node.domain != "" or schema is None or newer is None:
        return []
    return [
        name
        for name, attribute in node.attributes.items()
        if name not in schema.attributes
        and (ir.serde.deserialize_attribute(newer.attributes[name].default_value).value == attribute.value)
    ]


def _takes(schema: Any, index: int, value: ir.Value | None) -> bool:
    """Whether an operator takes a value's type as its input ``index``."""
    if value is None or value.dtype is None:
        return True
    formal = schema.inputs[min(index, len(schema.inputs) - 1)]
    return f"tensor({value.dtype.name.lower()})" in formal.types


class _Nodes:
    """Nodes in the making, each call adds one and gives its output."""

    def __init__(self) -> None:
        self.made: list[ir.Node] = []

    def __call__(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        node = ir.node(op_type, inputs, attributes)
        self.made.append(node)
        return node.outputs[0]

    def constant(self, values: Any) -> ir.Value:
        return self("Constant", value=ir.tensor(values))


def _constant(value: ir.Value | None) -> np.ndarray | None:
    """A value that is known, or None."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def _attribute(node: ir.Node, name: str, default: Any) -> Any:
    return node.attributes[name].value if name in node.attributes else default


def _hard_swish(node: ir.Node) -> Stated:
    """``x * HardSigmoid(x)``, which is its definition."""
    make = _Nodes()
    (x,) = node.inputs
    return make.made, [make("Mul", x, make("HardSigmoid", x, alpha=1 / 6, beta=0.5))]


def _layer_norm(node: ir.Node) -> Stated | None:
    """``(x - mean) / sqrt(variance + epsilon) * scale + bias``, normalized in float32 as the operator does."""
    make = _Nodes()
    x, scale, bias = (*node.inputs, None)[:3]
    assert x is not None
    if x.shape is None or x.dtype is None or len(node.outputs) > 1:
        return None
    axis = _attribute(node, "axis", -1)
    axes = list(range(axis if axis < 0 else axis - len(x.shape), 0))
    narrow = x.dtype != ir.DataType.FLOAT
    wide = make("Cast", x, to=int(ir.DataType.FLOAT)) if narrow else x
    centred = make("Sub", wide, make("ReduceMean", wide, axes=axes, keepdims=1))
    squares = make("Pow", centred, make.constant(np.float32(2)))  # a form that onnxruntime knows, and fuses
    variance = make("ReduceMean", squares, axes=axes, keepdims=1)
    epsilon = make.constant(np.float32(_attribute(node, "epsilon", 1e-5)))
    result = make("Div", centred, make("Sqrt", make("Add", variance, epsilon)))
    result = make("Cast", result, to=int(x.dtype)) if narrow else result
    result = make("Mul", result, scale)
    return make.made, [result if bias is None else make("Add", result, bias)]


def _reduce(node: ir.Node) -> Stated | None:
    """With its axes as an attribute."""
    make = _Nodes()
    axes = _constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None or axes.size == 0:
        return None
    keep = _attribute(node, "keepdims", 1)
    return make.made, [make(node.op_type, node.inputs[0], axes=axes.tolist(), keepdims=keep)]


def _reshape(node: ir.Node) -> Stated | None:
    """Without ``allowzero``, which matters only where an axis is empty."""
    make = _Nodes()
    shape = _constant(node.inputs[1])
    if shape is not None and 0 in shape:
        return None
    return make.made, [make("Reshape", *node.inputs)]


def _shape(node: ir.Node) -> Stated:
    """A slice of the whole shape."""
    make = _Nodes()
    start, end = _attribute(node, "start", 0), _attribute(node, "end", np.iinfo(np.int64).max)
    whole = make("Shape", node.inputs[0])
    return make.made, [make("Slice", whole, make.constant(np.array([start])), make.constant(np.array([end])))]


def _split(node: ir.Node) -> Stated | None:
    """With its sizes as an input: equal ones, the last one less where they do not divide the axis."""
    x, axis, parts = node.inputs[0], _attribute(node, "axis", 0), len(node.outputs)
    length = None if x is None or x.shape is None else x.shape[axis]
    if not isinstance(length, int):
        return None
    size = -(-length // parts)
    sizes = ir.node(
        "Constant", [], {"value": ir.tensor(np.array([size] * (parts - 1) + [length - size * (parts - 1)]))}
    )
    split = ir.node("Split", [x, sizes.outputs[0]], {"axis": axis}, num_outputs=parts)
    return [sizes, split], list(split.outputs)


def _reductions() -> Iterator[str]:
    yield from ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin")
    yield from ("ReduceProd", "ReduceSumSquare")


STATEMENTS: dict[str, Callable[[ir.Node], Stated | None]] = {
    "HardSwish": _hard_swish,
    "LayerNormalization": _layer_norm,
    "Reshape": _reshape,
    "Shape": _shape,
    "Split": _split,
    **dict.fromkeys(_reductions(), _reduce),
}
"""How to state an operator in older ones; None where that node of it cannot be."""
