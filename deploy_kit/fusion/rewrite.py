"""What a pass is, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import fx

from deploy_kit.graph import Graph, module_path


@dataclass(frozen=True)
class Rewrite:
    """One change that a pass made: which pass, at which module of the original model, and what."""

    pass_name: str
    module: str
    detail: str


@dataclass(frozen=True)
class Pass:
    """A named rewrite of a graph.

    ``exact`` passes are equal in real arithmetic. ``apply`` edits the graph and returns a pair
    (node, detail) for each rewrite; it need not clean up after itself.
    """

    name: str
    apply: Callable[[Graph], list[tuple[fx.Node, str]]]
    exact: bool = True

    @property
    def identity(self) -> str:
        """The algebra of the pass: the docstring of its function."""
        return (self.apply.__doc__ or "").strip()

    def run(self, graph: Graph) -> list[Rewrite]:
        """Rewrite ``graph`` in place."""
        changes = self.apply(graph)
        rewrites = [Rewrite(self.name, module_path(node), detail) for node, detail in changes]
        if changes:
            graph.clean()
        return rewrites
