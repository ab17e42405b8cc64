"""The energy counters of x86 processors, which Linux gives in ``/sys/class/powercap`` (RAPL).

The zones ``intel-rapl:N`` are processors ("package-0"), also of AMD's; ``intel-rapl:N:M`` are parts of them. The
counter ``energy_uj`` returns to 0 after ``max_energy_range_uj``, and since Linux 5.10 only root may read it (Platypus,
CVE-2020-8694). What is added up are the packages and the memory beside them ("dram"): cores and graphics are in a
package already, and "psys" has all of them.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy_kit.benchmarks.energy.base import Meter, MeterError, Recording, of_counters
from deploy_kit.benchmarks.energy.sampler import in_thread
from deploy_kit.devices.base import Device

POWERCAP = "sys/class/powercap"
READABLE = "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"


class Rapl(Meter):
    """The processors of this machine, and their memory where they have a counter for it."""

    name = "rapl"
    period_s = 0.05
    scope = "the processors"

    def __init__(self, root: Path = Path("/")):
        self._folder = root / POWERCAP

    def unavailable(self, device: Device) -> str | None:
        if device.spec != "local":
            return "the counters are read on this machine only"
        zones = self._zones()
        if not zones:
            return "this machine has no energy counters (RAPL), or its kernel does not give them"
        try:
            for zone in zones.values():
                int((zone / "energy_uj").read_text())
        except PermissionError:
            return f"only root may read the energy counters: `{READABLE}` until the next start"
        except (OSError, ValueError) as error:
            return f"the energy counters cannot be read: {error}"
        return None

    @contextmanager
    def record(self, device: Device) -> Iterator[Recording]:
        zones = self._zones()
        readings: dict[str, list[tuple[float, int]]] = {name: [] for name in zones}

        def work(stop: threading.Event) -> None:
            while True:
                last = stop.is_set()
                for name, zone in zones.items():
                    microjoules = int((zone / "energy_uj").read_text())
                    readings[name].append((time.clock_gettime(time.CLOCK_BOOTTIME), microjoules))
                if last:
                    return
                stop.wait(self.period_s)

        recording = Recording()
        with in_thread(work, "the processor's counter"):
            yield recording
        recording.series = of_counters(
            {name: _unwrapped(readings[name], self._range(zone), name) for name, zone in zones.items()}
        )

    def _zones(self) -> dict[str, Path]:
        """The zones that add up, by name and number."""
        found = {}
        for zone in sorted(self._folder.glob("intel-rapl:*")):
            try:
                name = (zone / "name").read_text().strip()
            except OSError:
                continue
            if re.fullmatch(r"package-\d+(-die-\d+)?|dram", name):
                found[f"{name} ({zone.name.removeprefix('intel-rapl:')})"] = zone
        return found

    def _range(self, zone: Path) -> int | None:
        try:
            return int((zone / "max_energy_range_uj").read_text())
        except (OSError, ValueError):
            return None


def _unwrapped(readings: list[tuple[float, int]], most: int | None, name: str) -> list[tuple[float, float]]:
    """Joules from the first reading on; a counter that went back has begun again after ``most``."""
    total, found = 0, []
    for index, (moment, microjoules) in enumerate(readings):
        step = microjoules - readings[index - 1][1] if index else 0
        if step < 0:
            if most is None or not readings[index - 1][1] <= most:
                raise MeterError(f"{name}: the counter began again, and its range is not known")
            step += most
        total += step
        found.append((moment, total / 1e6))
    return found
