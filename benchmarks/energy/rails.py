"""The power rails that a phone measures itself (ODPM: Pixel 6 and later).

The phone's meters count energy in hardware, rail by rail. Two ways lead to the counters. The file ``energy_value`` of
an IIO device, where it may be read (on most phones by root), is ``t=<ms since the start>`` and a line
``CH3(T=358356)[S2M_VDD_CPUCL2], 761330`` a rail, in microwatt-seconds; see the drivers ``s2mpg1x-odpm`` in the kernels
of Pixels, and ``IioEnergyMeterDataProvider`` in Android's hardware/google/pixel. ``dumpsys
android.hardware.power.stats.IPowerStats/default``, which adb's shell may run (androidx's macrobenchmark does), has a
part ``PowerStats HAL 2.0 energy meter`` with lines ``[S2M_VDD_CPUCL2]:CPU(MID)   761.33 mWs``.

All rails are added up. They are not the whole phone, and one that fed another would count twice: the parts are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from deploy_kit.benchmarks.energy.base import Meter, MeterError, Recording, of_counters
from deploy_kit.benchmarks.energy.sampler import on_device, once, quoted
from deploy_kit.devices.base import Device

SERVICE = "android.hardware.power.stats.IPowerStats/default"
_SERVICE = f"dumpsys {SERVICE} 2>/dev/null | sed -n '/HAL 2.0 energy meter/,/End of/p'"

_FILE_LINE = re.compile(r"^CH\d+\(T=\d+\)\[([^\]]+)\], (\d+)$", re.MULTILINE)
_SERVICE_LINE = re.compile(r"^\s*\[?([\w.-]+)\]?(?::.*?)?\s+(\d+\.\d+) mWs", re.MULTILINE)


class Rails(Meter):
    """The sum of a phone's power rails; ``root`` is where its ``/sys`` is."""

    name = "rails"
    scope = "the sum of the phone's measured power rails"
    battery_only = True

    def __init__(self, root: str = "/", *, period_s: float = 0.25):
        self.period_s = period_s
        self._files = f"cat {quoted(root, '/sys/bus/iio/devices/iio:device*/energy_value')} 2>/dev/null"
        self._reading: str | None = None

    def unavailable(self, device: Device) -> str | None:
        if not device.spec.startswith("adb:"):
            return "only Android phones have them"
        for reading in (self._files, _SERVICE):
            if energies(once(device, reading)):
                self._reading = reading
                return None
        return "the phone has no power rails that adb's shell may read (Pixel 6 and later have)"

    @contextmanager
    def record(self, device: Device) -> Iterator[Recording]:
        assert self._reading is not None, "unavailable() comes first"
        recording = Recording()
        with on_device(device, self._reading, self.period_s) as found:
            yield recording
        by_rail: dict[str, list[tuple[float, float]]] = {}
        looks = [(time, energies(text)) for time, text in found]
        rails = {rail for _, energy in looks for rail in energy}
        for time, energy in looks:
            if len(energy) == len(rails):  # the first and the last may be cut
                for rail, (moment, joules) in energy.items():
                    by_rail.setdefault(rail, []).append((time if moment is None else moment, joules))
        if not by_rail:
            raise MeterError("the phone told no energy of its rails")
        recording.series = of_counters({rail: values for rail, values in by_rail.items() if _moves(values)})


def _moves(values: list[tuple[float, float]]) -> bool:
    """Whether a rail used anything; one that is off has no part in the sum."""
    return values[0][1] != values[-1][1]


def energies(text: str) -> dict[str, tuple[float | None, float]]:
    """Joules of each rail, in either form, with the seconds since the start where the form has them."""
    found: dict[str, tuple[float | None, float]] = {}
    parts = re.split(r"^t=(\d+)$", text, flags=re.MULTILINE)
    for moment, body in zip(parts[1::2], parts[2::2]):
        for rail, microjoules in _FILE_LINE.findall(body):
            found[rail] = (int(moment) / 1e3, int(microjoules) / 1e6)
    for rail, millijoules in _SERVICE_LINE.findall(text):
        found[rail] = (None, float(millijoules) / 1e3)
    return found
