"""What the suite found, beside what is published: ``results.json`` and ``results.csv``."""

from __future__ import annotations

import csv
import io
from typing import Any

from pydantic import BaseModel, ConfigDict

from deploy_kit.benchmarks.papers.published import PublishedPoint, Source, published
from deploy_kit.benchmarks.papers.suite import Row
from deploy_kit.benchmarks.protocol import Protocol
from deploy_kit.devices.base import DeviceInfo

SCHEMA = 1
"""The version of ``results.json``."""

MEASURED, PUBLISHED = "measured", "published"

ACCURACY = (
    "Top-1 is what the authors published: the models that are timed here have random weights. A latency belongs to the "
    "architecture; a published one also to its own device, runtime and protocol."
)

WORDS = {"top1": "top-1", "latency_ms": "latency", "energy_mj": "energy"}

COLUMNS = (
    *("kind", "model", "name", "target", "precision", "device", "runtime", "threads", "top1_percent", "top1_source"),
    *(
        "latency_ms",
        "latency_is",
        "energy_mj",
        "energy_by",
        "valid",
        "note",
        "source",
        "table",
        "url",
        "measured_at",
        "sha256",
    ),
)


class Results(BaseModel):
    """``results.json``: the measurements of one command, and every published figure.

    ``rows`` has one entry a model and target, in the order that was asked for, each with the whole measurement, raw
    samples included, or with its failure. ``published`` has the sources with their points.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA
    command: str
    device: DeviceInfo
    protocol: Protocol
    accuracy: str = ACCURACY
    rows: list[Row]
    published: list[Source]


def results_of(command: str, device: DeviceInfo, protocol: Protocol, rows: list[Row]) -> Results:
    """The rows beside everything that is published."""
    return Results(command=command, device=device, protocol=protocol, rows=rows, published=list(published()))


def to_json(results: Results) -> str:
    """The text of ``results.json``."""
    return results.model_dump_json(by_alias=True, indent=1) + "\n"


def to_csv(results: Results) -> str:
    """The text of ``results.csv``: a line for each row and each published point; an empty cell is not known."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_of_row(row, results) for row in results.rows)
    writer.writerows(_of_point(point, source) for source in results.published for point in source.points)
    return text.getvalue()


def _of_row(row: Row, results: Results) -> dict[str, Any]:
    measurement = row.measurement
    known: dict[str, Any] = {}
    if measurement is not None:
        known = {
            "precision": measurement.artifact.precision,
            "runtime": measurement.rounds[0].result.runtime,
            "latency_is": f"median of {measurement.summary.samples}",
            "energy_by": measurement.energy.method if measurement.energy else None,
            "measured_at": measurement.started,
            "sha256": measurement.artifact.sha256,
        }
    return {
        "kind": MEASURED,
        "model": row.model,
        "name": row.model,
        "target": row.target,
        "device": describe_device(results.device),
        "threads": results.protocol.threads,
        "top1_percent": row.top1,
        "top1_source": row.top1_source,
        "latency_ms": row.latency_ms,
        "energy_mj": row.energy_mj,
        "valid": "yes" if row.valid else "no",
        "note": "; ".join(notes_of(row)),
        **known,
    }


def _of_point(point: PublishedPoint, source: Source) -> dict[str, Any]:
    return {
        "kind": PUBLISHED,
        "model": point.model,
        "name": point.name,
        "device": source.device,
        "runtime": source.runtime,
        "threads": source.threads,
        "top1_percent": point.top1,
        "top1_source": source.url,
        "latency_ms": point.latency_ms,
        "latency_is": "as published",
        "energy_mj": point.energy_mj,
        "note": f"read: {source.read}",
        "source": source.title,
        "table": source.table,
        "url": source.url,
    }


def notes_of(row: Row) -> list[str]:
    """Why a row has no latency or is not valid, and what else it lacks."""
    return reasons_of(row) + ([] if row.failure else lacks_of(row))


def reasons_of(row: Row) -> list[str]:
    """Why a row has no latency, or is not valid."""
    if row.failure is not None:
        return [row.failure.message]
    return row.measurement.reasons if row.measurement else []


def lacks_of(row: Row) -> list[str]:
    """What a row has no figure of, and why."""
    return [f"no {WORDS[name]}: {reason}" for name, reason in row.unavailable.items()]


def describe_device(device: DeviceInfo) -> str:
    """A device in a few words."""
    return f"{device.spec}, {device.description}{', emulated' if device.emulated else ''}"
