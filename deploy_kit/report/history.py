"""What changed from one export of a cell to the next: facts alone.

A latency of one run is not compared with that of another here: their conditions differ. `deploykit compare` and a
check run both in turn, and what they find is shown as theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise

from deploy_kit.cells.recipe import Tolerances
from deploy_kit.check.findings import Level
from deploy_kit.outcome import Outcome
from deploy_kit.report.data import Cell, Change, Export

USUAL = Tolerances()
"""What is too small to be told."""

DECIBELS = 3.0
"""A fall of the SNR that is told: the error's power has doubled."""


def moment(text: str) -> datetime:
    """A time of a document; one that is none is before all others."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def changes_of(cells: Iterable[Cell]) -> list[Change]:
    """Every change, the newest first."""
    found = [
        change
        for cell in cells
        for before, after in pairwise(cell.exports)
        if Outcome.UNAVAILABLE not in (before.outcome, after.outcome)
        for change in _between(cell, before, after)
    ]
    return sorted(found, key=lambda change: moment(change.created))[::-1]  # of one second, the last first


def _between(cell: Cell, before: Export, after: Export) -> Iterator[Change]:
    change = partial(_change, cell, after)
    if before.outcome != after.outcome:
        broke, mended = before.works and not after.works, after.works and not before.works
        level = Level.ERROR if broke else Level.NOTE if mended else Level.WARNING
        text = "it no longer works" if broke else "it works now" if mended else "it ends otherwise"
        why = f": {after.reason}" if broke and after.reason else ""
        yield change("outcome", level, f"{text}{why}", str(before.outcome), str(after.outcome))
    if before.bytes and after.bytes and abs(after.bytes / before.bytes - 1) > USUAL.size:
        level = Level.WARNING if after.bytes > before.bytes else Level.NOTE
        part = after.bytes / before.bytes - 1
        yield change("size", level, f"the files are {abs(part):.1%} {_more(part)}", before.bytes, after.bytes)
    yield from _error(cell, before, after)
    old, new = before.accuracy, after.accuracy
    if old and new and old.total == new.total and old.right != new.right:
        worse = new.right < old.right
        text = f"{abs(new.right - old.right)} {'fewer' if worse else 'more'} of {new.total} inputs are right"
        yield change("accuracy", Level.WARNING if worse else Level.NOTE, text, old.share, new.share)
    a, b = before.instructions, after.instructions
    if a and b and a.pins == b.pins and a.count and a.count != b.count:
        part = b.count / a.count - 1
        level = Level.WARNING if part > 0 else Level.NOTE
        yield change("instructions", level, f"{abs(part):.2%} {_more(part, 'more', 'fewer')}", a.count, b.count)


def _change(
    cell: Cell, after: Export, what: str, level: Level, message: str, old: float | str, new: float | str
) -> Change:
    known = {"created": after.created, "run": after.run, "commit": after.commit}
    return Change.model_validate(
        {"cell": cell.id, "what": what, "level": level, "message": message, "before": old, "after": new, **known}
    )


def _error(cell: Cell, before: Export, after: Export) -> Iterator[Change]:
    """The error, as its precision is judged: fp32 against its own noise, the others by their SNR."""
    change = partial(_change, cell, after)
    if cell.precision == "fp32":
        old, new = before.noise_ratio, after.noise_ratio
        if old and new and new > old * (1 + USUAL.error):
            yield change("error", Level.WARNING, "the error over float32's own has more than doubled", old, new)
        return
    old, new = before.snr_db, after.snr_db
    if old is not None and new is not None and new < old - DECIBELS:
        yield change("error", Level.WARNING, f"the SNR is {old - new:.1f} dB lower", old, new)


def _more(part: float, more: str = "larger", less: str = "smaller") -> str:
    return more if part > 0 else less
