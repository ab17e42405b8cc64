"""Whether a measurement counts: what was wrong with the conditions, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deploy_kit.benchmarks.measurement import Clocks, Round
from deploy_kit.benchmarks.summary import Summary
from deploy_kit.devices.base import DeviceInfo, DeviceState
from deploy_kit.devices.description import NO_BATTERY

NOISY = 0.1
"""The coefficient of variation from which samples are too noisy."""

CLOCKS_MOVED = 0.05
"""The relative difference of a core's lowest and highest clock among the samples that is no rounding."""

WARMER_C = 10.0
"""How much warmer the hottest sensor may become."""

BUSY = 0.5
"""Processes that want to run beside the runner, averaged over a minute, from which they disturb."""

FEW = 1
"""Threads that may want to run at a moment: one of what brings the device's answer here."""


@dataclass(frozen=True)
class Conditions:
    """What is known of a run: the device before and after it, its clocks among the inferences, and what it ran on.

    ``affinity`` are the cores that it could run on; None where they are not known.
    """

    before: DeviceState
    after: DeviceState
    clocks_mhz: Sequence[Clocks] = ()
    affinity: Sequence[int] | None = None
    threads: int = 1


def reasons(device: DeviceInfo, rounds: Sequence[Round], summary: Summary) -> list[str]:
    """Why figures are not what the device can do; none where they are."""
    found: list[str] = []
    if device.emulated:
        found.append("emulated: the time of an emulator is no latency")
    for number, each in enumerate(rounds):
        where = f" in round {number + 1}" if len(rounds) > 1 else ""
        result = each.result
        conditions = Conditions(each.before, each.after, result.clocks_mhz, result.affinity, result.threads)
        found += [f"{reason}{where}" for reason in disturbances(device, conditions)]
    return found + irregularities(summary)


def irregularities(summary: Summary) -> list[str]:
    """Why samples are not what a device does over and over; none where they are."""
    found: list[str] = []
    if summary.cov is not None and summary.cov > NOISY:
        found.append(f"too noisy: the standard deviation is {summary.cov:.0%} of the mean")
    if summary.modes_ms is not None:
        low, high = summary.modes_ms
        found.append(f"two modes: some inferences take {low:.3g} ms and others {high:.3g} ms")
    if summary.drift is not None:
        found.append(f"drift: inferences became {abs(summary.drift):.0%} {'slower' if summary.drift > 0 else 'faster'}")
    return found


def disturbances(device: DeviceInfo, run: Conditions) -> list[str]:
    """What was not good while a device ran; none where all was."""
    before, after = run.before, run.after
    found = [charged] if (charged := _charged(device, run)) else []
    for state in (before, after):
        if state.thermal_status not in (None, "none"):
            found.append(f"throttled: the thermal status was {state.thermal_status}")
            break
    warmer = _hottest(after) - _hottest(before) if before.temperatures_c and after.temperatures_c else 0.0
    if warmer > WARMER_C:
        found.append(f"heated: the hottest sensor rose by {warmer:.0f} degrees")
    moved = _moved_clocks(run)
    if moved:
        found.append(f"clocks moved: {moved}")
    if before.runnable is not None:
        if before.runnable > FEW:
            found.append(f"background load: {before.runnable} threads wanted to run when it began")
    elif before.load is not None and before.load > BUSY + _own_share(run):
        found.append(f"background load: {before.load:.1f} processes wanted to run before it began")
    return found


def _charged(device: DeviceInfo, run: Conditions) -> str:
    """Why a device was on external power, or may have been; empty where it was not, or is no phone."""
    if run.before.charging or run.after.charging:
        return "charging: the device was on external power"
    if device.emulated or not device.spec.startswith(("adb:", "ios:")):
        return ""
    for state in (run.before, run.after):
        why = state.unavailable.get("charging", "it does not tell")
        if state.charging is None and why not in NO_BATTERY:
            return f"it is not known whether the device was on external power: {why}"
    return ""


def _hottest(state: DeviceState) -> float:
    return max(state.temperatures_c.values())


def _own_share(run: Conditions) -> float:
    """What the harness's own earlier rounds may have left in the load average of the last minute."""
    return float(run.threads)


def _moved_clocks(run: Conditions) -> str:
    """The core whose clock moved most from before the samples to after them, in words; empty where none did, or
    nothing tells."""
    used = run.affinity
    series: dict[int, list[int]] = {}
    for look in run.clocks_mhz:
        for core, mhz in look.mhz.items():
            if used is None or core in used:
                series.setdefault(core, []).append(mhz)
    changes = {core: (max(clocks) - min(clocks)) / max(*clocks, 1) for core, clocks in series.items()}
    most = max(changes, key=lambda core: changes[core], default=None)
    if most is None or changes[most] <= CLOCKS_MOVED:
        return ""
    return f"core {most} ran at {min(series[most])} to {max(series[most])} MHz"
