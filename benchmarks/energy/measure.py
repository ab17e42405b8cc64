"""Millijoules of an inference: a run of its own beside a meter, less what the idle device uses.

The meter records an idle device first, then a whole run. Which part of that is the timed inferences, the runner says
itself: it stamps their begin and end by the device's clock since its start, which the samplers on the device read too,
and which this machine's meters are brought to (`monsoon`), with the doubt kept. So loading and warm-up are outside,
and no second run has to be subtracted, which would double the noise. An error of the clocks shifts the window as a
whole; before it is the warm-up, which uses as much, so that only the end counts.

It is a run of its own, after those of the latency, as a sampler on the device would disturb them.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence

from deploy_kit.benchmarks.energy.base import NO_USB, Meter, MeterError, Series
from deploy_kit.benchmarks.energy.battery import Battery
from deploy_kit.benchmarks.energy.monsoon import Monsoon
from deploy_kit.benchmarks.energy.rails import Rails
from deploy_kit.benchmarks.energy.rapl import Rapl
from deploy_kit.benchmarks.measurement import Energy, Round
from deploy_kit.benchmarks.protocol import MOST_ITERATIONS
from deploy_kit.devices.base import Device, DeviceState
from deploy_kit.errors import unknown_name

METERS: dict[str, Callable[[], Meter]] = {"monsoon": Monsoon, "rails": Rails, "rapl": Rapl, "battery": Battery}
"""From the best to the coarsest."""

AUTO, NONE = "auto", "none"

FEWEST_UPDATES = 20
"""Samples that a window needs: what is before and after it may be mixed into the first and the last one."""

SHORTEST_S = 2.0
"""Seconds of a window at least that are aimed for: this machine's meters know a device's clock to some hundredths."""

MARGIN = 1.2
"""How many times what it needs a window is made: the inferences of that run may be quicker."""

MOST_DOUBT = 0.05
"""The part of a window by which the clocks may be off."""

IDLE_S = 5.0
"""Seconds of the idle device, at least."""

SETTLE_S = 2.0
"""Seconds between that and the run."""

AFTER_S = 0.25
"""Seconds that are recorded after the run, at least: samples come in batches, and clocks are a little off."""


def check_name(wanted: str) -> None:
    """`UserError` where there is no such meter."""
    if wanted not in (*METERS, AUTO, NONE):
        raise unknown_name("meter", wanted, (AUTO, NONE, *METERS))


def choose_meter(device: Device, wanted: str) -> Meter:
    """The meter for a device: the one that is wanted, or the best there is.

    Raises:
        MeterError: there is none, with the reason of each.
    """
    if wanted == NONE:
        raise MeterError("not asked for")
    if device.spec.startswith("qemu:"):
        raise MeterError("an emulated processor uses no energy of its own")
    if device.spec.startswith("ios:"):
        raise MeterError("an iPhone runs no programs, and every meter needs one that tells it the phone's clock")
    reasons = []
    for name in METERS if wanted == AUTO else (wanted,):
        meter = METERS[name]()
        reason = meter.unavailable(device)
        reason = _powered(device.state()) if reason is None and meter.battery_only else reason
        if reason is None:
            return meter
        reasons.append(f"{name}: {reason}")
    raise MeterError("; ".join(reasons))


def iterations_for(meter: Meter, asked: int, expected_ns: float) -> int:
    """How many timed inferences a run beside a meter has: those that were asked for, or more where it needs them."""
    needed_s = max(FEWEST_UPDATES * meter.period_s, SHORTEST_S)
    return max(asked, min(math.ceil(MARGIN * needed_s * 1e9 / expected_ns), MOST_ITERATIONS))


def measure_energy(
    device: Device,
    meter: Meter,
    run: Callable[[], Round],
    iterations: int,
    expected_ns: float,
    sleep: Callable[[float], None] = time.sleep,
) -> Energy:
    """The energy of an inference.

    Args:
        run: one run of the runner.
        iterations: how many timed inferences it has.
        expected_ns: how long one will take, as far as is known.

    Raises:
        MeterError: it cannot be measured like that; the reason says what would have to be otherwise.
    """
    needed_s = FEWEST_UPDATES * meter.period_s
    idle_s = max(IDLE_S, needed_s)
    if iterations * expected_ns < needed_s * 1e9:
        lasts_s = iterations * expected_ns / 1e9
        raise MeterError(f"{iterations} inferences take {lasts_s:.3g} s, and the meter needs {needed_s:g} s")
    with meter.record(device) as recording:
        sleep(idle_s + SETTLE_S)
        each = run()
        sleep(max(2 * meter.period_s, AFTER_S))
    if meter.battery_only and (reason := _powered(each.before) or _powered(each.after)):
        raise MeterError(reason)
    begin, end = _window(each)
    window_s, series = end - begin, recording.series
    if not series:
        raise MeterError("the meter gave no samples")
    updates = max(one.updates(begin, end) for one in series)
    if updates < FEWEST_UPDATES / 2:
        more = math.ceil(iterations * FEWEST_UPDATES / 2 / max(updates, 1))
        raise MeterError(f"needs more iterations: {more} or more, as the meter had {updates} new values in the window")
    if recording.clock_s > MOST_DOUBT * window_s:
        more = math.ceil(iterations * recording.clock_s / (MOST_DOUBT * window_s))
        raise MeterError(
            f"needs more iterations: {more} or more, as the clocks may be {recording.clock_s * 1e3:.0f} ms off"
        )
    idle_begin = max(one.times[0] for one in series)
    if idle_begin + idle_s > begin - _before_window(each):
        raise MeterError("the meter began too late to see the idle device")
    baseline = {one.name: one.energy(idle_begin, idle_begin + idle_s) / idle_s for one in series}
    total = {one.name: one.energy(begin, end) for one in series}
    parts = {name: (total[name] - baseline[name] * window_s) * 1e3 / iterations for name in total}
    net = sum(parts.values())
    if net <= 0:
        raise MeterError(
            f"the power while it ran, {sum(total.values()) / window_s * 1e3:.0f} mW, was not above that of the idle "
            f"device, {sum(baseline.values()) * 1e3:.0f} mW"
        )
    powers = _powers(series, begin, end)
    return Energy(
        method=meter.name,
        scope=meter.scope,
        mj_per_inference=net,
        parts_mj=parts,
        iterations=iterations,
        window_s=window_s,
        total_mj=sum(total.values()) * 1e3,
        baseline_mw=sum(baseline.values()) * 1e3,
        baseline_s=idle_s,
        sampling_hz=updates / window_s,
        samples=updates,
        lowest_mw=min(powers) * 1e3,
        highest_mw=max(powers) * 1e3,
        clock_doubt_s=recording.clock_s,
        p50_ms=statistics.median(each.result.samples_ns) / 1e6,
    )


def _powered(state: DeviceState) -> str | None:
    """Why a device's own meters mean nothing now."""
    if state.charging is None:
        return f"the device does not say whether it is charged: {state.unavailable.get('charging', 'no reason given')}"
    return f"the device is on external power, which its own meters do not see: {NO_USB}" if state.charging else None


def _window(each: Round) -> tuple[float, float]:
    """When the timed inferences began and ended, in seconds."""
    window = each.result.window_ns
    if window is None:
        raise MeterError("the runner does not tell when the timed inferences began and ended")
    begin, end = window[0] / 1e9, window[1] / 1e9
    if end - begin < 0.9 * sum(each.result.samples_ns) / 1e9:
        raise MeterError("the runner's window is shorter than its inferences")
    return begin, end


def _before_window(each: Round) -> float:
    """Seconds that the run had lasted when the timed inferences began, at least."""
    result = each.result
    return ((result.load_ns or 0) + sum(result.warmup_ns)) / 1e9


def _powers(series: Sequence[Series], begin: float, end: float) -> list[float]:
    """The power of each sample in the window; the mean alone where several series have samples of their own times."""
    if len(series) == 1:
        return series[0].powers(begin, end)
    return [sum(one.energy(begin, end) for one in series) / (end - begin)]
