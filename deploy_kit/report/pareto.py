"""Which cells no other beats: only of what was measured, and with what is missing and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from deploy_kit.report.data import Absent, Cell, Pareto, Point, Timing

What = Literal["accuracy", "latency", "energy"]

UNASKED = "no labelled inputs were asked: give the recipe [accuracy] with data"
UNMEASURED = "not measured on this setup"
INVALID = "the measurement is not valid"
WRONG = "the outputs were wrong"
OTHER_FILE = "measured of another file than the accuracy"
FAILED = "there is no working artifact"
NO_METER = "energy was not measured"


@dataclass
class _Missing:
    """Cells by what they have not, and why."""

    found: dict[tuple[What, str], list[str]] = field(default_factory=dict)

    def add(self, what: What, reason: str, cell: Cell) -> None:
        self.found.setdefault((what, reason), []).append(cell.id)


def fronts(cells: Sequence[Cell], setups: Sequence[str]) -> list[Pareto]:
    """A Pareto for each setup."""
    return [front_of(cells, setup) for setup in setups]


def front_of(cells: Sequence[Cell], setup: str) -> Pareto:
    """The points on a setup, the most accurate first, and what is absent."""
    missing = _Missing()
    points = [point for cell in cells if (point := _point(cell, setup, missing)) is not None]
    points.sort(key=lambda point: (-point.accuracy, point.latency_ms))
    marked = [point.model_copy(update={"front": not any(beats(b, point) for b in points)}) for point in points]
    absent = [Absent(what=what, reason=reason, cells=ids) for (what, reason), ids in missing.found.items()]
    return Pareto(setup=setup, points=marked, absent=absent)


def beats(a: Point, b: Point) -> bool:
    """Whether ``a`` is as good as ``b`` in everything that ``b`` has, and better in something."""
    pairs = [(-a.accuracy, -b.accuracy), (a.latency_ms, b.latency_ms)]
    if b.energy_mj is not None:
        if a.energy_mj is None:
            return False
        pairs.append((a.energy_mj, b.energy_mj))
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def _point(cell: Cell, setup: str, missing: _Missing) -> Point | None:
    now = cell.now
    if now is not None and not now.works:
        missing.add("latency", FAILED, cell)
        return None
    accuracy = now.accuracy if now else None
    if now is None or accuracy is None or not accuracy.total:
        missing.add("accuracy", now.unavailable.get("accuracy", UNASKED) if now else UNASKED, cell)
    timing = next((each for each in cell.current if each.setup == setup), None)
    why = _why_no_latency(cell, timing, setup)
    if why is not None:
        missing.add("latency", why, cell)
    if why is not None or now is None or accuracy is None or not accuracy.total or timing is None:
        return None
    if timing.energy is None:
        missing.add("energy", timing.unavailable.get("energy", NO_METER), cell)
    energy = timing.energy.mj if timing.energy else None
    return Point(cell=cell.id, accuracy=accuracy.share, latency_ms=timing.p50_ms, energy_mj=energy, front=False)


def _why_no_latency(cell: Cell, timing: Timing | None, setup: str) -> str | None:
    if timing is None:
        failure = cell.failure_on(setup)
        return failure.reason if failure else UNMEASURED
    if timing.outputs == "wrong":
        return WRONG
    if not timing.valid:
        return INVALID
    return OTHER_FILE if cell.stale(timing) else None
