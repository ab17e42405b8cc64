"""Which calls of the fused graph an operator of a runtime computes: its modules, multiply-accumulates and weights."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from deploy_kit.graph import Graph, is_getitem, module_path, operand
from deploy_kit.precision.int8 import DEQUANTIZE, QUANTIZE
from deploy_kit.profile.bytecode import INPUT, Code
from deploy_kit.profile.kinds import Kind, classify
from deploy_kit.statistics import UNCOUNTED, macs_of, operator_name, size_of

REACH = 4
"""How many calls are looked back from one that an operator is named after, for the one that it computes."""

SUFFIXES = ("_nchwc", "/WithoutBiases")
"""What runtimes append to the name of a node that they rewrite; also anything after ``/`` or ``_token_``."""

CASTS = "InsertedPrecisionFreeCast_"
"""How the names begin of what onnxruntime computes in float32 for lack of fp16."""

CLAMPS = ("relu", "relu6", "hardtanh", "clamp")
CLAMPING = ("_clamp_run", "_relu")
"""Operators that become part of the one before, and how the names of those end that have such a part."""

QUANTIZING = ("aten::quantize_per_tensor", "aten::dequantize")


@dataclass(frozen=True)
class Work:
    """One call of the fused graph: its ATen operator, where it is from and what it costs.

    ``macs`` are None where they are not counted; ``bytes`` are those of inputs, weights (``parameter_bytes``) and
    output, each once.
    """

    name: str
    operator: str
    module: str
    kind: Kind
    macs: int | None
    bytes: int
    parameter_bytes: int


def works(graph: Graph) -> dict[str, Work]:
    """The calls of a graph by name, in order."""
    calls = [node for node in graph.nodes if node.op == "call_function" and not is_getitem(node)]
    return {node.name: _work(graph, node) for node in calls}


def _work(graph: Graph, node: fx.Node) -> Work:
    parameters = sum(_bytes(given) for given in node.all_input_nodes if graph.constant(given) is not None)
    return Work(
        name=node.name,
        operator=operator_name(node),
        module=module_path(node),
        kind=classify("aten", str(node.target)),
        macs=None if node.target in UNCOUNTED else macs_of(node),
        bytes=sum(_bytes(value) for value in (node, *node.all_input_nodes)),
        parameter_bytes=parameters,
    )


def _bytes(node: fx.Node) -> int:
    values = [value for value in tree_leaves(node.meta.get("val")) if isinstance(value, Tensor)]
    return sum(size_of(tuple(value.shape)) * value.element_size() for value in values)


def by_dataflow(code: Code, graph: Graph) -> list[Work | None]:
    """The call of ``graph`` that each call of a file made of it computes; None where that is not certain.

    From the results backwards, a call is what the graph's is whose result is used in the same place, if both are of one
    operator. Their order does not tell: what is prepacked is moved up, and of several with one input the last is first.
    """
    known, moving = works(graph), _depending_on_inputs(graph)
    output = next(node for node in graph.nodes if node.op == "output")
    pending = list(_paired(code.results, _inputs(output, moving)))
    pairs: set[tuple[int, str]] = set()
    while pending:
        index, node = pending.pop()
        if index == INPUT or node.op != "call_function":
            continue
        call = code.calls[index]
        if is_getitem(node) or node.target in (QUANTIZE, DEQUANTIZE):
            pending.append((index, operand(node)))
        elif call.operator in QUANTIZING:
            pending += [(made, node) for made in call.inputs]
        elif _step(call.operator) == _step(operator_name(node)):
            if (index, node.name) not in pairs:
                pairs.add((index, node.name))
                pending += _paired(call.inputs, _inputs(node, moving))
        elif call.operator.endswith(CLAMPING) and operator_name(node).rstrip("_") in CLAMPS:
            pending.append((index, operand(node)))
    calls, nodes = Counter(index for index, _ in pairs), Counter(name for _, name in pairs)
    certain = {index: known[name] for index, name in pairs if calls[index] == nodes[name] == 1}
    return [certain.get(index) for index in range(len(code.calls))]


def _paired(made: Sequence[int], nodes: Sequence[fx.Node]) -> Iterator[tuple[int, fx.Node]]:
    """Each maker of a value with the node in its place; none where there are not as many."""
    return zip(made, nodes) if len(made) == len(nodes) else iter(())


def _depending_on_inputs(graph: Graph) -> set[fx.Node]:
    """The nodes that are not the same in every inference: what depends on constants alone is computed ahead."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or any(given in found for given in node.all_input_nodes):
            found.add(node)
    return found


def _inputs(node: fx.Node, moving: set[fx.Node]) -> list[fx.Node]:
    """The arguments of a call that depend on the model's inputs, in order, each as often as it is given."""
    return [given for given in tree_leaves((node.args, node.kwargs)) if isinstance(given, fx.Node) and given in moving]


