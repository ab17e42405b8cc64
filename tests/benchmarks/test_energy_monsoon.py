"""The Monsoon meter: the real `Monsoon` package against a USB device that is played here."""

from __future__ import annotations

import struct
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from deploy_kit.benchmarks.energy import measure
from deploy_kit.benchmarks.energy.base import MeterError
from deploy_kit.benchmarks.energy.measure import choose_meter, measure_energy
from deploy_kit.benchmarks.energy.monsoon import Monsoon
from deploy_kit.benchmarks.measurement import Round
from deploy_kit.devices.base import Completed
from tests.benchmarks.support import round_of
from tests.benchmarks.test_harness import Folder

VOLTS = 4.0
ZERO, REFERENCE, SCALE = 100, 50_100, 5_000
"""Calibrated so that a count of the coarse channel is a tenth of a milliampere; the fine one is over its range."""


AHEAD_S = 1000
"""The phone was started before this machine was."""


class Phone(Folder):
    """A phone over Wi-Fi, with a clock of its own."""

    spec = "adb:192.168.1.7:5555"

    def run(self, command: Sequence[str], *, timeout: float, environment: Mapping[str, str] | None = None) -> Completed:
        ended = super().run(command, timeout=timeout, environment=environment)
        if list(command) != ["cat", "/proc/uptime"]:
            return ended
        up, idle = ended.stdout.split()
        return ended.model_copy(update={"stdout": f"{float(up) + AHEAD_S:.2f} {idle}\n"})


class Monitor:
    """What pyusb gives of an HVPM: settings by control transfers, packets of three samples by bulk reads."""

    idVendor, idProduct, serial_number = 0x2AB9, 0x0001, "20123"  # noqa: N815

    def __init__(self, milliamperes: Callable[[], float]):
        self.milliamperes = milliamperes
        self.sampling, self.packets, self.commands = False, 0, []  # type: ignore[var-annotated]
        self.period_s, self.pulled = 0.0006, False

    def values(self) -> dict[int, int]:
        from Monsoon.Operations import HardwareModel, OpCodes

        return {
            OpCodes.HardwareModel: HardwareModel.HVPM,
            OpCodes.FirmwareVersion: 32,
            OpCodes.getStartStatus: 0x80 if self.sampling else 0,
            OpCodes.setMainFineScale: SCALE,
            OpCodes.setMainCoarseScale: SCALE,
        }

    def ctrl_transfer(self, kind: int, request: int, value: int, index: int, data: Any, timeout: int) -> bytes:
        from Monsoon.Operations import Control_Codes

        self._there()
        if kind == Control_Codes.USB_IN_PACKET:
            return struct.pack("<I", self.values().get(index & 0xFF, 0))
        if request == Control_Codes.USB_REQUEST_START:
            self.sampling, self.packets, self.begun = True, 0, time.monotonic()
        if request == Control_Codes.USB_REQUEST_STOP:
            self.sampling = False
        if request == Control_Codes.USB_SET_VALUE:
            self.commands.append(index & 0xFF)
        return b""

    def read(self, endpoint: int, size: int, timeout: int) -> array[int]:
        """A packet, when its three samples are due at 5 kHz."""
        from Monsoon.Operations import SampleType

        self._there()
        self.packets += 1
        time.sleep(max(self.begun + self.packets * self.period_s - time.monotonic(), 0))
        if self.packets <= 40:  # it begins with calibration
            kind = SampleType.ZeroCal if self.packets % 2 else SampleType.refCal
            count = ZERO if self.packets % 2 else REFERENCE
            return self._packet([count] * 6, kind)
        return self._packet([ZERO + round(self.milliamperes() * 10), 65_000, 0, 0, 0, 0], SampleType.Measurement)

    def _packet(self, counts: list[int], kind: int) -> array[int]:
        words = [*counts, round(VOLTS / (62.5e-6 * 4)), 0]
        sample = struct.pack(">8H", *words) + bytes([0, kind])
        return array("B", struct.pack("<HBB", 0, 0, 3) + sample * 3 + bytes(6))

    def _there(self) -> None:
        import usb.core

        if self.pulled:
            raise usb.core.USBError("No such device (it may have been disconnected)")

    def set_configuration(self) -> None: ...

    def get_active_configuration(self) -> dict[tuple[int, int], list[Any]]:
        return {(0, 0): []}

    def detach_kernel_driver(self, interface: int) -> None: ...

    def reset(self) -> None: ...


