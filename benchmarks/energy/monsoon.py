"""A Monsoon power monitor, which powers the phone in its battery's place.

The package `Monsoon` (read: 0.1.88) talks to an HVPM by USB. Its sample engine reads 5000 samples a second of the main
channel's current (mA) and voltage (V), and calls the trigger after every batch: that is how it is told to end. The
output voltage is not touched: whoever connected the phone has set it. While it samples, the monitor cuts the phone's
USB (its passthrough is on "auto"), so that the phone has to be reached another way and is never charged.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from deploy_kit.benchmarks.energy.base import NO_USB, Meter, MeterError, Recording, of_powers
from deploy_kit.benchmarks.energy.sampler import in_thread
from deploy_kit.devices.base import Device

INSTALL = "pip install 'deploy-kit[energy]'"
START_S = 30.0
"""How long it may take to calibrate itself and give its first sample."""

LEAST_HZ = 2500
"""Fewer samples a second than half of what the monitor takes were lost on the way."""

LOOKS = 5
"""How often the device's clock is asked for; the quickest answer counts."""


class Monsoon(Meter):
    """The first high-voltage monitor (HVPM) that is attached to this machine."""

    name = "monsoon"
    scope = "the whole device, at its supply"
    period_s = 0.0002

    def unavailable(self, device: Device) -> str | None:
        kind, _, serial = device.spec.partition(":")
        if kind != "adb":
            return f"it powers a phone that adb reaches, and {device.spec} is none"
        if importlib.util.find_spec("Monsoon") is None:
            return f"its package is not installed: {INSTALL}"
        if not re.search(r":\d+$|\._adb-tls-connect", serial):
            return f"it cuts the phone's USB while it samples: {NO_USB}"
        try:
            with _quiet():
                found = _module("pmapi").USB_protocol().enumerateDevices()
        except Exception as error:  # whatever libusb or the driver raises
            return f"the monitors cannot be listed: {_first_line(error)}"
        return None if found else "there is no monitor attached by USB, or it may not be opened by this user"

    @contextmanager
    def record(self, device: Device) -> Iterator[Recording]:
        recording, offset = Recording(), _offset(device)
        with _quiet(), _connected() as (engine, channels):
            begun, first = time.monotonic(), threading.Event()

            def work(stop: threading.Event) -> None:
                def ended(_: float, __: float) -> bool:
                    first.set()
                    return stop.is_set()

                engine.setStopTrigger(ended, 0)
                engine.setTriggerChannel(channels.timeStamp)
                try:
                    engine.startSampling(_module("sampleEngine").triggers.SAMPLECOUNT_INFINITE)
                finally:
                    first.set()

            with in_thread(work, "the Monsoon"):
                first.wait(START_S)
                yield recording
            samples = engine.getSamples()
        times = [begun + stamp for stamp in samples[channels.timeStamp]]
        if not times:
            raise MeterError("the Monsoon gave no samples: is a phone connected to it, and its output on?")
        rate = len(times) / max(times[-1] - times[0], 1e-9)
        if rate < LEAST_HZ:
            raise MeterError(f"of the Monsoon's 5000 samples a second {rate:.0f} came: this machine is too busy")
        watts = [
            milliamperes / 1e3 * volts
            for milliamperes, volts in zip(samples[channels.MainCurrent], samples[channels.MainVoltage])
        ]
        (sooner, error), (later, error_later) = offset, _offset(device)
        shift = (sooner + later) / 2
        recording.clock_s = max(error, error_later) + abs(later - sooner) / 2
        recording.series = [of_powers("main channel", _rising([t + shift for t in times], watts))]


def _rising(times: list[float], watts: list[float]) -> list[tuple[float, float]]:
    """Samples by time; those of one packet have one stamp, and share the time until the next packet."""
    found: list[tuple[float, float]] = []
    start = 0
    while start < len(times):
        end = start
        while end < len(times) and times[end] <= times[start]:
            end += 1
        following = times[end] if end < len(times) else times[start]
        step = (following - times[start]) / (end - start)
        found += [(times[start] + (index - start) * step, watts[index]) for index in range(start, end)]
        start = end
    return found


def _offset(device: Device) -> tuple[float, float]:
    """What to add to this machine's monotonic clock to have the device's, and by how much that may be off.

    The device is asked for its clock; half of the quickest answer's time is what cannot be known of the way.
    """
    best: tuple[float, float] | None = None
    for _ in range(LOOKS):
        asked = time.monotonic()
        said = device.run(["cat", "/proc/uptime"], timeout=10).stdout.split()
        answered = time.monotonic()
        if not said or not re.fullmatch(r"\d+\.\d+", said[0]):
            raise MeterError(f"{device.spec} does not tell its clock")
        error = (answered - asked) / 2 + 0.01
        if best is None or error < best[1]:
            best = (float(said[0]) + 0.005 - (asked + answered) / 2, error)
    assert best is not None
    return best


@contextmanager
def _connected() -> Iterator[tuple[Any, Any]]:
    """The sample engine of the first monitor, and its channels."""
    module = _module("sampleEngine")
    monitor = _module("HVPM").Monsoon()
    try:
        monitor.setup_usb(None, _module("pmapi").USB_protocol())
        if monitor.Protocol.DEVICE is None:
            raise MeterError("the Monsoon is not there any more")
        engine = module.SampleEngine(monitor, errorMode=module.ErrorHandlingModes.off)
    except MeterError:
        raise
    except Exception as error:  # whatever libusb or the driver raises
        raise MeterError(f"the Monsoon cannot be set up: {_first_line(error)}") from error
    engine.ConsoleOutput(False)
    try:
        yield engine, module.channels
    finally:
        with contextlib.suppress(Exception):  # it may be gone
            monitor.closeDevice()


def _module(name: str) -> Any:
    return importlib.import_module(f"Monsoon.{name}")


@contextmanager
def _quiet() -> Iterator[None]:
    """The package prints what it thinks; standard output is for results."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
