"""``deploykit lint``."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from deploy_kit.cli.console import format_bytes, print_json, print_line, print_table, show_stages
from deploy_kit.cli.parameters import Activation, Classes, InputSize, Json, Model, Seed

if TYPE_CHECKING:
    from deploy_kit.lint import Finding


def command(
    model: Model,
    target: Annotated[
        list[str] | None, typer.Option("--target", "-t", help="A target of `deploykit targets`; none is all of them.")
    ] = None,
    activation: Activation = None,
    num_classes: Classes = None,
    input_size: InputSize = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Say what each target will refuse in MODEL or be slow at, before anything is converted. Exit code 1 if one will
    refuse something."""
    from deploy_kit.lint import Severity, lint
    from deploy_kit.sources import load_model

    with show_stages() as stages:
        with stages.stage(f"load {model}"):
            loaded = load_model(model, input_size=input_size, activation=activation, num_classes=num_classes, seed=seed)
        found = lint(loaded, target, stages)
    if json:
        print_json(found)
    elif not found:
        print_line(f"{loaded.name}: nothing found")
    else:
        print_table(
            f"{loaded.name}: {len(found)} findings, as the model is after fusion for each target",
            ["target", "severity", "rule", "where", "operators", "why", "what to do"],
            [_row(group) for group in _groups(found)],
        )
    if any(finding.severity == Severity.ERROR for finding in found):
        raise typer.Exit(1)


def _groups(found: list[Finding]) -> list[list[Finding]]:
    """Findings that say the same of one target's modules, together."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for finding in found:
        groups.setdefault((finding.target, finding.rule, finding.message), []).append(finding)
    return list(groups.values())


def _row(group: list[Finding]) -> tuple[str, ...]:
    first, operators = group[0], Counter[str]()
    for finding in group:
        operators.update(finding.operators)
    where = first.module or "(the model)"
    where = where if len(group) == 1 else f"{where} and {len(group) - 1} more"
    moved = sum(finding.bytes or 0 for finding in group)
    message = f"{first.message}: {format_bytes(moved)} an inference" if moved else first.message
    names = ", ".join(f"{count} {name}" for name, count in operators.items())
    return first.target, first.severity.value, first.rule, where, names, message, first.fix