@pytest.fixture
def milliamperes() -> list[float]:
    """What the phone draws now, in one cell."""
    return [250.0]


@pytest.fixture
def monitor(monkeypatch: pytest.MonkeyPatch, milliamperes: list[float]) -> Iterator[Monitor]:
    pytest.importorskip("Monsoon", reason="the package Monsoon is not installed: pip install 'deploy-kit[energy]'")
    import usb.core
    import usb.util

    found = Monitor(lambda: milliamperes[0])

    def find(find_all: bool = False, custom_match: Any = None, **ids: int) -> Any:
        if find_all:
            return [found]
        return found if custom_match(found) else None

    monkeypatch.setattr(usb.core, "find", find)
    monkeypatch.setattr(usb.util, "dispose_resources", lambda device: None)
    monkeypatch.setattr(measure, "IDLE_S", 0.5)
    monkeypatch.setattr(measure, "SETTLE_S", 0.2)
    yield found
    assert not found.sampling, "the monitor was left sampling"


def busy(milliamperes: list[float], seconds: float, iterations: int = 50) -> Callable[[], Round]:
    """A run that makes the phone draw more for some seconds, and tells the window by the phone's clock."""

    def run() -> Round:
        milliamperes[0] = 750.0
        begin = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        time.sleep(seconds)
        end = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        milliamperes[0] = 250.0
        window = [begin + AHEAD_S * 10**9, end + AHEAD_S * 10**9]
        return round_of([(end - begin) // iterations] * iterations, load_ns=1, window_ns=window)

    return run


def test_millijoules_of_an_inference(monitor: Monitor, milliamperes: list[float], tmp_path: Path) -> None:
    """2 W above idle for a second are 2 J in 50 inferences: 40 mJ each."""
    device = Phone(tmp_path)
    meter = choose_meter(device, "auto")
    assert meter.name == "monsoon"
    found = measure_energy(device, meter, busy(milliamperes, 1.0), 50, 20e6)
    assert found.mj_per_inference == pytest.approx(40, rel=0.1)
    assert found.baseline_mw == pytest.approx(1000, rel=0.02)
    assert found.total_mj == pytest.approx(3000, rel=0.1)
    assert found.window_s == pytest.approx(1.0, rel=0.1)
    assert found.highest_mw == pytest.approx(3000, rel=0.02)
    assert 2500 < found.sampling_hz < 6000
    assert 0.01 <= found.clock_doubt_s < 0.05
    assert monitor.commands == [], "a setting of the monitor was changed: its voltage feeds a phone"


def test_a_window_that_the_clocks_cannot_place_needs_more(
    monitor: Monitor, milliamperes: list[float], tmp_path: Path
) -> None:
    device = Phone(tmp_path)
    with pytest.raises(MeterError, match=r"needs more iterations: \d+ or more, as the clocks may be \d+ ms off"):
        measure_energy(device, choose_meter(device, "monsoon"), busy(milliamperes, 0.05), 50, 1e6)


def test_a_monitor_that_is_pulled_out_in_the_window(
    monitor: Monitor, milliamperes: list[float], tmp_path: Path
) -> None:
    def run() -> Round:
        monitor.pulled = True
        return busy(milliamperes, 0.5)()

    device = Phone(tmp_path)
    meter = choose_meter(device, "monsoon")
    with pytest.raises(MeterError, match=r"the Monsoon was lost while it measured: .*No such device"):
        measure_energy(device, meter, run, 50, 10e6)
    monitor.sampling = False


def test_lost_samples_are_refused(monitor: Monitor, milliamperes: list[float], tmp_path: Path) -> None:
    device = Phone(tmp_path)
    monitor.period_s *= 4
    with pytest.raises(MeterError, match=r"of the Monsoon's 5000 samples a second \d+ came"):
        measure_energy(device, choose_meter(device, "monsoon"), busy(milliamperes, 0.5), 50, 10e6)


def test_a_phone_on_usb_is_refused(monitor: Monitor, tmp_path: Path) -> None:
    assert "cuts the phone's USB" in str(Monsoon().unavailable(Folder(tmp_path)))


def test_without_the_package_the_reason_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert Monsoon().unavailable(Phone(tmp_path)) == "its package is not installed: pip install 'deploy-kit[energy]'"


def test_no_monitor(monitor: Monitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usb.core.find", lambda **options: [])
    assert "no monitor attached" in str(Monsoon().unavailable(Phone(tmp_path)))
