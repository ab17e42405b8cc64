"""Energy by meters whose files are played here: windows, wraps, signs, charging, and what is refused."""

from __future__ import annotations

import json
import os
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.energy import measure
from deploy_kit.benchmarks.energy.base import Meter, MeterError, Recording, Series, of_counter, of_counters, of_powers
from deploy_kit.benchmarks.energy.battery import Battery, parse, power
from deploy_kit.benchmarks.energy.measure import choose_meter, iterations_for, measure_energy
from deploy_kit.benchmarks.energy.rails import Rails, energies
from deploy_kit.benchmarks.energy.rapl import Rapl
from deploy_kit.benchmarks.energy.sampler import in_thread, on_device, readings
from deploy_kit.benchmarks.harness import bench
from deploy_kit.benchmarks.measurement import Round, RunnerResult
from deploy_kit.benchmarks.protocol import Protocol
from deploy_kit.benchmarks.runners.base import Job
from deploy_kit.benchmarks.runners.program import Program
from deploy_kit.devices.base import Device, DeviceError, DeviceState
from deploy_kit.devices.local import Local
from deploy_kit.errors import UserError
from tests.benchmarks.support import round_of, runner_document
from tests.benchmarks.test_harness import DOCUMENT, UNPLUGGED, Folder, script, writes


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle device is looked at for less time than outside of tests."""
    monkeypatch.setattr(measure, "IDLE_S", 0.4)
    monkeypatch.setattr(measure, "SETTLE_S", 0.1)
    monkeypatch.setattr(measure, "AFTER_S", 0.08)


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Load:
    """A device whose power is 1 W, and 3 W while it is busy."""

    def __init__(self) -> None:
        self.begun, self.stretches = now(), []  # type: ignore[var-annotated]
        self.busy_since: float | None = None

    def joules(self) -> float:
        busy = sum(end - begin for begin, end in self.stretches)
        busy += now() - self.busy_since if self.busy_since is not None else 0.0
        return now() - self.begun + 2 * busy

    def run(
        self, seconds: float, before: DeviceState = UNPLUGGED, after: DeviceState = UNPLUGGED, iterations: int = 50
    ) -> Round:
        """A run of the runner that is busy in its window only."""
        self.busy_since = begin = now()
        time.sleep(seconds)
        end = now()
        self.busy_since = None
        self.stretches.append((begin, end))
        samples = [int((end - begin) * 1e9) // iterations] * iterations
        return round_of(samples, before, after, load_ns=1, window_ns=[int(begin * 1e9), int(end * 1e9)])


@contextmanager
def playing(work: Callable[[], None], every: float = 0.005) -> Iterator[None]:
    """Do something again and again beside the body, and once before it."""

    def again(stop: threading.Event) -> None:
        while not stop.wait(every):
            work()

    work()
    with in_thread(again, "the play"):
        yield


def replace(path: Path, text: str) -> None:
    """Write a file whole, as files in /sys are."""
    part = path.with_name(f".{path.name}")
    part.write_text(text)
    part.replace(path)


# Series.


def test_energy_of_a_part_of_a_series() -> None:
    series = Series("x", [0.0, 1.0, 3.0], [2.0, 5.0])
    assert series.energy(0.0, 3.0) == 12.0
    assert series.energy(0.5, 2.0) == 1.0 + 5.0
    assert series.powers(0.5, 1.0) == [2.0]
    assert series.updates(0.5, 3.0) == 2
    for begin, end in ((-0.1, 1.0), (0.0, 3.1)):
        with pytest.raises(MeterError, match="no samples of a part of the window"):
            series.energy(begin, end)


def test_a_counter_that_stands_still_says_nothing_new() -> None:
    series = of_counter("x", [(0, 0), (1, 0), (2, 4), (3, 4), (4, 4), (5, 10)])
    assert (series.times, series.watts) == ([0, 2, 5], [2.0, 2.0])
    with pytest.raises(MeterError, match="went back"):
        of_counter("x", [(0, 5), (1, 4)])


def test_a_counter_that_stands_still_while_another_moves_is_at_no_power() -> None:
    looks = [0, 1, 1, 2, 3]
    rarely, often = of_counters(
        {"rarely": list(enumerate([0, 0, 0, 6, 6])), "often": list(enumerate(float(each) for each in looks))}
    )
    assert (rarely.times, rarely.watts) == ([0, 1, 3, 4], [0, 3, 0])
    assert (often.times, often.watts) == ([0, 1, 3, 4], [1, 0.5, 1])
    assert rarely.energy(0, 4) == 6


def test_a_power_holds_until_the_next() -> None:
    assert of_powers("x", [(0, 2.0), (1, 3.0), (4, 9.0)]).energy(0, 4) == 2 + 9


# RAPL.


def zone(root: Path, number: str, name: str, microjoules: int = 0, most: int = 1 << 32) -> Path:
    folder = root / "sys/class/powercap" / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    for file, text in (("name", name), ("energy_uj", str(microjoules)), ("max_energy_range_uj", str(most))):
        (folder / file).write_text(f"{text}\n")
    return folder


def test_processors_and_their_memory_are_added_up_over_a_wrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, most = Load(), 2_000_000
    package, dram = zone(tmp_path, "0", "package-0", most=most), zone(tmp_path, "0:1", "dram")
    others = [zone(tmp_path, "0:0", "core"), zone(tmp_path, "1", "psys")]

    def tell() -> None:
        microjoules = int(load.joules() * 1e6)
        replace(package / "energy_uj", str((microjoules + most // 2) % most))
        replace(dram / "energy_uj", str(microjoules // 10))
        for other in others:
            replace(other / "energy_uj", str(microjoules * 7))

    meter = Rapl(tmp_path)
    monkeypatch.setattr(meter, "period_s", 0.02)
    assert meter.unavailable(Local()) is None
    with playing(tell):
        found = measure_energy(Local(), meter, lambda: load.run(1.0), 50, 20e6)
    assert found.mj_per_inference == pytest.approx(2.2 * found.window_s * 1e3 / 50, rel=0.1)
    assert found.parts_mj == {
        "package-0 (0)": pytest.approx(2.0 * found.window_s * 1e3 / 50, rel=0.1),
        "dram (0:1)": pytest.approx(0.2 * found.window_s * 1e3 / 50, rel=0.15),
    }
    assert found.baseline_mw == pytest.approx(1100, rel=0.1)
    assert found.total_mj == pytest.approx(3.3 * found.window_s * 1e3, rel=0.1)
    assert (found.method, found.iterations, found.baseline_s) == ("rapl", 50, 0.4)


def test_memory_that_is_hardly_used_does_not_keep_the_processor_from_being_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, package, dram = Load(), zone(tmp_path, "0", "package-0"), zone(tmp_path, "0:1", "dram")
    begun = now()

    def tell() -> None:
        replace(package / "energy_uj", str(int(load.joules() * 1e6)))
        replace(dram / "energy_uj", "2000" if now() > begun + 1.0 else "0")

    meter = Rapl(tmp_path)
    monkeypatch.setattr(meter, "period_s", 0.02)
    with playing(tell):
        found = measure_energy(Local(), meter, lambda: load.run(1.0), 50, 20e6)
    assert found.mj_per_inference == pytest.approx(2.0 * found.window_s * 1e3 / 50, rel=0.1)
    assert found.parts_mj["dram (0:1)"] == pytest.approx(2 / 50, rel=0.1)
    assert found.samples > 20


def test_a_wrap_of_an_unknown_range_is_no_energy(tmp_path: Path) -> None:
    folder, values = zone(tmp_path, "0", "package-0"), iter([9_000_000, 1_000_000, *range(2_000_000, 9_000_000, 10)])
    (folder / "max_energy_range_uj").unlink()
    with (
        pytest.raises(MeterError, match="its range is not known"),
        playing(lambda: replace(folder / "energy_uj", str(next(values))), 0.1),
    ):
        measure_energy(Local(), Rapl(tmp_path), lambda: Load().run(0.2), 50, 30e6)


def test_a_counter_that_goes_away_in_the_window(tmp_path: Path) -> None:
    folder = zone(tmp_path, "0", "package-0")

    def run() -> Round:
        (folder / "energy_uj").unlink()
        return Load().run(0.3)

    with pytest.raises(MeterError, match=r"the processor's counter was lost while it measured: .*No such file"):
        measure_energy(Local(), Rapl(tmp_path), run, 50, 30e6)


def test_no_counters(tmp_path: Path) -> None:
    assert "no energy counters" in str(Rapl(tmp_path).unavailable(Local()))
    assert "this machine only" in str(Rapl(tmp_path).unavailable(Folder(tmp_path)))


def test_counters_that_only_root_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = zone(tmp_path, "0", "package-0")
    (folder / "energy_uj").chmod(0)
    if os.geteuid() == 0:  # who is root may read all the same
        real = Path.read_text

        def read_text(path: Path, *words: str) -> str:
            if path.name == "energy_uj":
                raise PermissionError(13, "Permission denied")
            return real(path, *words)

        monkeypatch.setattr(Path, "read_text", read_text)
    reason = Rapl(tmp_path).unavailable(Local())
    assert reason is not None
    assert reason.startswith("only root may read the energy counters")
    assert "chmod" in reason


# Power rails.

ODPM = """t={ms}
CH0(T=358356)[S1M_VDD_CPUCL0], {little}
CH3(T=358356)[S2M_VDD_CPUCL2], {big}
CH5(T=358356)[VSYS_PWR_CAM], 0
"""

DUMP = """
============= PowerStats HAL 2.0 energy consumers ==============
                            CPUCL0            {big:.2f} mWs
