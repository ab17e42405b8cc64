"""``deploykit models``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploy_kit.cli.console import print_json, print_table
from deploy_kit.cli.parameters import Json

if TYPE_CHECKING:
    from deploy_kit.models.registry import Latency


@dataclass(frozen=True)
class ModelRow:
    """One reference model; ``published_*`` are the authors' figures, the others counted here."""

    name: str
    parameters: int
    input_size: str
    activation: str
    published_top1: float | None
    published_quality: str | None
    published_macs: float | None
    published_latency: Latency | None
    paper: str


def command(json: Json = False) -> None:
    """List the reference models."""
    from deploy_kit.models import list_models

    rows = [_row(name) for name in list_models()]
    if json:
        print_json(rows)
        return
    print_table(
        "reference models (quality, MACs and latency as published)",
        ["name", "parameters", "input", "activation", "quality", "MACs", "latency", "paper"],
        [
            (
                row.name,
                f"{row.parameters:,}",
                row.input_size,
                row.activation,
                _quality(row),
                None if row.published_macs is None else f"{row.published_macs / 1e9:.2f} G",
                _latency(row.published_latency),
                row.paper,
            )
            for row in rows
        ],
    )


def _row(name: str) -> ModelRow:
    import torch

    from deploy_kit.models import get_architecture

    architecture = get_architecture(name)
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in architecture.build().parameters())
    size = "x".join(map(str, architecture.input_size))
    published = architecture.published
    return ModelRow(
        name=name,
        parameters=parameters,
        input_size=size if architecture.draw is None else f"{size} {architecture.takes}",
        activation=architecture.activation,
        published_top1=published.top1,
        published_quality=published.quality,
        published_macs=published.macs,
        published_latency=published.latency,
        paper=published.paper,
    )


def _quality(row: ModelRow) -> str | None:
    return row.published_quality or (None if row.published_top1 is None else f"top-1 {row.published_top1}%")


def _latency(latency: Latency | None) -> str | None:
    return None if latency is None else f"{latency.ms:g} ms, {latency.device}, {latency.runtime}"
