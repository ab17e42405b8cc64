"""``deploykit doctor``."""

from __future__ import annotations

from dataclasses import dataclass

from deploy_kit.cli.console import print_json, print_line, print_table
from deploy_kit.cli.parameters import Json


@dataclass(frozen=True)
class Check:
    """One thing that a target needs: ``found`` is None where it is missing, and ``install`` gets it."""

    target: str
    needs: str
    found: str | None
    purpose: str
    optional: bool
    install: str


def command(json: Json = False) -> None:
    """Show what is installed, what each target can do here, and the command for what is missing."""
    from deploy_kit.exporters import get_exporter, list_targets

    checks = [
        Check(name, need.name, need.found, need.purpose, need.optional, need.install)
        for name in list_targets()
        for need in get_exporter(name).requirements()
    ]
    if json:
        print_json(checks)
        return
    print_table(
        "targets here",
        ["target", "needs", "found", "for"],
        [
            (c.target, c.needs, c.found or ("missing (optional)" if c.optional else "missing"), c.purpose)
            for c in checks
        ],
    )
    for check in checks:
        if check.found is None:
            print_line(f"to get {check.needs} for {check.target}: {check.install}")