========== End of PowerStats HAL 2.0 energy consumers ==========

============= PowerStats HAL 2.0 energy meter ==============
                           Channel    Cumulative Energy
           [S2M_VDD_CPUCL2]:CPU(BIG)          {big:.2f} mWs
      [L15M_VDD_SLC_M]:SLC                    12.25 mWs
========== End of PowerStats HAL 2.0 energy meter ==========
"""


def test_both_forms_of_rails_are_read() -> None:
    assert energies(ODPM.format(ms=9000, little=250_000, big=1_500_000)) == {
        "S1M_VDD_CPUCL0": (9.0, 0.25),
        "S2M_VDD_CPUCL2": (9.0, 1.5),
        "VSYS_PWR_CAM": (9.0, 0.0),
    }
    meter = DUMP[DUMP.index("energy meter") :].format(big=1500)
    assert energies(meter) == {"S2M_VDD_CPUCL2": (None, 1.5), "L15M_VDD_SLC_M": (None, 0.01225)}
    assert energies("Can't find service") == {}


def test_rails_from_the_kernels_file(tmp_path: Path) -> None:
    load, folder = Load(), tmp_path / "root" / "sys/bus/iio/devices/iio:device0"
    folder.mkdir(parents=True)

    def tell() -> None:
        little, big = int(load.joules() * 2e5), int(load.joules() * 8e5)
        replace(folder / "energy_value", ODPM.format(ms=int(now() * 1e3), little=little, big=big))

    device, meter = Folder(tmp_path), Rails(str(tmp_path / "root"), period_s=0.03)
    with playing(tell):
        assert meter.unavailable(device) is None
        found = measure_energy(device, meter, lambda: load.run(1.0), 50, 20e6)
    assert found.mj_per_inference == pytest.approx(2.0 * found.window_s * 1e3 / 50, rel=0.15)
    assert set(found.parts_mj) == {"S1M_VDD_CPUCL0", "S2M_VDD_CPUCL2"}
    assert [path.name for path in tmp_path.iterdir()] == ["root"], "the device was not left clean"


def test_rails_from_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, told = Load(), tmp_path / "told"
    dumpsys = tmp_path / "bin" / "dumpsys"
    dumpsys.parent.mkdir()
    dumpsys.write_text(f"#!/bin/sh\nexec cat {shlex.quote(str(told))}\n")
    dumpsys.chmod(0o755)
    monkeypatch.setenv("PATH", f"{dumpsys.parent}:{os.environ['PATH']}")
    device, meter = Folder(tmp_path), Rails(str(tmp_path / "none"), period_s=0.03)
    with playing(lambda: replace(told, DUMP.format(big=load.joules() * 1e3))):
        assert meter.unavailable(device) is None
        found = measure_energy(device, meter, lambda: load.run(1.0), 50, 20e6)
    assert found.mj_per_inference == pytest.approx(2.0 * found.window_s * 1e3 / 50, rel=0.15)
    assert set(found.parts_mj) == {"S2M_VDD_CPUCL2"}, "the estimates of consumers are no rails"


def test_a_phone_without_rails(tmp_path: Path) -> None:
    assert "Pixel 6" in str(Rails(str(tmp_path)).unavailable(Folder(tmp_path)))
    assert Rails(str(tmp_path)).unavailable(Local()) == "only Android phones have them"


# The battery.


def supply(root: Path, amperes: float, volts: float = 4.0, status: str = "Discharging") -> Path:
    """A phone's supplies, the first of which is no battery."""
    usb, battery = root / "sys/class/power_supply/a_usb", root / "sys/class/power_supply/battery"
    for folder, values in (
        (usb, {"type": "USB", "current_now": "7"}),
        (
            battery,
            {
                "type": "Battery",
                "status": status,
                "current_now": f"{round(amperes * 1e6)}",
                "voltage_now": f"{round(volts * 1e6)}",
            },
        ),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in values.items():
            replace(folder / name, f"{value}\n")
    return battery


@pytest.mark.parametrize("sign", [-1, 1])
def test_current_of_either_sign(tmp_path: Path, sign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gauge has something new every 40 ms here: 0.25 A, and 0.75 A while the device is busy."""
    load, wiggle = Load(), iter(range(1_000_000))
    root = tmp_path / "root"
    supply(root, sign * 0.25)
    meter = Battery(str(root), poll_s=0.02)
    monkeypatch.setattr(meter, "period_s", 0.04)
    device = Folder(tmp_path)
    assert meter.unavailable(device) is None

    def tell() -> None:
        supply(root, sign * ((0.75 if load.busy_since is not None else 0.25) + next(wiggle) % 2 * 1e-4))

    with playing(tell, 0.04):
        found = measure_energy(device, meter, lambda: load.run(1.2), 50, 24e6)
    assert found.mj_per_inference == pytest.approx(2.0 * found.window_s * 1e3 / 50, rel=0.15)
    assert found.baseline_mw == pytest.approx(1000, rel=0.05)
    assert found.samples < 40, "readings that say nothing new were counted"


def reading(time: float, amperes: float, volts: float = 4.0, status: str | None = "Discharging") -> str:
    said = f"current_now: {round(amperes * 1e6)}\nvoltage_now: {round(volts * 1e6)}\n"
    return said if status is None else f"status: {status}\n{said}"


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        ([reading(0, -0.5), reading(1, 0.4)], "changed its direction"),
        ([reading(0, -0.5), reading(1, -0.4, status="Charging")], "was charged"),
        ([reading(0, -0.5), reading(1, -0.4, status="Full")], "was charged"),
        ([reading(0, -0.5, status=None)], "did not say"),
        ([reading(0, -250e-6), reading(1, -750e-6)], "cannot be microamperes"),
        ([reading(0, 0.5, volts=0.004)], "voltage that can be"),
        ([reading(0, 0.5), "status: Discharging\nvoltage_now: 4000000\n"], "could not be read all the time"),
        ([], "told nothing"),
        (
            [f"  status: 3\n  voltage: 4000\n  Charge counter: {charge}\n" for charge in (2_700_000, 2_700_900)],
            "charge grew",
        ),
    ],
)
def test_what_a_battery_cannot_have_said(texts: list[str], reason: str) -> None:
    with pytest.raises(MeterError, match=reason):
        power([parse(float(index), text) for index, text in enumerate(texts)])


def test_the_charge_that_is_left_where_there_is_no_current() -> None:
    """900 microampere-hours are 3.24 coulombs; at 4 V in 4 s that is 3.24 W."""
    texts = [f"  status: 3\n  voltage: 4000\n  Charge counter: {2_700_000 - 900 * (i // 4)}\n" for i in range(13)]
    series = power([parse(float(index), text) for index, text in enumerate(texts)])
    assert series.times == [0, 4, 8, 12]
    assert series.watts == pytest.approx([3.24] * 3)


@pytest.mark.parametrize(
    ("before", "after"), [(DeviceState(charging=True), UNPLUGGED), (UNPLUGGED, DeviceState(charging=True))]
)
def test_a_device_that_is_plugged_in_meanwhile_is_refused(
    tmp_path: Path, before: DeviceState, after: DeviceState, monkeypatch: pytest.MonkeyPatch
) -> None:
    supply(tmp_path / "root", 0.25)
    meter = Battery(str(tmp_path / "root"), poll_s=0.05)
    monkeypatch.setattr(meter, "period_s", 0.01)
    device = Folder(tmp_path)
    assert meter.unavailable(device) is None
    with pytest.raises(MeterError, match="on external power"):
        measure_energy(device, meter, lambda: Load().run(0.3, before, after), 50, 20e6)


def test_a_gauge_that_hardly_moves_needs_more_iterations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    supply(tmp_path / "root", 0.25)
    meter = Battery(str(tmp_path / "root"), poll_s=0.05)
    monkeypatch.setattr(meter, "period_s", 0.01)
    device = Folder(tmp_path)
    assert meter.unavailable(device) is None
    with pytest.raises(MeterError, match=r"needs more iterations: 500 or more, as the meter had [01] new values"):
        measure_energy(device, meter, lambda: Load().run(0.3), 50, 20e6)


def test_a_short_window_is_refused_before_it_is_measured(tmp_path: Path) -> None:
    def run() -> Round:
        raise AssertionError("it was run")

    with pytest.raises(MeterError, match=r"50 inferences take 0.5 s, and the meter needs 20 s"):
        measure_energy(Folder(tmp_path), Battery(), run, 50, 10e6)


def test_a_run_has_as_many_inferences_as_the_meter_needs() -> None:
    """Power is told once a second by a battery, and four times by rails: 20 of those are 20 s and 5 s."""
    assert iterations_for(Battery(), 50, 30e6) == 800
    assert iterations_for(Rails(), 50, 30e6) == 200
    assert iterations_for(Rapl(), 50, 30e6) == 80
    assert iterations_for(Battery(), 5000, 30e6) == 5000
    assert iterations_for(Battery(), 50, 1e3) == 1_000_000


# Which meter.


class Given(Meter):
    """A meter that tells what it was given, from half a second before it is asked."""

    name = "given"
    scope = "a test's"
    period_s = 0.01
    battery_only: ClassVar[bool] = False

    def __init__(self, watts: Callable[[float], float] = lambda time: 1.0):
        self.watts = watts

    def unavailable(self, device: Device) -> str | None:
        return None

    @contextmanager
    def record(self, device: Device) -> Iterator[Recording]:
        recording, begun = Recording(), now()
        yield recording
        times = [begun + index * self.period_s for index in range(int((now() - begun) / self.period_s) + 2)]
        recording.series = [of_powers("given", [(time, self.watts(time)) for time in times])]


def test_power_that_is_not_above_idle_is_no_energy(tmp_path: Path) -> None:
    begun = now()
    with pytest.raises(MeterError, match=r"1000 mW, was not above that of the idle device, 1000 mW"):
        measure_energy(
            Folder(tmp_path), Given(lambda time: 1.0 - 1e-5 * (time - begun)), lambda: Load().run(0.4), 50, 10e6
        )


def test_a_runner_that_tells_no_window(tmp_path: Path) -> None:
    with pytest.raises(MeterError, match="does not tell when"):
        measure_energy(Folder(tmp_path), Given(), lambda: round_of([10_000_000] * 50), 50, 10e6)


def test_a_window_that_is_not_that_of_the_samples(tmp_path: Path) -> None:
    def run() -> Round:
        return round_of([10_000_000] * 50, window_ns=[1, 1_000_000])

    with pytest.raises(MeterError, match="shorter than its inferences"):
        measure_energy(Folder(tmp_path), Given(), run, 50, 10e6)


def test_a_window_of_another_clock(tmp_path: Path) -> None:
    def run() -> Round:
        return round_of([10_000_000] * 50, load_ns=1, window_ns=[1_000_000_000_000_000, 1_000_000_500_000_000])

    with pytest.raises(MeterError, match=r"needs more iterations|no samples of a part of the window"):
        measure_energy(Folder(tmp_path), Given(), run, 50, 10e6)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (DeviceState(charging=True), "battery: the device is on external power"),
        (DeviceState(unavailable={"charging": "it has no battery"}), "does not say whether it is charged: it has no"),
    ],
)
def test_a_meter_of_the_devices_own_is_refused_on_external_power(
    tmp_path: Path, state: DeviceState, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    supply(tmp_path / "root", 0.25)
    monkeypatch.setitem(measure.METERS, "battery", lambda: Battery(str(tmp_path / "root")))
    for wanted in ("battery", "auto"):
        with pytest.raises(MeterError) as error:
            choose_meter(Folder(tmp_path, [state]), wanted)
        assert reason in str(error.value)
    assert choose_meter(Folder(tmp_path, [UNPLUGGED]), "auto").name == "battery"


def test_the_best_meter_is_taken_and_every_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone(tmp_path, "0", "package-0")
    monkeypatch.setitem(measure.METERS, "rapl", lambda: Rapl(tmp_path))
    monkeypatch.setitem(measure.METERS, "battery", lambda: Battery(str(tmp_path)))
    assert choose_meter(Local(), "auto").name == "rapl"
    with pytest.raises(MeterError) as error:
        choose_meter(Folder(tmp_path), "auto")
    assert [reason.partition(":")[0] for reason in str(error.value).split("; ")] == [*measure.METERS]
    with pytest.raises(MeterError, match="not asked for"):
        choose_meter(Local(), "none")
    with pytest.raises(UserError, match="no meter called 'steam'"):
        measure.check_name("steam")


# The sampler on a device.


def test_a_device_that_is_lost_while_it_is_sampled(tmp_path: Path) -> None:
    class Lost(Folder):
        def run(self, command: object, **words: object) -> object:  # type: ignore[override]
            raise DeviceError("adb:1234 is not attached")

    with (
        pytest.raises(MeterError, match="was lost while it measured: adb:1234 is not attached"),
        on_device(Lost(tmp_path), "echo x", 0.01),
    ):
        time.sleep(0.05)


def test_a_sampler_ends_with_its_body_however_that_ends(tmp_path: Path) -> None:
    device, threads = Folder(tmp_path), threading.active_count()

    def work() -> None:
        with on_device(device, "echo x", 0.01):
            time.sleep(0.1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert threading.active_count() == threads
    assert list(tmp_path.iterdir()) == []


def test_readings_have_the_devices_clock(tmp_path: Path) -> None:
    begin = now()
    with on_device(Folder(tmp_path), "echo one; echo two", 0.02) as found:
        time.sleep(0.3)
    assert len(found) > 5
    assert {text for _, text in found} == {"one\ntwo\n"}
    assert all(begin - 0.02 <= moment <= now() for moment, _ in found)
    assert readings("") == []


# All of it.


def test_a_measurement_has_its_energy(tmp_path: Path, tiny_onnx: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner that is busy for 50 inferences of 10 ms, by a counter of 1 W and 3 W; the latency's rounds stay."""
    load, clocks = Load(), tmp_path / "root"
    package = zone(clocks, "0", "package-0")
    monkeypatch.setitem(measure.METERS, "rapl", lambda: Rapl(clocks))
    samples = [10_000_000 + index * 7 % 13 for index in range(50)]
    written = {**DOCUMENT, "samples_ns": samples, "window_ns": "WINDOW"}
    text = json.dumps(written).replace('"WINDOW"', "[$begin, $end]").replace('"', '\\"')
    body = (
        'stamp() { read -r up rest < /proc/uptime; echo "${up%.*}${up#*.}0000000"; }\n'
        f"sleep 0.2; begin=$(stamp); touch {tmp_path}/busy; sleep 0.7; rm {tmp_path}/busy; end=$(stamp)\n"
        f'echo "{text}" > "$result"\n'
    )

    class Here(Folder):
        spec = "local"

    def tell() -> None:
        busy = (tmp_path / "busy").exists()
        if busy and load.busy_since is None:
            load.busy_since = now()
        if not busy and load.busy_since is not None:
            load.stretches.append((load.busy_since, now()))
            load.busy_since = None
        replace(package / "energy_uj", str(int(load.joules() * 1e6)))

    monkeypatch.setattr(Rapl, "period_s", 0.02)
    monkeypatch.setattr(measure, "SHORTEST_S", 0.3)
    with playing(tell):
        found = bench(
            tiny_onnx, Here(tmp_path), script(tmp_path, body), Protocol(), command="x", energy="rapl"
        ).measurement
    assert found.energy is not None, found.unavailable
    assert found.energy.mj_per_inference == pytest.approx(2.0 * found.energy.window_s * 1e3 / 50, rel=0.15)
    assert "energy" not in found.unavailable
    assert len(found.rounds) == 1


class Paced(Program):
    """A runner whose inferences take 10 ms, as many as it is asked for, by the clock of the meter."""

    asked: ClassVar[list[int]] = []

    def run(self, device: Device, job: Job, into: Path) -> RunnerResult:
        self.asked.append(job.iterations)
        begin = now()
        time.sleep(0.011 * job.iterations)
        return RunnerResult.model_validate(
            runner_document(
                [10_000_000] * job.iterations,
                warmup_ns=[1] * job.warmup,
                window_ns=[int(begin * 1e9), int(now() * 1e9)],
            )
        )


def test_the_run_beside_a_meter_is_as_long_as_that_needs(
    tmp_path: Path, tiny_onnx: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = now()
    meter = Given(lambda time: 1.0 + time - begun)
    monkeypatch.setitem(measure.METERS, "given", lambda: meter)
    monkeypatch.setattr(measure, "SHORTEST_S", 0.0)
    monkeypatch.setattr(Paced, "asked", [])
    protocol = Protocol(warmup=1, iterations=3)
    found = bench(tiny_onnx, Folder(tmp_path), Paced("paced"), protocol, command="x", energy="given").measurement
    assert Paced.asked == [3, 24], "20 periods of 10 ms, and a fifth more"
    assert found.energy is not None, found.unavailable
    assert found.energy.iterations == 24
    assert [len(each.result.samples_ns) for each in found.rounds] == [3]


@pytest.mark.parametrize("lost", ["unavailable", "state", "run"])
def test_a_device_that_is_lost_after_the_rounds_has_no_energy(
    tmp_path: Path, tiny_onnx: Artifact, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    class Gone(Given):
        battery_only = True

        def unavailable(self, device: Device) -> str | None:
            def fail(*_: object, **__: object) -> Any:
                raise DeviceError("adb:1234 is not attached")

            if lost == "unavailable":
                fail()
            monkeypatch.setattr(device, lost, fail)
            return None

    monkeypatch.setitem(measure.METERS, "given", Gone)
    device, runner = Folder(tmp_path), writes(tmp_path, DOCUMENT)
    found = bench(tiny_onnx, device, runner, Protocol(rounds=2), command="x", energy="given").measurement
    assert (len(found.rounds), found.valid, found.energy) == (2, True, None)
    assert found.unavailable["energy"] == "adb:1234 is not attached"


def test_without_a_meter_the_latency_stays(tmp_path: Path, tiny_onnx: Artifact) -> None:
    found = bench(tiny_onnx, Folder(tmp_path), writes(tmp_path, DOCUMENT), Protocol(), command="x").measurement
    assert found.energy is None
    assert found.valid
    assert "rails: " in found.unavailable["energy"]
