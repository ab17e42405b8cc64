"""Which calls of a graph compute in int8, and which of its values are stored in int8 for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from deploy_kit.errors import UserError
from deploy_kit.graph import Graph, is_call, is_getitem, is_view, module_path, only_user, operand
from deploy_kit.precision.scheme import LAYERS

aten = torch.ops.aten

CLAMPS = (aten.relu.default, aten.hardtanh.default, aten.relu6.default)
"""What every runtime computes within the integer kernel before it."""


@dataclass(frozen=True)
class Site:
    """A call with a constant weight that is to compute in int8, and its result once clamped, if it is."""

    call: fx.Node
    result: fx.Node

    @property
    def name(self) -> str:
        """The module of the original model that made the call."""
        return module_path(self.call) or self.call.name


def find_sites(graph: Graph, keep: Iterable[str] = ()) -> list[Site]:
    """The calls that integer kernels can do, in order, without those of the modules in ``keep``.

    Raises:
        UserError: a name in ``keep`` is none of such a module, or of one that contains some.
    """
    sites = [
        Site(node, _clamped(node))
        for node in graph.calls(*LAYERS)
        if _is_layer(graph.constant(node.args[1])) and node.meta["val"].dtype == torch.float32
    ]
    kept: set[fx.Node] = set()
    for name in keep:
        within = {site.call for site in sites if is_within(site.name, name)}
        if not within:
            known = ", ".join(dict.fromkeys(site.name for site in sites))
            raise UserError(
                f"--keep-fp32 {name!r} is no module with an operator that would lose precision",
                fix=f"choose from: {known}" if known else "leave it out",
            )
        kept |= within
    return [site for site in sites if site.call not in kept]


def _is_layer(weight: Tensor | None) -> bool:
    """Whether a weight is a layer's own. One of equal elements is an average within a norm, which needs its digits."""
    if weight is None:
        return False
    return weight.min().item() < weight.max().item()


def is_within(module: str, name: str) -> bool:
    """Whether ``module`` is the module called ``name``, or inside of it."""
    return module == name or module.startswith(name + ".")


def _clamped(node: fx.Node) -> fx.Node:
    user = only_user(node)
    return user if user is not None and is_clamp(user) else node


def is_clamp(node: fx.Node) -> bool:
    """Whether a call is one that runtimes compute within the integer kernel before it."""
    at_zero = is_call(node, aten.clamp.default, aten.clamp_min.default) and bool(node.args[1] == 0)
    return at_zero or is_call(node, *CLAMPS)


def find_sums(graph: Graph, sites: list[Site]) -> list[fx.Node]:
    """Sums of two values that are stored in int8, whose own value is needed in int8 again: residual connections.

    Every runtime adds int8 to int8 without a detour by float32.
    """
    stored = {site.result for site in sites}
    needed = {source(operand(site.call)) for site in sites}
    sums = []
    for node in graph.calls(aten.add.Tensor):
        operands = [argument for argument in node.args[:2] if isinstance(argument, fx.Node)]
        result = _clamped(node)
        same = len(operands) == 2 and operands[0].meta["val"].shape == operands[1].meta["val"].shape
        if same and not node.kwargs and all(source(x) in stored for x in operands) and result in needed:
            stored.add(result)
            sums.append(result)
    return sums


def source(node: fx.Node) -> fx.Node:
    """The value that ``node`` is a rearrangement of: itself, unless it is a view."""
    while is_view(node) and not (is_getitem(node) and not is_view(operand(node))):
        node = operand(node)
    return node
