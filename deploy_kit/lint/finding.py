"""What a rule of `deploykit lint` says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from torch import fx

from deploy_kit.graph import module_path
from deploy_kit.statistics import operator_name


class Severity(StrEnum):
    """``error``: the target cannot take it; ``warning``: it is slow there; ``note``: worth knowing."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """One thing that a target will refuse or be slow at: where in the model it is, and what to do about it.

    ``operators`` are how often each operator is concerned, by name; ``bytes`` what they move in an inference, where
    that is what the finding is about.
    """

    target: str
    rule: str
    severity: Severity
    module: str
    operators: dict[str, int]
    message: str
    fix: str
    bytes: int | None = None


def by_module(nodes: Iterable[fx.Node]) -> Iterator[tuple[str, list[fx.Node]]]:
    """The modules that made these calls, each with its calls, in order of execution."""
    found: dict[str, list[fx.Node]] = {}
    for node in nodes:
        found.setdefault(module_path(node), []).append(node)
    yield from found.items()


def findings(
    target: str, rule: str, severity: Severity, nodes: Iterable[fx.Node], message: str, fix: str
) -> Iterator[Finding]:
    """One finding for each module that made one of these calls."""
    for module, calls in by_module(nodes):
        names = [operator_name(node) for node in calls]
        operators = {name: names.count(name) for name in dict.fromkeys(names)}
        yield Finding(target, rule, severity, module, operators, message, fix)
