"""The figure: accuracy against latency and energy, measured and published points told apart, as SVG and a page."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from deploy_kit.benchmarks.papers.published import PublishedPoint, Source
from deploy_kit.benchmarks.papers.report import ACCURACY, MEASURED, PUBLISHED, Results, describe_device, notes_of
from deploy_kit.benchmarks.papers.suite import Row

WIDTH, LEFT, RIGHT, LEGEND = 1360, 70, 800, 830
TOP, HEIGHT, GAP = 110, 470, 90
LINE = 17
"""Pixels from one line of the legend to the next."""

CHARACTER = {MEASURED: 7.8, PUBLISHED: 5.9}
"""About the width of a character of a label, in pixels."""

TEXT, FAR = 11.0, 16
"""The height of a label, and how far from its mark it has a line that leads there, in pixels."""

MARK = 6.0
"""Half the width of a mark."""

NOTE = 190
"""Characters of a line below the panels."""

COLOURS = ("#1f6fb4", "#d95f02", "#2a8f4f", "#7a3fa0", "#b8860b", "#333333")
"""Of the targets that are measured, in their order."""


@dataclass(frozen=True)
class Point:
    """A mark: where it is, what it is called, and what it says when it is pointed at."""

    value: float
    """Milliseconds, or millijoules."""
    top1: float
    name: str
    hover: str
    colour: str = "#777777"
    letter: str = ""
    """Of a published point's source."""
    valid: bool = True
    target: str = ""
    """Of a measured point."""


@dataclass(frozen=True)
class _Axis:
    """Values to pixels; logarithmic with ticks at 1, 2 and 5, or linear with ticks at whole steps."""

    first: float
    last: float
    low: float
    high: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        first, last, value = (math.log10(x) if self.logarithmic else x for x in (self.first, self.last, value))
        return round(self.low + (value - first) / (last - first) * (self.high - self.low), 1)

    @property
    def ticks(self) -> list[dict[str, Any]]:
        return [{"at": self.at(value), "label": f"{value:g}"} for value in self._steps()]

    def _steps(self) -> Iterator[float]:
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.first)), math.ceil(math.log10(self.last)) + 1)
            values = [step * 10.0**power for power in powers for step in (1, 2, 5)]
        else:
            step = 1 if self.last - self.first <= 12 else 2
            values = [float(value) for value in range(math.ceil(self.first), math.floor(self.last) + 1, step)]
        return (value for value in values if self.first <= value <= self.last)


@dataclass
class _Labels:
    """Labels beside the marks of a panel from ``top`` on, where they cover neither marks nor each other."""

    top: float
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)
    placed: list[dict[str, Any]] = field(default_factory=list)

    def mark(self, x: float, y: float) -> None:
        self.taken.append((x - MARK, y - MARK, x + MARK, y + MARK))

    def place(self, x: float, y: float, text: str, colour: str, kind: str) -> None:
        """Put a label where the least is below it; a published point's only where there is nothing, and near."""
        width = len(text) * CHARACTER[kind]
        best: tuple[float, dict[str, Any], tuple[float, float, float, float]] | None = None
        for dx, dy, anchor in _places():
            if kind == PUBLISHED and abs(dy) > FAR:
                break
            start = x + dx if anchor == "start" else x + dx - width
            box = (start, y + dy - TEXT, start + width, y + dy + 2)
            outside = 1e6 * (box[0] < LEFT or box[2] > RIGHT or box[1] < self.top or box[3] > self.top + HEIGHT)
            covered = outside + sum(_overlap(box, other) for other in self.taken) + 0.01 * (abs(dx) + abs(dy))
            if best is None or covered < best[0]:
                label = {"x": round(x + dx, 1), "y": round(y + dy, 1), "anchor": anchor, "text": text}
                best = covered, {**label, "colour": colour, "kind": kind, "far": abs(dy) > FAR, "of": (x, y)}, box
        assert best is not None
        if kind == MEASURED or best[0] < 1:
            self.placed.append(best[1])
            self.taken.append(best[2])


def _places() -> Iterator[tuple[float, float, str]]:
    for dy in (4, -8, 16, -22, 30, -36, 44, -50, 58):
        yield 9, dy, "start"
        yield -9, dy, "end"


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """The area that two boxes share."""
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(across, 0.0) * max(down, 0.0)


