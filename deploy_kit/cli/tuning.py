"""What a search for the fastest form tried, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy_kit.cli.console import print_line, print_note, print_table

if TYPE_CHECKING:
    from deploy_kit.manifest import RatioRecord, TrialRecord, TuningRecord

UNTRIED = "not tried"
"""The result of a change that the budget did not reach."""

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
    if tuning.faster is None:
        print_line(f"{target}: nothing is better than the target's own form, which was kept")
    else:
        median, lowest, highest = _digits(tuning.faster)
        times = f"{median} ({lowest} to {highest}) {TIMES[tuning.unit]}"
        print_line(f"{target}: {', '.join(tuning.taken)}: {times} than its own form")
    for condition in tuning.conditions:
        print_note(f"{target}: {condition}")


def _result(trial: TrialRecord, tuning: TuningRecord) -> str:
    if not trial.taken:
        return trial.result
    return "faster: kept" if trial.change in tuning.taken else "faster, and not with the others: not kept"


def _digits(ratio: RatioRecord) -> tuple[str, str, str]:
    return f"{ratio.median:.3f}", f"{ratio.lowest:.3f}", f"{ratio.highest:.3f}"
