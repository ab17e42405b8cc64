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
    """One reference model; ``published_*`` are the authors' figures, the others counted here.

    ``macs`` are of one input, attention included; ``macs_note`` says why they are over 1% off the published.
    """

    name: str
    parameters: int
    input_size: str
    activation: str
    macs: int | None
    published_macs: float | None
    macs_note: str | None
    published_top1: float | None
    published_quality: str | None
    published_latency: Latency | None
    paper: str

    @property
    def quality(self) -> str | None:
        """What the authors report of its results, in a few words."""
        return self.published_quality or (None if self.published_top1 is None else f"top-1 {self.published_top1}%")

    @property
    def latency(self) -> str | None:
        """What is reported of its speed, in a few words."""
        found = self.published_latency
        return None if found is None else f"{found.ms:g} ms, {found.device}, {found.runtime}"


def command(json: Json = False) -> None:
    """List the reference models."""
    rows = list_rows()
    if json:
        print_json(rows)
        return
    print_table(
        "reference models (quality and latency as published)",
        ["name", "parameters", "input", "MACs", "quality", "latency", "paper"],
        [
            (
                row.name,
                f"{row.parameters:,}",
                row.input_size,
                giga(row.macs),
                row.quality,
                _latency(row),
                shorten(row.paper),
            )
            for row in rows
        ],
    )


def list_rows() -> list[ModelRow]:
    """What there is to say of each reference model."""
    from deploy_kit.models import list_models

    return [_row(name) for name in list_models()]


def _row(name: str) -> ModelRow:
    from deploy_kit.models import get_architecture
    from deploy_kit.models.registry import counted_macs

    architecture = get_architecture(name)
    size = "x".join(map(str, architecture.input_size))
    published = architecture.published
    return ModelRow(
        name=name,
        parameters=architecture.parameters,
        input_size=size if architecture.draw is None else f"{size} {architecture.takes}",
        activation=architecture.activation,
        macs=counted_macs().get(name),
        published_macs=published.macs,
        macs_note=published.macs_note,
        published_top1=published.top1,
        published_quality=published.quality,
        published_latency=published.latency,
        paper=published.paper,
    )


def _latency(row: ModelRow) -> str | None:
    if row.published_latency is None:
        return None
    source = row.published_latency.source
    return f"{row.latency} ({'paper' if source == row.paper else shorten(source)})"


def shorten(source: str) -> str:
    """A paper or a repository in a few characters, of which its address can still be told."""
    return source.replace("https://arxiv.org/abs/", "arXiv:").replace("https://github.com/", "")


def giga(macs: float | None) -> str | None:
    """Multiply-accumulates in four digits."""
    return None if macs is None else f"{macs / 1e9:.4g} G"
