"""A profile as a picture: the roofline with what computes, and bars for what only moves memory."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy_kit.errors import UserError
from deploy_kit.profile import Part, Profile
from deploy_kit.profile.kinds import MEMORY_BOUND

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 1060, 70, 720, 60, 460
BARS_TOP, BARS_LEFT, BARS_END, BAR = 530, 260, 720, 22
LINE = 17
"""Pixels from one label to the next."""

SHOWN = 12
"""How many operators have a mark of their own, at most, in each half."""

COLOURS = {
    "compute": "#1f6fb4",
    "layout": "#d95f02",
    "normalisation": "#7a3fa0",
    "elementwise": "#2a8f4f",
    "reduction": "#b8860b",
    None: "#333333",
}


@dataclass(frozen=True)
class _Axis:
    """A logarithmic axis of whole decades, from ``low`` to ``high`` pixels."""

    first: int
    last: int
    low: float
    high: float

    def at(self, value: float) -> float:
        part = (math.log10(value) - self.first) / (self.last - self.first)
        return round(self.low + part * (self.high - self.low), 1)

    @property
    def ticks(self) -> list[dict[str, Any]]:
        return [{"at": self.at(10.0**power), "label": f"{10.0**power:g}"} for power in range(self.first, self.last + 1)]


def check_plot(path: Path) -> None:
    """Raise `UserError` where a plot cannot be written to a file."""
    fix = "name an .svg or .html file in a folder that can be written"
    if path.suffix.lower() not in (".svg", ".html"):
        raise UserError(f"a plot is an .svg or .html file, and {str(path)!r} is neither", fix=fix)
    if path.is_dir() or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"the plot cannot be written to {str(path)!r}", fix=fix)


def write_plot(profile: Profile, path: Path) -> None:
    """Write a profile's plot, as SVG or as a page with it, by the file's suffix."""
    drawn = draw(profile)
    if path.suffix.lower() == ".html":
        head = f'<meta charset="utf-8"/><title>{html.escape(_title(profile))}</title>'
        drawn = f"<!DOCTYPE html>\n<html><head>{head}</head><body>\n{drawn}</body></html>\n"
    try:
        path.write_text(drawn, encoding="utf-8")
    except OSError as error:
        raise UserError(f"the plot cannot be written to {str(path)!r}: {error.strerror or error}") from error


def draw(profile: Profile) -> str:
    """The plot as SVG.

    A point for all, and for each kind and operator that has arithmetic and known bytes; a bar for each that is
    memory-bound, without arithmetic, and has known bytes.
    """
    from jinja2 import Environment, PackageLoader

    points = [part for part in (profile.total, *profile.kinds) if _has_point(part)]
    points += [part for part in profile.by_operator if _has_point(part)][:SHOWN]
    bars = [part for part in profile.kinds if _has_bar(part)]
    bars += [part for part in profile.by_operator if _has_bar(part)][:SHOWN]
    x, y = _axes(profile, points)
    peaks = profile.peaks
    start = 10.0**x.first
    corners = [(start, peaks.bound(start)), (peaks.ridge, peaks.gflops), (10.0**x.last, peaks.gflops)]
    fastest = max([peaks.gbytes, *(part.rates.gbytes or 0.0 for part in bars)])
    pixels = (BARS_END - BARS_LEFT) / fastest
    height = BARS_TOP + BAR * max(len(bars), 1) + 20
    environment = Environment(loader=PackageLoader("deploy_kit.profile", "."), autoescape=True)
    return environment.get_template("roofline.svg.jinja").render(
        width=WIDTH,
        height=height,
        left=LEFT,
        right=RIGHT,
        top=TOP,
        bottom=BOTTOM,
        title=_title(profile),
        subtitle=f"{profile.runtime}, {profile.threads} thread{'s' * (profile.threads > 1)}; {profile.machine}: "
        f"{peaks.gflops:.0f} GFLOP/s, {peaks.gbytes:.1f} GB/s",
        x_ticks=x.ticks,
        y_ticks=y.ticks,
        roof=" ".join(f"{x.at(at)},{y.at(rate)}" for at, rate in corners),
        points=_labelled(points, x, y),
        bars_top=BARS_TOP,
        bars_left=BARS_LEFT,
        bars_end=BARS_END,
        bars_bottom=BARS_TOP + BAR * len(bars),
        peak_at=round(BARS_LEFT + peaks.gbytes * pixels, 1),
        bandwidth=f"{peaks.gbytes:.1f}",
        bars=[
            {
                "name": part.name,
                "y": BARS_TOP + BAR * index,
                "width": round((part.rates.gbytes or 0.0) * pixels, 1),
                "colour": COLOURS[part.kind],
                "label": f"{part.rates.gbytes:.1f} GB/s, {_share(part)} of the time",
            }
            for index, part in enumerate(bars)
        ],
    )


def _title(profile: Profile) -> str:
    return f"{profile.model} on {profile.target}, {profile.precision}"


def _has_point(part: Part) -> bool:
    return bool(part.rates.gflops) and bool(part.rates.intensity)


def _has_bar(part: Part) -> bool:
    return part.kind in MEMORY_BOUND and not part.rates.gflops and bool(part.rates.gbytes)


def _share(part: Part) -> str:
    return "-" if part.share is None else f"{part.share:.0%}"


def _axes(profile: Profile, points: Sequence[Part]) -> tuple[_Axis, _Axis]:
    peaks = profile.peaks
    across = [peaks.ridge, *(part.rates.intensity or peaks.ridge for part in points)]
    up = [peaks.gflops, *(part.rates.gflops or peaks.gflops for part in points)]
    x = _Axis(*_decades(across), LEFT, RIGHT)
    first, last = _decades([*up, peaks.bound(10.0**x.first)])
    return x, _Axis(first, last, BOTTOM, TOP)


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """Powers of ten that have all values strictly between them."""
    return math.ceil(math.log10(min(values))) - 1, math.floor(math.log10(max(values))) + 1


def _labelled(parts: Sequence[Part], x: _Axis, y: _Axis) -> list[dict[str, Any]]:
    """The points with their labels beside the plot, in the points' order from above and a line apart."""
    placed = sorted(((y.at(part.rates.gflops or 1), part) for part in parts), key=lambda at: at[0])
    points, line = [], TOP - LINE / 2.0
    for index, (height, part) in enumerate(placed):
        line = min(max(line + LINE, height), BOTTOM - LINE * (len(placed) - 1 - index))
        reached = "" if part.rates.of_roofline is None else f", {part.rates.of_roofline:.0%} of the roofline"
        points.append(
            {
                "name": part.name,
                "x": x.at(part.rates.intensity or 1),
                "y": height,
                "label_y": round(line, 1),
                "colour": COLOURS[part.kind],
                "label": f"{part.name}: {part.rates.gflops:.3g} GFLOP/s{reached}",
            }
        )
    return points
