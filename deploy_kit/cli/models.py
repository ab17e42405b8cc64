"""``deploykit models``."""

from __future__ import annotations

from dataclasses import dataclass

from deploy_kit.cli.console import print_json, print_table
from deploy_kit.cli.parameters import Json


@dataclass(frozen=True)
class ModelRow:
    """One reference model; ``published_*`` are the authors' figures, the others counted here."""

    name: str
    parameters: int
    input_size: str
    activation: str
    published_top1: float
    published_macs: float
    paper: str


def command(json: Json = False) -> None:
    """List the reference models."""
    import torch

    from deploy_kit.models import get_architecture, list_models

    rows = []
    for name in list_models():
        architecture = get_architecture(name)
        with torch.device("meta"):
            parameters = sum(parameter.numel() for parameter in architecture.build().parameters())
        height, width = architecture.input_size
        published = architecture.published
        size = f"{height}x{width}"
        rows.append(
            ModelRow(name, parameters, size, architecture.activation, published.top1, published.macs, published.paper)
        )
    if json:
        print_json(rows)
        return
    print_table(
        "reference models (top-1 and MACs as published)",
        ["name", "parameters", "input", "activation", "top-1", "MACs", "paper"],
        [
            (
                row.name,
                f"{row.parameters:,}",
                row.input_size,
                row.activation,
                f"{row.published_top1}%",
                f"{row.published_macs / 1e9:.1f} G",
                row.paper,
            )
            for row in rows
        ],
    )
