"""How a cell's result differs from what the baseline expects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deploy_kit.benchmarks.runners.choice import NATIVE
from deploy_kit.cells.recipe import CellSpec, Tolerances
from deploy_kit.cells.result import CellResult, InstructionCount, Score
from deploy_kit.check.baseline import UPDATE, Baseline, Known, fails_alike
from deploy_kit.check.findings import Finding, Kind, Level
from deploy_kit.outcome import Outcome

ACCEPT = f"mend it, or accept it where it is meant: {UPDATE}"

NOISE_RATIO, NOISE_DB = 2.0, 100.0
"""Errors that are as good as none, as those of float32 itself: right float32 artifacts have up to 3.5 times its error
in one case or another, most of them 0.5 to 2. What is better than these is only luck."""


def compare_cell(known: Known | None, result: CellResult, tolerances: Tolerances) -> list[Finding]:
    """What differs between a cell and what is expected of it; its latency is for `deploy_kit.check.latency`.

    A cell that the baseline does not know is a warning where it works, as nothing is lost and nothing protects it yet,
    and an error where it fails. A cell that cannot be tried, or proven, any more is an error: it may be broken.
    """
    cell = result.cell.id
    if known is None:
        return [_new(cell, result), *_unmeasured(cell, known, result)]
    if result.outcome == Outcome.UNAVAILABLE:
        return _unavailable(cell, known, result)
    if known.works and result.works:
        return _figures(cell, known, result, tolerances)
    what, before, after = _told(result), str(known.outcome), str(result.outcome)
    if known.works:
        text = f"worked ({before}), and fails now: {what}"
        return [_finding(Kind.WORKS_TO_FAILS, Level.ERROR, cell, text, before, after, ACCEPT)]
    if result.works:
        text = f"was expected to fail ({before}), and works now ({after}): the expected failure must be updated"
        return [_finding(Kind.FAILS_TO_WORKS, Level.ERROR, cell, text, before, after, UPDATE)]
    if fails_alike(known, result):
        return []
    text = f"was expected to fail ({before}: {known.reason}), and fails otherwise now: {what}"
    return [_finding(Kind.FAILS_OTHERWISE, Level.WARNING, cell, text, before, after, ACCEPT)]


def gone(baseline: Baseline, cells: Iterable[CellSpec], elsewhere: Iterable[CellSpec] = ()) -> list[Finding]:
    """The cells that the baseline expects and a whole recipe does not have, and those that it does not have here.

    Args:
        elsewhere: what the recipe has where their targets are installed, as `Recipe.elsewhere` says: one finding a
            target, of its first cell.
    """
    others = {cell.id: cell.target for cell in elsewhere if cell.id in baseline.cells}
    there = {cell.id for cell in cells} | set(others)
    return [
        _finding(
            Kind.GONE_CELL,
            Level.WARNING,
            cell,
            f"is in the baseline ({known.outcome}), and no longer in the recipe: nothing checks it",
            str(known.outcome),
            None,
            f"put it back into the recipe, or forget it: {UPDATE}",
        )
        for cell, known in sorted(baseline.cells.items())
        if cell not in there
    ] + [
        _untried(target, sorted(cell for cell, its in others.items() if its == target))
        for target in sorted(set(others.values()))
    ]


def _untried(target: str, cells: Sequence[str]) -> Finding:
    """Cells of the baseline whose target is not installed here; they stay in it."""
    first, *more = cells
    if more:
        others = f"{len(more)} other cell{'s' if len(more) > 1 else ''} of the baseline"
        text = f"cannot be tried here, nor can {others}, as {target} is not installed: they stay as they are expected"
    else:
        text = f"cannot be tried here, as {target} is not installed: it stays as it is expected"
    fix = "install what the target needs: deploykit doctor"
    return _finding(Kind.NOT_COMPARED, Level.WARNING, first, text, fix=fix)


def _finding(
    kind: Kind,
    level: Level,
    cell: str,
    message: str,
    before: float | str | None = None,
    after: float | str | None = None,
    fix: str = "",
) -> Finding:
    return Finding(kind=kind, level=level, cell=cell, message=message, before=before, after=after, fix=fix)


def _told(result: CellResult) -> str:
    return f"{result.outcome}: {result.reason}" if result.reason else str(result.outcome)


def _new(cell: str, result: CellResult) -> Finding:
    after = str(result.outcome)
    if result.works:
        text = f"is not in the baseline, and works ({after}): nothing protects it yet"
        return _finding(Kind.NEW_CELL, Level.WARNING, cell, text, None, after, f"add it: {UPDATE}")
    if result.outcome == Outcome.UNAVAILABLE:
        text = f"is not in the baseline, and cannot be tried here: {_told(result)}"
        return _finding(Kind.NEW_CELL, Level.WARNING, cell, text, None, after, "install what its target needs")
    text = f"is not in the baseline, and fails: {_told(result)}"
    return _finding(Kind.NEW_CELL, Level.ERROR, cell, text, None, after, f"mend it, or expect the failure: {UPDATE}")


def _unavailable(cell: str, known: Known, result: CellResult) -> list[Finding]:
    fix = "install what its target needs, or check only the targets that are installed: --target"
    before, after = str(known.outcome), str(result.outcome)
    if known.works:
        text = f"worked ({before}), and cannot be tried here: {_told(result)}"
        return [_finding(Kind.WORKS_TO_FAILS, Level.ERROR, cell, text, before, after, fix)]
    if known.outcome == Outcome.UNAVAILABLE:
        return []
    text = f"was expected to fail ({before}), and cannot be tried here: {_told(result)}"
    return [_finding(Kind.NOT_COMPARED, Level.WARNING, cell, text, before, after, fix)]


def _figures(cell: str, known: Known, result: CellResult, tolerances: Tolerances) -> list[Finding]:
    return [
        *_proof(cell, known, result),
        *_undelegated(cell, known, result),
        *_size(cell, known.bytes, result.bytes, tolerances.size),
        *_error(cell, known, result, tolerances.error),
        *_accuracy(cell, known, result, tolerances.accuracy),
        *_instructions(cell, known, result, tolerances.instructions),
        *_unmeasured(cell, known, result),
    ]


def _proof(cell: str, known: Known, result: CellResult) -> list[Finding]:
    """Whether the artifact is still proven."""
    before, after = str(known.outcome), str(result.outcome)
    unproven = [outcome == Outcome.EMITTED_UNVERIFIED for outcome in (known.outcome, result.outcome)]
    if unproven == [False, True]:
        text = f"was proven ({before}), and nothing here can run it now ({after}): it may compute anything"
        fix = "install the target's runtime: `deploykit doctor` says how"
        return [_finding(Kind.NOT_COMPARED, Level.ERROR, cell, text, before, after, fix)]
    if unproven == [True, False]:
        text = f"was not proven ({before}), and is now ({after})"
        return [_finding(Kind.NOT_COMPARED, Level.NOTE, cell, text, before, after, f"expect the proof: {UPDATE}")]
    return []


def _lost(
    cell: str, what: str, result: CellResult, name: str, before: float | str | None, level: Level = Level.WARNING
) -> list[Finding]:
    """A figure that the baseline has and the result has not."""
    text = f"{what} is not known now: {result.unavailable.get(name, 'it was not asked for')}"
    fix = f"mend that, or forget the figure: {UPDATE}"
    return [_finding(Kind.NOT_COMPARED, level, cell, text, before, None, fix)]


def _unmeasured(cell: str, known: Known | None, result: CellResult) -> list[Finding]:
    """The figures that were asked for, and that neither the baseline nor the result has.

    Instructions are asked for of the targets with a native runner alone, and no other one has any.
    """
    fix, found = "mend that, or no longer ask for it in the recipe", []
    for name, why in result.unavailable.items():
        asked = name != "instructions" or result.cell.target in NATIVE
        if asked and (known is None or getattr(known, name, None) is None):
            text = f"its {name}, asked for in the recipe, cannot be known: {why}"
            found.append(_finding(Kind.NOT_COMPARED, Level.WARNING, cell, text, fix=fix))
    return found


def _unknown(cell: str, what: str, after: float | str | None) -> list[Finding]:
    """A figure that the result has and the baseline has not."""
    text = f"{what} is not in the baseline: there is nothing to compare it with"
    return [_finding(Kind.NOT_COMPARED, Level.NOTE, cell, text, None, after, f"add it: {UPDATE}")]


def _undelegated(cell: str, known: Known, result: CellResult) -> list[Finding]:
    """Operators that no delegate takes: any more of any kind is a regression."""
    before, after = known.undelegated, result.undelegated
    if before is None and after is None:
        if (known.outcome, result.outcome) != (Outcome.OK, Outcome.OK_UNDELEGATED):
            return []
        text = "a convolution or matrix product runs outside the accelerated part, and did not before"
        return [_finding(Kind.UNDELEGATED, Level.ERROR, cell, text, "ok", "ok_undelegated", ACCEPT)]
    if after is None:
        return _lost(cell, "what is delegated", result, "undelegated", sum((before or {}).values()))
    if before is None:
        return _unknown(cell, "what is delegated", sum(after.values()))
    names = sorted({*before, *after})
    more = {name: by for name in names if (by := after.get(name, 0) - before.get(name, 0)) > 0}
    fewer = {name: -by for name in names if (by := after.get(name, 0) - before.get(name, 0)) < 0}
    totals = sum(before.values()), sum(after.values())
    counted = f"{totals[0]} operators ran outside the delegate, and {totals[1]} do now"
    if more:
        listed = ", ".join(f"{count} more {name}" for name, count in more.items())
        fix = f"see `deploykit lint`; {ACCEPT}"
        return [_finding(Kind.UNDELEGATED, Level.ERROR, cell, f"{counted}: {listed}", *totals, fix)]
    if fewer:
        listed = ", ".join(f"{count} fewer {name}" for name, count in fewer.items())
        return [_finding(Kind.UNDELEGATED, Level.NOTE, cell, f"{counted}: {listed}", *totals, UPDATE)]
    return []


def _size(cell: str, before: int | None, after: int | None, tolerance: float) -> list[Finding]:
    if before is None or after is None or before == 0 or abs(after - before) <= tolerance * before:
        return []
    text = f"the files have {after:,} bytes, and had {before:,}: {_percent(after / before - 1)}"
    if after > before:
        text += f", over the tolerance of {tolerance:.2%}"
        return [_finding(Kind.SIZE, Level.ERROR, cell, text, before, after, ACCEPT)]
    return [_finding(Kind.SIZE, Level.NOTE, cell, text, before, after, UPDATE)]


def _percent(part: float) -> str:
    return f"{part:+.2%}"


def _error(cell: str, known: Known, result: CellResult, tolerance: float) -> list[Finding]:
    """How far the artifact is from the model.

    For float32 that is how many times float32's own error it has, as its SNR is also that of the model's conditioning,
    which another random weight changes; for less precision it is the SNR, as float32's own error says nothing there.
    Both are taken as amplitudes, and what is better than `NOISE_RATIO` or `NOISE_DB` counts as that.
    """
    if result.cell.precision == "fp32":
        name, before, after = "noise_ratio", known.noise_ratio, result.noise_ratio
        told = "{:.3g} times float32's own error"
    else:
        name, before, after = "snr_db", known.snr_db, result.snr_db
        told = "an SNR of {:.1f} dB"
    if before is None or after is None:
        if before is not None:
            return _lost(cell, "its error", result, name, before)
        return [] if after is None else _unknown(cell, "its error", after)
    if result.cell.precision == "fp32":
        times = max(after, NOISE_RATIO) / max(before, NOISE_RATIO)
    else:
        times = 10 ** ((min(before, NOISE_DB) - min(after, NOISE_DB)) / 20)
    text = f"it has {told.format(after)}, and had {told.format(before)}: the error is {times:.2f} times as large"
    if times > 1 + tolerance:
        text += f", over the {1 + tolerance:g} times that are tolerated"
        return [_finding(Kind.ERROR, Level.ERROR, cell, text, before, after, ACCEPT)]
    if times * (1 + tolerance) < 1:
        return [_finding(Kind.ERROR, Level.NOTE, cell, text, before, after, UPDATE)]
    return []


def _accuracy(cell: str, known: Known, result: CellResult, tolerance: float) -> list[Finding]:
    before, after = known.accuracy, result.accuracy
    if before is None or after is None:
        if before is not None:
            return _lost(cell, "its accuracy", result, "accuracy", _share(before))
        return [] if after is None else _unknown(cell, "its accuracy", _share(after))
    shares = _share(before), _share(after)
    if before.total != after.total:
        text = f"it was asked {after.total} labelled inputs, and {before.total} before: they do not compare"
        return [_finding(Kind.NOT_COMPARED, Level.WARNING, cell, text, *shares, UPDATE)]
    text = f"it has {after.right} of {after.total} right ({shares[1]:.2%}), and had {before.right} ({shares[0]:.2%})"
    if before.right - after.right > tolerance * before.total:
        text += f", over the tolerance of {100 * tolerance:g} points"
        return [_finding(Kind.ACCURACY, Level.ERROR, cell, text, *shares, ACCEPT)]
    if after.right - before.right > tolerance * before.total:
        return [_finding(Kind.ACCURACY, Level.NOTE, cell, text, *shares, UPDATE)]
    return []


def _share(score: Score) -> float:
    return score.right / score.total if score.total else 0.0


def _instructions(cell: str, known: Known, result: CellResult, tolerance: float) -> list[Finding]:
    """Exact: the same file on the same emulator has the same count on every run."""
    before, after = known.instructions, result.instructions
    if before is None or after is None:
        if before is not None:
            return _lost(cell, "its instructions", result, "instructions", before.count)
        return [] if after is None else _unknown(cell, "its instructions", after.count)
    if before.pins != after.pins:
        text = f"its instructions were counted under other conditions ({_pins(before, after)}): they do not compare"
        return [_finding(Kind.NOT_COMPARED, Level.NOTE, cell, text, before.count, after.count, UPDATE)]
    if before.count == after.count:
        return []
    text = f"an inference is {after.count:,} ARM instructions, and was {before.count:,}"
    text += f": {_percent(after.count / before.count - 1)}" if before.count else ""
    if after.count > before.count * (1 + tolerance):
        text += f", over the tolerance of {tolerance:.2%}" if tolerance else ""
        return [_finding(Kind.INSTRUCTIONS, Level.ERROR, cell, text, before.count, after.count, ACCEPT)]
    if after.count < before.count:
        return [_finding(Kind.INSTRUCTIONS, Level.NOTE, cell, text, before.count, after.count, UPDATE)]
    return []


def _pins(before: InstructionCount, after: InstructionCount) -> str:
    names = sorted({*before.pins, *after.pins})
    return ", ".join(
        f"{name} {before.pins.get(name, 'none')} before, {after.pins.get(name, 'none')} now"
        for name in names
        if before.pins.get(name) != after.pins.get(name)
    )
