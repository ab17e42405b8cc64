"""A Pareto front is only of what was measured, valid, and of one file; what is absent says why."""

from __future__ import annotations

from typing import Any

import pytest

from deploy_kit.report.data import Pareto
from deploy_kit.report.gather import gather
from deploy_kit.report.read import Source
from tests.report.support import entry_of, measurement_of, record_of_cell, result_of, sha_of, spec_of

SETUP = "adb:R5CT10, 1 thread"


def entry(model: str, right: int | None, p50: float | None, energy: float | None = None, **measured: Any) -> Any:
    score = None if right is None else {"right": right, "total": 100}
    result = result_of(spec_of(model), sha_of(model), accuracy=score)
    timings = [] if p50 is None else [measurement_of(record_of_cell(result), p50, energy_mj=energy, **measured)]
    return entry_of(result, measurements=timings)


def pareto_of(*entries: Any) -> Pareto:
    (found,) = gather([Source("s", "store", entries=list(entries))], "").pareto
    return found


def front(found: Pareto) -> set[str]:
    return {point.cell.split("/")[0] for point in found.points if point.front}


def reasons(found: Pareto) -> dict[str, str]:
    return {cell.split("/")[0]: f"{absent.what}: {absent.reason}" for absent in found.absent for cell in absent.cells}


def test_only_what_no_other_beats_is_on_the_front() -> None:
    found = pareto_of(entry("best", 90, 9.0), entry("fast", 70, 2.0), entry("beaten", 69, 3.0), entry("twin", 70, 2.0))
    assert front(found) == {"best", "fast", "twin"}
    assert [point.cell.split("/")[0] for point in found.points] == ["best", "fast", "twin", "beaten"]


def test_energy_is_a_third_reason_to_be_on_it() -> None:
    found = pareto_of(entry("quick", 80, 2.0, energy=9.0), entry("frugal", 80, 4.0, energy=3.0))
    assert front(found) == {"quick", "frugal"}


def test_who_has_no_energy_beats_nobody_who_has() -> None:
    found = pareto_of(entry("unknown", 90, 1.0), entry("known", 80, 2.0, energy=3.0))
    assert front(found) == {"unknown", "known"}
    assert reasons(found)["unknown"] == "energy: no meter is attached to it"


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        (entry("other", None, 1.0), "accuracy: no labelled inputs were asked"),
        (entry("other", 99, None), "latency: not measured on this setup"),
        (entry("other", 99, 1.0, reasons=["throttled"]), "latency: the measurement is not valid"),
        (entry("other", 99, 1.0, outputs="wrong"), "latency: the outputs were wrong"),
        (entry_of(result_of(spec_of("other"), outcome="mismatch")), "latency: there is no working artifact"),
    ],
)
def test_who_lacks_a_figure_is_absent_with_the_reason(missing: Any, reason: str) -> None:
    found = pareto_of(entry("there", 80, 2.0), missing)
    assert front(found) == {"there"}
    assert len(found.points) == 1
    assert reasons(found)["other"].startswith(reason)


def test_the_latency_of_another_file_is_not_set_against_this_files_accuracy() -> None:
    old = result_of(spec_of("net"), "a" * 64)
    new = result_of(spec_of("net"), "b" * 64, accuracy={"right": 9, "total": 10})
    measured = measurement_of(record_of_cell(old))
    found = pareto_of(entry_of(old, "a", 1, measurements=[measured]), entry_of(new, "b", 2))
    assert found.points == []
    assert reasons(found)["net"] == "latency: measured of another file than the accuracy"


def test_a_device_that_failed_is_the_reason_on_its_own_setup_alone() -> None:
    failed = entry_of(result_of(spec_of("net")), failures={"adb:R5CT10": "it is gone", "ssh:pi@board": "it is off"})
    found = pareto_of(entry("there", 80, 2.0), failed)
    assert [absent.reason for absent in found.absent if absent.what == "latency"] == ["it is gone"]


def test_nothing_measured_is_no_front() -> None:
    assert gather([Source("s", "store", entries=[entry("a", 90, None)])], "").pareto == []