def draw(results: Results) -> str:
    """The figure as SVG: top-1 against latency, and against energy where some is known."""
    latency = [*_measured(results, "latency_ms"), *_published(results, "latency_ms")]
    energy = [*_measured(results, "energy_mj"), *_published(results, "energy_mj")]
    panels = [_panel(latency, "latency of one inference, ms (logarithmic)", TOP)]
    note_at = TOP + HEIGHT + 70
    if energy:
        panels.append(_panel(energy, "energy of one inference, mJ (logarithmic)", TOP + HEIGHT + GAP))
        note_at += HEIGHT + GAP
    legend = _legend(results, front=any(panel["fronts"] for panel in panels))
    note = textwrap.wrap(_note(results, energy), NOTE)
    height = max(note_at + LINE * len(note), TOP + 30 + LINE * len(legend))
    return _template("figure.svg.jinja").render(
        width=WIDTH,
        height=height,
        left=LEFT,
        right=RIGHT,
        legend_left=LEGEND,
        legend_top=TOP + 8,
        line=LINE,
        mark=MARK,
        title="ImageNet-1k top-1, as published, against what an inference costs",
        subtitles=[
            f"measured here: {describe_device(results.device)}; {_protocol(results)}",
            *_halves(ACCURACY),
        ],
        panels=panels,
        legend=legend,
        note_at=note_at,
        note=note,
    )


def page(results: Results) -> str:
    """A page with the figure and every point in a table; it needs nothing from anywhere."""
    rows = [
        (MEASURED, row.model, row.target, row.top1, row.latency_ms, row.energy_mj, "; ".join(notes_of(row)))
        for row in results.rows
    ]
    points = [
        (PUBLISHED, point.name, source.device, point.top1, point.latency_ms, point.energy_mj, _where(source))
        for source in results.published
        for point in source.points
    ]
    return _template("figure.html.jinja").render(
        svg=draw(results), device=describe_device(results.device), rows=[*rows, *points]
    )


def _template(name: str) -> Any:
    from jinja2 import Environment, FileSystemLoader

    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(name)


def _measured(results: Results, figure: str) -> list[Point]:
    """The rows that have a published accuracy, and a figure that a logarithmic axis has a place for."""
    colours = _colours(results)
    points = []
    for row in results.rows:
        value = getattr(row, figure)
        if value is not None and value > 0 and row.top1 is not None:
            hover = _hover_of_row(row, value, figure, results)
            point = Point(value, row.top1, row.model, hover, colours[row.target], valid=row.valid, target=row.target)
            points.append(point)
    return points


def _published(results: Results, figure: str) -> list[Point]:
    return [
        Point(value, point.top1, point.name, _hover_of_point(point, source), letter=letter)
        for letter, source in zip(_letters(), results.published)
        for point in source.points
        if (value := getattr(point, figure)) is not None
    ]


def _hover_of_row(row: Row, value: float, figure: str, results: Results) -> str:
    unit = "ms (median)" if figure == "latency_ms" else "mJ"
    counts = "" if row.valid else f"; NOT VALID: {'; '.join(notes_of(row))}"
    where = describe_device(results.device)
    return f"measured: {row.model}, {row.target}; {value:.4g} {unit}; {where}; top-1 {row.top1}% as published{counts}"


def _hover_of_point(point: PublishedPoint, source: Source) -> str:
    energy = "" if point.energy_mj is None else f", {point.energy_mj:g} mJ"
    return f"published: {point.name}; {point.latency_ms:g} ms{energy}; top-1 {point.top1}%; {_where(source)}"


def _where(source: Source) -> str:
    threads = "" if source.threads is None else f", {source.threads} threads"
    return f"{source.device}, {source.runtime}{threads}; {source.title}, {source.table}, {source.url}"


