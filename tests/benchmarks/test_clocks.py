"""The clocks that runners look at while they time: between inferences, and not often."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest

from deploy_kit.benchmarks.measurement import Clocks
from deploy_kit.benchmarks.runners import python_runner
from deploy_kit.benchmarks.runners.python_runner import ClockReader


def cpus(folder: Path, clocks: dict[int, str]) -> Path:
    """A folder as ``/sys/devices/system/cpu``, with these clocks in kHz."""
    for core, khz in clocks.items():
        (folder / f"cpu{core}" / "cpufreq").mkdir(parents=True)
        (folder / f"cpu{core}" / "cpufreq" / "scaling_cur_freq").write_text(f"{khz}\n")
    (folder / "possible").write_text(f"0-{max(clocks)}\n")
    return folder


@pytest.fixture
def two_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cpu"
    monkeypatch.setattr(python_runner, "CPUS", str(cpus(folder, {0: "1804800", 1: "2841600", 2: "<unknown>"})))
    return folder


def test_the_cores_in_force_are_read_and_what_is_no_number_is_left_out(two_cores: Path) -> None:
    assert ClockReader([0, 2, 5]).looks[0]["mhz"] == {"0": 1804}
    assert ClockReader([1]).looks[0]["mhz"] == {"1": 2841}
    assert ClockReader([2]).looks == []


def test_a_clock_that_moves_while_inferences_are_timed_is_seen(
    two_cores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(python_runner, "LOOK_EVERY_NS", 20_000_000)
    reader, calls = ClockReader([0]), 0

    def infer() -> list[int]:
        nonlocal calls
        calls += 1
        khz = "900000" if 20 <= calls < 60 else "1804800"
        (two_cores / "cpu0" / "cpufreq" / "scaling_cur_freq").write_text(khz)
        time.sleep(0.002)
        return []

    begun = time.perf_counter_ns()
    samples, _ = python_runner._time(infer, 100, lambda _: None, reader.look_again)
    took = time.perf_counter_ns() - begun
    reader.look()
    looks = [Clocks.model_validate(look) for look in reader.looks]
    assert {look.mhz[0] for look in looks} == {900, 1804}
    assert looks[0].mhz == looks[-1].mhz
    assert 5 <= len(looks) <= took // 20_000_000 + 2
    between = [later.at_ns - sooner.at_ns for sooner, later in pairwise(looks[:-1])]
    assert min(between) >= 20_000_000
    assert len(samples) == 100


def test_a_look_is_no_part_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, _ = python_runner._time(lambda: [], 5, lambda _: None, lambda: time.sleep(0.02))
    assert max(samples) < 10_000_000
