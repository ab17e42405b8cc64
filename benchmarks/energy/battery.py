"""The battery's own gauge: current and voltage, or the charge that is left.

Linux gives ``current_now`` in microamperes and ``voltage_now`` in microvolts. Its sign is not to be relied on: gauges
count what leaves the battery as negative, as positive, or have no sign, and only since 2020 is the first the rule
(kernel commit 05f94eb98907, "power: supply: document current direction"). So the sign is not used: the device has to
say that its battery is not charged, and the sign must stay what it is. Some phones give milliamperes: what would be
less than any phone draws is refused. Where the files are closed, ``dumpsys battery`` has the charge that is left in
microampere-hours, in steps that are seconds or minutes apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

from deploy_kit.benchmarks.energy.base import Meter, MeterError, Recording, Series, of_counter, of_powers
from deploy_kit.benchmarks.energy.sampler import on_device, once, quoted
from deploy_kit.devices.base import Device

LEAST_UA = 15_000
"""Microamperes that a device which computes draws at least: less is another unit."""

VOLTS = (2.5, 26.0)
"""From an empty cell to a laptop's full battery."""

COULOMBS = 3600e-6
"""Of a microampere-hour."""

DISCHARGING = ("Discharging", "3")
"""What the kernel says, and what Android's number for it is (BatteryManager.BATTERY_STATUS_DISCHARGING)."""

_SUPPLIES = """for s in {supplies}; do
  {{ read -r kind < "$s/type"; }} 2>/dev/null; [ "$kind" = Battery ] || continue
  for n in status current_now voltage_now; do {{ read -r v < "$s/$n" && echo "$n: $v"; }} 2>/dev/null; done
  break
done"""
_SERVICE = "dumpsys battery 2>/dev/null | grep -E '^ *(status|voltage|Charge counter):'"


@dataclass(frozen=True)
class Reading:
    """What the gauge says at a moment; None is what it does not."""

    time: float
    status: str | None
    amperes: float | None
    volts: float | None
    coulombs: float | None


class Battery(Meter):
    """What leaves the battery: the whole device. ``root`` is where its ``/sys`` is."""

    name = "battery"
    scope = "the whole device, at its battery"
    battery_only = True
    period_s = 1.0

    def __init__(self, root: str = "/", *, poll_s: float = 0.5):
        self._poll_s = poll_s
        self._supplies = _SUPPLIES.format(supplies=quoted(root, "/sys/class/power_supply/*"))
        self._reading: str | None = None

    def unavailable(self, device: Device) -> str | None:
        for reading in (self._supplies, _SERVICE):
            said = parse(0.0, once(device, reading))
            if said.volts is not None and (said.amperes is not None or said.coulombs is not None):
                self._reading = reading
                return None
        return "the device has no battery whose current or charge may be read"

    @contextmanager
    def record(self, device: Device) -> Iterator[Recording]:
        assert self._reading is not None, "unavailable() comes first"
        recording = Recording()
        with on_device(device, self._reading, self._poll_s) as found:
            yield recording
        recording.series = [power([parse(time, text) for time, text in found])]


def parse(time: float, text: str) -> Reading:
    """A reading of either form."""
    values = dict(re.findall(r"^\s*([\w ]+): (\S+)", text, re.MULTILINE))

    def number(name: str, scale: float) -> float | None:
        value = values.get(name, "")
        return int(value) * scale if re.fullmatch(r"-?\d{1,12}", value) else None

    volts = number("voltage_now", 1e-6) or number("voltage", 1e-3)
    charge = number("Charge counter", COULOMBS)
    return Reading(time, values.get("status"), number("current_now", 1e-6), volts, charge)


def power(readings: Sequence[Reading]) -> Series:
    """The power that left the battery; `MeterError` where the readings cannot be that."""
    if not readings:
        raise MeterError("the battery's gauge told nothing")
    if any(reading.status not in DISCHARGING for reading in readings):
        raise MeterError("the battery was charged, or did not say that it was not, while it was measured")
    if any(reading.volts is None or not VOLTS[0] <= reading.volts <= VOLTS[1] for reading in readings):
        raise MeterError("the battery does not tell a voltage that can be")
    if all(reading.amperes is not None for reading in readings):
        return _of_current([(r.time, r.amperes or 0.0, r.volts or 0.0) for r in readings])
    if all(reading.coulombs is not None for reading in readings):
        return _of_charge([(r.time, r.coulombs or 0.0, r.volts or 0.0) for r in readings])
    raise MeterError("the battery's gauge could not be read all the time")


def _of_current(readings: list[tuple[float, float, float]]) -> Series:
    currents = [amperes for _, amperes, _ in readings]
    if min(currents) < 0 < max(currents):
        raise MeterError("the battery's current changed its direction while it was measured")
    if max(abs(amperes) for amperes in currents) * 1e6 < LEAST_UA:
        most = max(currents, key=abs) * 1e6
        raise MeterError(f"the battery's current_now is {most:.0f} at most, which cannot be microamperes")
    new = [later for sooner, later in pairwise(readings) if later[1:] != sooner[1:]]
    kept = [readings[0], *new, readings[-1]]
    return of_powers("battery", [(time, abs(amperes) * volts) for time, amperes, volts in dict.fromkeys(kept)])


def _of_charge(readings: list[tuple[float, float, float]]) -> Series:
    """From the charge that is left; what was used between two readings had the voltage of the second."""
    used, total, before = [], 0.0, readings[0][1]
    for time, coulombs, volts in readings:
        if coulombs > before:
            raise MeterError("the battery's charge grew while it was measured")
        total += (before - coulombs) * volts
        before = coulombs
        used.append((time, total))
    return of_counter("battery", used)
