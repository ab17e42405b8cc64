"""What a search for the fastest form tried, as a table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from deploy_kit.cli.console import print_line, print_note, print_table

if TYPE_CHECKING:
    from deploy_kit.manifest import RatioRecord, TrialRecord, TuningRecord

TIMES = {"seconds": "times faster", "instructions": "times fewer instructions"}
"""What a ratio says, by what was measured."""


def print_tuning(target: str, tuning: TuningRecord) -> None:
    """Print a table of everything that was tried, and what came of it."""
    print_table(
        f"{target}: what was tried on {tuning.device} ({tuning.described}), {tuning.threads} thread, each proven",
        ["change", TIMES[tuning.unit], "lowest", "highest", "result"],
        [
            (
                trial.change,
                *((None,) * 3 if trial.faster is None else _digits(trial.faster)),
                _result(trial, tuning),
            )
            for trial in tuning.trials
        ],
    )
    print_line(f"{target}: {_verdict(tuning)}")
    if not tuning.complete:
        untried = len(tuning.trials) - tuning.tried
        were, them = ("was", "it") if untried == 1 else ("were", "them")
        left = f"{untried} of {len(tuning.trials)} changes {were} not tried"
        longer = "" if tuning.tried else f" and a --tune-budget of more than {math.ceil(tuning.spent_s)}s"
        print_note(f"{target}: {left}; the same command with --force{longer} goes on with {them}")
    for condition in tuning.conditions:
        print_note(f"{target}: {condition}")


def _verdict(tuning: TuningRecord) -> str:
    """What came of a search, and of how many changes, where it did not try them all."""
    some = f"{tuning.tried} of {len(tuning.trials)} changes"
    were = "was" if tuning.tried == 1 else "were"
    if tuning.faster is not None:
        median, lowest, highest = _digits(tuning.faster)
        times = f"{median} ({lowest} to {highest}) {TIMES[tuning.unit]} than its own form"
        return f"{', '.join(tuning.taken)}: {times}" + ("" if tuning.complete else f"; {some} {were} tried")
    if tuning.complete:
        return "nothing is better than the target's own form, which was kept"
    if not tuning.tried:
        within = f"within {tuning.budget_s:g} s"
        return f"none of {len(tuning.trials)} changes was tried {within}, and the target's own form was kept"
    return f"of the {some} that {were} tried none is better than the target's own form, which was kept"


def _result(trial: TrialRecord, tuning: TuningRecord) -> str:
    if not trial.taken:
        return trial.result
    return "faster: kept" if trial.change in tuning.taken else "faster, and not with the others: not kept"


def _digits(ratio: RatioRecord) -> tuple[str, str, str]:
    return f"{ratio.median:.3f}", f"{ratio.lowest:.3f}", f"{ratio.highest:.3f}"