def _step(operator: str) -> str:
    """An operator's name, the same for all forms of it, those with a clamp too."""
    short = operator.rpartition("::")[2].rstrip("_").removesuffix("_clamp_run").removesuffix("_relu")
    return "convolution" if "conv" in short else short


def onnx_origins(graph: Graph, opset: int) -> dict[str, str]:
    """The call of ``graph`` that each node and each value comes from in the ONNX that torch's exporter makes of it.

    The exporter traces the graph again, under new names; so each call carries its name through it.
    """
    copied = graph.copy()
    for node in copied.nodes:
        node.meta["custom"] = {"origin": node.name}
    batch = torch.export.Dim("batch", min=1)
    inputs = [node for node in copied.nodes if node.op == "placeholder"]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            copied.module,
            copied.example_inputs,
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=opset,
            dynamic_shapes=tuple({0: batch} for _ in inputs) if graph.dynamic_batch else None,
        )
    assert program is not None
    traced = program.exported_program
    assert traced is not None
    calls = {node.name: node.meta.get("custom", {}).get("origin") for node in traced.graph.nodes}
    origins: dict[str, str] = {}
    for made in program.model.graph:
        scopes = made.metadata_props.get("pkg.torch.onnx.name_scopes", "").strip("[]").split(", ")
        origin = calls.get(scopes[-1].strip("'"))
        if origin is not None:
            origins |= {str(name): origin for name in (made.name, *(value.name for value in made.outputs))}
    outputs = list(program.model.graph.outputs)
    for index, value in enumerate(outputs):
        name = "output" if len(outputs) == 1 else f"output_{index}"
        if value.name in origins:
            origins[name] = origins[str(value.name)]
    return origins


class Attribution:
    """Finds the calls that a runtime's operators compute, by the names that these kept.

    Args:
        graph: the fused graph.
        origins: of names in the runtime's file, the calls of ``graph`` that they come from.
        dataflow: the file's nodes in order, each with its ``names`` (of itself and its outputs) and its ``inputs``.
    """

    def __init__(self, graph: Graph, origins: Mapping[str, str], dataflow: Sequence[Mapping[str, Any]]):
        self.works = works(graph)
        self._nodes = {node.name: node for node in graph.nodes}
        self._origins = origins
        self._steps = {name: step for step in dataflow for name in step["names"] if name}
        self._readers: dict[str, list[Mapping[str, Any]]] = {}
        for step in dataflow:
            for name in step["inputs"]:
                self._readers.setdefault(name, []).append(step)

    def attribute(self, operators: Sequence[tuple[Sequence[str], Kind]]) -> list[list[Work]]:
        """The calls of each operator, given as its names and its kind; none where they cannot be told.

        They are those of its kind that its names come from. Where there is none, it is the nearest one before them
        that no other operator computes: a convolution that was fused with a ReLU is called after that. What is left
        is given the calls that it is named after, whatever they are, for their module; but never compute.
        """
        named = [self.named(names) for names, _ in operators]
        found = [[work for work in works if work.kind == kind] for works, (_, kind) in zip(named, operators)]
        claimed = {work.name for works in found for work in works}
        for index, (names, kind) in enumerate(operators):
            if found[index]:
                continue
            anchors = named[index]
            if not anchors and kind in ("compute", "normalisation"):
                anchors = self._after(names)
            near = next((work for work in self._before(anchors, kind) if work.name not in claimed), None)
            if near is not None:
                claimed.add(near.name)
                found[index] = [near]
            elif kind != "compute":
                found[index] = named[index]
        return found

    def named(self, names: Sequence[str]) -> list[Work]:
        """The calls that names come from, in the order of the graph."""
        origins = {self._origins.get(form) for name in names for form in _forms(name)}
        return [work for name, work in self.works.items() if name in origins]

    def _after(self, names: Sequence[str]) -> list[Work]:
        """The first calls that are reached from a node that only the runtime's file knows."""
        front = [self._steps[form] for name in names for form in _forms(name) if form in self._steps][:1]
        for _ in range(REACH):
            front = [reader for step in front for name in step["names"] for reader in self._readers.get(name, ())]
            reached = [work for step in front for work in self.named(step["names"])]
            if reached:
                return reached
        return []

    def _before(self, anchors: Sequence[Work], kind: Kind) -> Iterator[Work]:
        """Calls of a kind, from the anchors backwards, the nearest first."""
        front = [self._nodes[work.name] for work in anchors]
        for _ in range(REACH):
            yield from (self.works[node.name] for node in front if self._is(node, kind))
            front = [given for node in front if not self._is(node, kind) for given in node.all_input_nodes]

    def _is(self, node: fx.Node, kind: Kind) -> bool:
        return node.name in self.works and self.works[node.name].kind == kind


def _forms(name: str) -> list[str]:
    """A name, and what it was before the runtime added to it."""
    short = name.removeprefix(CASTS).split("/")[0].split("_token_")[0]
    for suffix in SUFFIXES:
        short = short.removesuffix(suffix)
    return [name] if short == name else [name, short]
