"""Cells and results that no export made."""

from __future__ import annotations

from typing import Any

from deploy_kit.benchmarks.comparison import Ratio
from deploy_kit.cells.recipe import CellSpec
from deploy_kit.cells.result import CellResult, InstructionCount, Score
from deploy_kit.check.baseline import Known, known_of
from deploy_kit.check.findings import Checked, CheckReport, Finding
from deploy_kit.outcome import Outcome

PINS = {"emulator": "7.2", "cpu": "cortex-a76"}


def cell(model: str = "net", target: str = "executorch", precision: Any = "fp32") -> CellSpec:
    return CellSpec(model=model, target=target, precision=precision)


def working(spec: CellSpec | None = None, **other: Any) -> CellResult:
    """A cell that works, with a figure of every kind."""
    figures: dict[str, Any] = {
        "outcome": Outcome.OK,
        "bytes": 1_000_000,
        "sha256": "a" * 64,
        "snr_db": 130.04,
        "noise_ratio": 1.23456,
        "max_relative_error": 1.23456e-7,
        "operators": {"conv": 5, "sin": 1},
        "undelegated": {"aten.sin.default": 1},
        "accuracy": Score(right=90, total=100),
        "instructions": InstructionCount(count=5_000_000, pins=PINS),
        "seconds": 3.0,
        "created": "2026-01-02T03:04:05+00:00",
    }
    return CellResult(cell=spec or cell(), **{**figures, **other})


def failing(
    outcome: Outcome = Outcome.EXPORT_FAILED, reason: str | None = "no such operator", spec: CellSpec | None = None
) -> CellResult:
    return CellResult(
        cell=spec or cell(), outcome=outcome, reason=reason, seconds=1.5, created="2026-01-02T03:04:05+00:00"
    )


def checked(result: CellResult, *findings: Finding, key: str = "k1", ratio: Ratio | None = None) -> Checked:
    return Checked(result=result, findings=list(findings), key=key, cached=False, ratio=ratio)


def known(result: CellResult, **other: Any) -> Known:
    return known_of(checked(result)).model_copy(update=other)


def report(*cells: Checked, findings: tuple[Finding, ...] = (), baseline: str | None = None) -> CheckReport:
    return CheckReport(
        created="2026-01-02T03:04:05+00:00",
        commit="c0ffee",
        baseline=baseline,
        seconds=12.5,
        cells=list(cells),
        findings=list(findings),
    )
