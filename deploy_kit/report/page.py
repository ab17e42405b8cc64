"""The page: one HTML file that asks nothing of any network."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

from deploy_kit.disk import FULL, replace
from deploy_kit.errors import DeployKitError, UserError
from deploy_kit.outcome import Outcome
from deploy_kit.parity.compare import Precision
from deploy_kit.report.data import Cell, Page, Timing
from deploy_kit.report.history import moment

HERE = Path(__file__).parent

DASH = "\N{EN DASH}"
"""What is shown where nothing is known."""

SHOWN: dict[str, tuple[str, str, str]] = {
    Outcome.OK: ("good", "✓", "ok"),
    Outcome.OK_UNDELEGATED: ("fair", "◐", "undelegated"),
    Outcome.EMITTED_UNVERIFIED: ("fair", "○", "unverified"),
    Outcome.EXPORT_FAILED: ("bad", "✕", "export failed"),
    Outcome.LOWER_FAILED: ("bad", "✕", "lowering failed"),
    Outcome.LOAD_FAILED: ("bad", "✕", "load failed"),
    Outcome.RUN_FAILED: ("bad", "✕", "run failed"),
    Outcome.MISMATCH: ("bad", "✕", "mismatch"),
    Outcome.LOSSY: ("bad", "✕", "lossy"),
    Outcome.UNAVAILABLE: ("none", DASH, "unavailable"),
    Outcome.CRASHED: ("bad", "✕", "crashed"),
    Outcome.TOO_SLOW: ("bad", "✕", "too slow"),
}
"""The tone, the mark and the words of each outcome: no colour stands alone."""

UNKNOWN = ("none", "?", "only measured")
"""Of a cell of which no source says how its export ended."""


def render(page: Page) -> str:
    """The page's text."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("deploy_kit.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(FILTERS)
    scripts = {name: (HERE / name).read_text(encoding="utf-8") for name in ("early.js", "page.js")}
    return environment.get_template("page.html.jinja").render(
        page=page,
        css=(HERE / "page.css").read_text(encoding="utf-8"),
        early=scripts["early.js"],
        script=scripts["page.js"],
        policy=_policy(*scripts.values()),
        view=script_json(view_of(page)),
        setup=page.setups[0] if page.setups else None,
        columns=_columns(page),
        rows=_matrix(page),
        counts=_counts(page),
        known={cell.id for cell in page.cells},
        labels=labels,
        timing_on=timing_on,
    )


def _policy(*scripts: str) -> str:
    """What the page may do: run these scripts, and ask nobody for anything."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def script_json(value: Any) -> str:
    """JSON that can stand in a script element, whatever texts are in it."""
    text = json.dumps(plain(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def plain(value: Any) -> Any:
    """A value with None for every number that JSON has not."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def view_of(page: Page) -> dict[str, Any]:
    """What the script needs to filter, to sort and to draw; everything else is in the HTML."""
    runs = {run.id: index for index, run in enumerate(page.runs)}
    return {
        "setups": page.setups,
        "runs": [
            {"created": short_time(run.created), "kind": run.kind, "cells": run.cells, "works": run.working}
            for run in page.runs
        ],
        "cells": [_cell_view(cell, page, runs) for cell in page.cells],
        "pareto": [
            {
                point.cell: [_short(point.accuracy), _short(point.latency_ms), _short(point.energy_mj)]
                for point in each.points
            }
            for each in page.pareto
        ],
    }


def _cell_view(cell: Cell, page: Page, runs: Mapping[str, int]) -> dict[str, Any]:
    now = cell.now
    levels = [str(each.finding.level) for each in cell.findings]
    reasons = [each.reason for each in cell.failures.values()]
    return {
        "id": cell.id,
        "model": cell.model,
        "target": cell.target,
        "precision": cell.precision,
        "outcome": labels(cell)[2],
        "text": " ".join([cell.id, (now and now.reason) or "", *reasons]).lower(),
        "bytes": cell.bytes,
        "error": _short(now.max_relative_error) if now else None,
        "accuracy": _short(now.accuracy.share) if now and now.accuracy else None,
        "findings": 100 * levels.count("error") + 10 * levels.count("warning") + len(levels),
        "devices": sorted(
            {timing.device for timing in cell.timings} | {device.split(", ")[0] for device in cell.failures}
        ),
        "times": {
            str(page.setups.index(each.setup)): [
                _short(each.p50_ms),
                int(each.valid),
                _short(each.energy.mj) if each.energy else None,
                int(cell.stale(each)),
            ]
            for each in cell.current
        },
        "past": _past(cell, page, runs) if page.runs else [],
    }


