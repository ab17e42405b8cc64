"""``deploykit targets``."""

from __future__ import annotations

from dataclasses import dataclass

from deploy_kit.cli.console import print_json, print_table
from deploy_kit.cli.parameters import Json


@dataclass(frozen=True)
class TargetRow:
    """One target and the options that it takes."""

    name: str
    summary: str
    options: list[str]


def command(json: Json = False) -> None:
    """List the targets and their options. `deploykit doctor` says what each can do here."""
    from deploy_kit.exporters import get_exporter, list_targets

    rows = []
    for name in list_targets():
        exporter = get_exporter(name)
        options = [f"--{option.replace('_', '-')}" for option in exporter.options_type.model_fields]
        rows.append(TargetRow(name, exporter.summary, options))
    if json:
        print_json(rows)
        return
    print_table(
        "targets", ["name", "what it is", "options"], [(row.name, row.summary, " ".join(row.options)) for row in rows]
    )
