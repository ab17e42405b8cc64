"""What a meter is to the harness: something that records power by time while a device works."""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

from deploy_kit.devices.base import Device

NO_USB = "use adb over Wi-Fi and unplug it: `adb tcpip 5555`, `adb connect PHONE:5555`, pull the cable"
"""How a phone is reached that must not be on external power."""


class MeterError(Exception):
    """Why there is no energy; the latency is not touched by it."""


@dataclass(frozen=True)
class Series:
    """The power of one part of a device: ``watts[i]`` from ``times[i]`` to ``times[i + 1]``, in seconds.

    The clock is that of the device, since it was started, sleep included (CLOCK_BOOTTIME).
    """

    name: str
    times: Sequence[float]
    watts: Sequence[float]

    def energy(self, begin: float, end: float) -> float:
        """Joules between two moments; `MeterError` where they are not covered."""
        if not self.watts or begin < self.times[0] or end > self.times[-1]:
            raise MeterError(f"{self.name}: the meter has no samples of a part of the window")
        return sum(watts * (min(later, end) - max(sooner, begin)) for sooner, later, watts in self._between(begin, end))

    def updates(self, begin: float, end: float) -> int:
        """How often the meter had something new between two moments."""
        return bisect.bisect_right(self.times, end) - bisect.bisect_left(self.times, begin)

    def powers(self, begin: float, end: float) -> list[float]:
        """The watts of each sample between two moments."""
        return [watts for _, _, watts in self._between(begin, end)]

    def _between(self, begin: float, end: float) -> Iterator[tuple[float, float, float]]:
        first = max(bisect.bisect_right(self.times, begin) - 1, 0)
        for index in range(first, len(self.watts)):
            if self.times[index] >= end:
                return
            yield self.times[index], self.times[index + 1], self.watts[index]


def of_counters(readings: Mapping[str, Sequence[tuple[float, float]]]) -> list[Series]:
    """The power between the readings of counters of joules that are read together, by name.

    Readings in which all stood still say nothing new; a counter that stands still while another moves is at 0 W.

    Raises:
        MeterError: a counter went back.
    """
    for name, values in readings.items():
        if any(later[1] < sooner[1] for sooner, later in pairwise(values)):
            raise MeterError(f"{name}: the counter went back")
    looks = list(zip(*readings.values()))
    told = looks[:1]
    for look in looks[1:]:
        if any(new[1] > old[1] and new[0] > old[0] for old, new in zip(told[-1], look)):
            told.append(look)
    return [_of_told(name, values) for name, values in zip(readings, zip(*told))]


def _of_told(name: str, readings: Sequence[tuple[float, float]]) -> Series:
    """The power between readings of a counter; one that is as old as that before is left out."""
    kept = list(readings[:1])
    for time, joules in readings[1:]:
        if time > kept[-1][0]:
            kept.append((time, joules))
    powers = [(later[1] - sooner[1]) / (later[0] - sooner[0]) for sooner, later in pairwise(kept)]
    return Series(name, [time for time, _ in kept], powers)


def of_counter(name: str, readings: Sequence[tuple[float, float]]) -> Series:
    """The same of a counter that is alone."""
    return of_counters({name: readings})[0]


def of_powers(name: str, readings: Sequence[tuple[float, float]]) -> Series:
    """The power of readings of watts, each of which holds until the next."""
    return Series(name, [time for time, _ in readings], [watts for _, watts in readings[:-1]])


@dataclass
class Recording:
    """What a meter recorded; ``series`` are there when it has ended, and add up to what the meter measures.

    ``clock_s`` is by how much the clock of the samples may be off that of the device.
    """

    series: list[Series] = field(default_factory=list)
    clock_s: float = 0.0


class Meter(ABC):
    """A meter, and what it measures."""

    name: ClassVar[str]
    scope: str
    """What its power is of, in words."""
    period_s: float
    """Seconds between two samples."""
    battery_only: ClassVar[bool] = False
    """Whether its figures mean nothing while the device is on external power."""

    @abstractmethod
    def unavailable(self, device: Device) -> str | None:
        """Why it cannot measure a device; None where it can. It may ask the device, and raise its `DeviceError`."""

    @abstractmethod
    def record(self, device: Device) -> AbstractContextManager[Recording]:
        """Record the power of a device while the body runs.

        Raises:
            MeterError: at the end, where the meter was lost or told nonsense.
        """
