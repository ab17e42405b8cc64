"""What others published, as data: `published.toml` beside this file."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

FILE = Path(__file__).with_name("published.toml")


class PublishedPoint(BaseModel):
    """One model of a source's table; ``model`` is the same architecture here, None where there is none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    model: str | None = None
    top1: Annotated[float, Field(gt=0, lt=100)]
    """ImageNet-1k, in percent, as the source has it."""
    latency_ms: Annotated[float, Field(gt=0)]
    energy_mj: Annotated[float, Field(gt=0)] | None = None
    """Millijoules of one inference; None where the source has none."""


class Source(BaseModel):
    """Where figures stand, what they were measured on, and which text was read; None is what it does not tell."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    title: str
    url: str
    table: str
    read: str
    device: str
    runtime: str
    threads: int | None = None
    points: list[PublishedPoint]


@cache
def published() -> tuple[Source, ...]:
    """Every source, in the order of the file."""
    document = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return tuple(Source.model_validate(source) for source in document["source"])
