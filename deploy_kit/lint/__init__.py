"""What a target will refuse or be slow at, said before anything is converted."""

from __future__ import annotations

from collections.abc import Sequence

from deploy_kit.api import fuse
from deploy_kit.exporters import list_targets
from deploy_kit.graph import Graph
from deploy_kit.lint import activations, delegation, kernels, layout, parser, rank, shapes
from deploy_kit.lint.finding import Finding, Severity
from deploy_kit.sources import LoadedModel
from deploy_kit.stages import Stages

RULES = (rank, parser, delegation, shapes, kernels, activations, layout)
"""The rules, the gravest first; each has ``find(graph, target)``."""


def lint(loaded: LoadedModel, targets: Sequence[str] | None = None, stages: Stages | None = None) -> list[Finding]:
    """What is wrong with a model for each target, as it is after fusion for that target.

    Args:
        loaded: the model.
        targets: names from `deploy_kit.exporters.list_targets`; None is all of them, installed or not.
        stages: to time and announce the work; None does so silently.

    Raises:
        UserError: no such target.
        ExportError: the model cannot be captured.
    """
    stages = stages or Stages()
    found = []
    for target in targets or list_targets():
        fused = fuse(loaded, target, stages=stages)
        found += lint_graph(fused.after, target)
    return found


def lint_graph(graph: Graph, target: str) -> list[Finding]:
    """What is wrong with a fused graph for one target, errors first."""
    found = [finding for rule in RULES for finding in rule.find(graph, target)]
    return sorted(found, key=lambda finding: list(Severity).index(finding.severity))


__all__ = ["Finding", "Severity", "lint", "lint_graph"]