def _panel(points: Sequence[Point], label: str, top: float) -> dict[str, Any]:
    values, tops = [point.value for point in points], [point.top1 for point in points]
    x = _Axis(min(values) / 1.3, max(values) * 1.3, LEFT, RIGHT, logarithmic=True)
    y = _Axis(math.floor(min(tops)) - 1, math.ceil(max(tops)) + 1, top + HEIGHT, top)
    marks: list[dict[str, Any]] = [
        {
            "x": x.at(point.value),
            "y": y.at(point.top1),
            "hover": point.hover,
            "colour": point.colour,
            "letter": point.letter,
            "valid": point.valid,
        }
        for point in points
    ]
    labels = _Labels(top)
    for mark in marks:
        labels.mark(mark["x"], mark["y"])
    for point, mark in zip(points, marks):
        labels.place(mark["x"], mark["y"], point.name, point.colour, PUBLISHED if point.letter else MEASURED)
    return {
        "label": label,
        "top": top,
        "bottom": top + HEIGHT,
        "x_ticks": x.ticks,
        "y_ticks": y.ticks,
        "published": [mark for mark in marks if mark["letter"]],
        "measured": [mark for mark in marks if not mark["letter"]],
        "labels": labels.placed,
        "fronts": [
            {
                "colour": front[0].colour,
                "points": " ".join(_steps([(x.at(point.value), y.at(point.top1)) for point in front])),
            }
            for front in fronts(points)
        ],
    }


def _steps(corners: Sequence[tuple[float, float]]) -> Iterator[str]:
    """A staircase: between two models nothing was measured, so nothing is drawn as if it had been."""
    height = corners[0][1]
    for across, down in corners:
        yield f"{across},{height}"
        yield f"{across},{down}"
        height = down


def fronts(points: Sequence[Point]) -> list[list[Point]]:
    """For each target the valid measured models that no other one beats in both; none where fewer than two are left.

    They are of one device, one target and one protocol; published points are of others, and are never among them.
    """
    found = []
    for target in dict.fromkeys(point.target for point in points if point.target):
        counting = [point for point in points if point.target == target and point.valid]
        front: list[Point] = []
        for point in sorted(counting, key=lambda point: (point.value, -point.top1)):
            if not front or point.top1 > front[-1].top1:
                front.append(point)
        if len(front) > 1:
            found.append(front)
    return found


def _legend(results: Results, *, front: bool) -> list[dict[str, str]]:
    lines = [
        {"shape": "circle", "colour": colour, "text": f"measured here: {target}"}
        for target, colour in _colours(results).items()
    ]
    if any(row.latency_ms is not None and not row.valid for row in results.rows):
        lines.append({"shape": "crossed", "colour": "#555555", "text": "measured, NOT VALID (point at it for why)"})
    if front:
        lines.append({"shape": "line", "colour": "#555555", "text": "measured, and no other one is faster and as good"})
    lines += [
        {"shape": "diamond", "colour": "#777777", "letter": letter, "text": _cut(f"published: {_source(source)}")}
        for letter, source in zip(_letters(), results.published)
    ]
    return lines


def _source(source: Source) -> str:
    return f"{source.device}; {source.title}"


def _cut(text: str, length: int = 74) -> str:
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"


def _letters() -> Iterator[str]:
    """a to z, then aa, ab and so on."""
    yield from ascii_lowercase
    for first in ascii_lowercase:
        yield from (first + second for second in ascii_lowercase)


def _colours(results: Results) -> dict[str, str]:
    targets = dict.fromkeys(row.target for row in results.rows)
    return {target: COLOURS[index % len(COLOURS)] for index, target in enumerate(targets)}


def _protocol(results: Results) -> str:
    protocol = results.protocol
    return (
        f"{protocol.iterations} inferences after {protocol.warmup}, {protocol.threads} thread(s), "
        f"{protocol.rounds} round(s){f', cores {protocol.cores}' if protocol.cores else ''}"
    )


def _note(results: Results, energy: Sequence[Point]) -> str:
    """What is not in the figure, and why."""
    if any(point.letter for point in energy):
        return ""
    if energy:
        return "No published energy: no text that was read has one"
    return f"No energy panel: {_no_energy(results)}; published: no text that was read has one"


def _no_energy(results: Results) -> str:
    reasons = dict.fromkeys(
        row.unavailable["energy_mj"] for row in results.rows if row.failure is None and "energy_mj" in row.unavailable
    )
    return f"measured here: {'; '.join(reasons)}" if reasons else "nothing was measured here"


def _halves(text: str) -> list[str]:
    """A long line as two, parted after a sentence."""
    first, _, second = text.partition(". ")
    return [f"{first}.", second] if second else [text]
