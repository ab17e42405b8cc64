"""A check as the JSON document of `CheckReport`."""

from __future__ import annotations

from deploy_kit.check.findings import CheckReport


def write(report: CheckReport) -> str:
    """The document."""
    return report.model_dump_json(indent=2) + "\n"
