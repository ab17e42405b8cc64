"""Targets: one file each, found through the entry-point group ``deploy_kit.exporters``."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from deploy_kit.errors import unknown_name

if TYPE_CHECKING:
    from deploy_kit.exporters.base import Exporter

GROUP = "deploy_kit.exporters"


def list_targets() -> list[str]:
    """The names of the installed targets."""
    return sorted(entry_points(group=GROUP).names)


def get_exporter(name: str) -> Exporter:
    """The exporter of a target; `UserError` with the nearest names where there is none."""
    found = entry_points(group=GROUP)
    if name not in found.names:
        raise unknown_name("target", name, found.names)
    return found[name].load()()