def _past(cell: Cell, page: Page, runs: Mapping[str, int]) -> list[list[Any]]:
    """Of each run of a cell: its number, the size, the error, and the latency by setup with whether it counts."""
    found = []
    for export in cell.exports:
        if export.run is None or export.run not in runs:
            continue
        times = {
            str(page.setups.index(timing.setup)): [_short(timing.p50_ms), int(timing.valid)]
            for timing in cell.timings
            if timing.run == export.run
        }
        found.append([runs[export.run], export.bytes, _short(export.max_relative_error), times])
    return found


def _short(value: float | None) -> float | None:
    """A number in six digits."""
    return None if value is None else float(f"{value:.6g}")


def labels(cell: Cell) -> tuple[str, str, str]:
    """The tone, the mark and the words of how a cell ended."""
    return UNKNOWN if cell.now is None else SHOWN[cell.now.outcome]


def timing_on(cell: Cell, setup: str | None) -> Timing | None:
    """A cell's newest timing on a setup."""
    return next((timing for timing in cell.current if timing.setup == setup), None)


def _columns(page: Page) -> dict[str, list[str]]:
    """The precisions of each target that there are, the least exact last."""
    found: dict[str, list[str]] = {}
    for cell in page.cells:
        known = found.setdefault(cell.target, [])
        if cell.precision not in known:
            known.append(cell.precision)
    return {target: sorted(found[target], key=_exactness) for target in sorted(found)}


def _exactness(precision: str) -> tuple[int, str]:
    known = get_args(Precision)
    return (known.index(precision) if precision in known else len(known)), precision


def _matrix(page: Page) -> dict[str, dict[tuple[str, str], list[Cell]]]:
    """Of each model, its cells by target and precision."""
    rows: dict[str, dict[tuple[str, str], list[Cell]]] = {}
    for cell in page.cells:
        rows.setdefault(cell.model, {}).setdefault((cell.target, cell.precision), []).append(cell)
    return rows


def _counts(page: Page) -> dict[str, int]:
    told = [cell.now for cell in page.cells if cell.now is not None]
    timings = [timing for cell in page.cells for timing in cell.current]
    levels = [str(each.finding.level) for each in page.findings]
    return {
        "models": len({cell.model for cell in page.cells}),
        "targets": len({cell.target for cell in page.cells}),
        "works": sum(each.works for each in told),
        "fails": sum(not each.works and each.outcome != Outcome.UNAVAILABLE for each in told),
        "unavailable": sum(each.outcome == Outcome.UNAVAILABLE for each in told),
        "told": len(told),
        "errors": levels.count("error"),
        "warnings": levels.count("warning"),
        "valid": sum(timing.valid for timing in timings),
        "invalid": sum(not timing.valid for timing in timings),
    }


def _bytes(value: int | None) -> str:
    if value is None:
        return DASH
    return f"{value / 1e6:,.1f} MB" if value >= 1e6 else f"{value / 1e3:.1f} kB"


def _ms(value: float | None) -> str:
    """Milliseconds in three digits, or whole ones."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def _sci(value: float | None) -> str:
    return DASH if value is None or not math.isfinite(value) else f"{value:.1e}"


def _number(value: float | None, digits: int = 1) -> str:
    return DASH if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def _percent(value: float | None, digits: int = 1) -> str:
    return DASH if value is None or not math.isfinite(value) else f"{value:.{digits}%}"


def _figure(value: float | str | None) -> str:
    """A figure of a finding, before or after."""
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() else f"{value:.4g}"
    return DASH if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def short_time(text: str) -> str:
    """A time without seconds, in UTC; what is no time, as it is."""
    found = moment(text)
    return text if found.year == 1 else f"{found:%Y-%m-%d %H:%M}"


def _link(cell: str) -> str:
    """The part of a URL that names a cell."""
    return f"#cell={quote(cell, safe='/@:._-')}"


FILTERS = {
    "bytes": _bytes,
    "ms": _ms,
    "sci": _sci,
    "number": _number,
    "percent": _percent,
    "figure": _figure,
    "time": short_time,
    "cell_link": _link,
    "words": lambda text: re.sub("_", " ", str(text)),
}


def check_page(out: Path) -> None:
    """Raise `UserError` where a page cannot be written there, before anything is read."""
    fix = "name an .html file in a folder that is there"
    if out.suffix.lower() not in (".html", ".htm") or out.is_dir():
        raise UserError(f"a report is an .html file, and {str(out)!r} is none", fix=fix)
    if not out.parent.is_dir():
        raise UserError(f"there is no folder {str(out.parent)!r}", fix=fix)


def write_page(out: Path, text: str) -> int:
    """Write a page; it is whole, or what was there stays. Returns its bytes."""
    try:
        replace(out, text)
    except OSError as error:
        if error.errno in FULL:
            raise DeployKitError(f"there is no space left to write {str(out)!r}", fix="free some space") from error
        raise UserError(f"{str(out)!r} cannot be written: {error.strerror}", fix="choose another --out") from error
    return len(text.encode())
