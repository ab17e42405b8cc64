"""Sampling in the background: by a thread here, or by a shell script on the device."""

from __future__ import annotations

import re
import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from deploy_kit.benchmarks.energy.base import MeterError
from deploy_kit.devices.base import Device, DeviceError

LONGEST_S = 3600
"""Seconds after which a sampler ends by itself, whatever became of who started it."""

_LOOP = """stop=$1; left={count}
until [ -e "$stop" ] || [ $left -eq 0 ]; do
  read -r up idle < /proc/uptime && echo "== $up"
  {reading}
  left=$((left - 1)); sleep {period}
done"""
"""Each reading is headed by the device's clock; a shell's own `read` starts no process."""


@contextmanager
def in_thread(work: Callable[[threading.Event], None], what: str) -> Iterator[None]:
    """Run ``work`` beside the body until the event that it is given is set; `MeterError` where it fails."""
    stop, failures = threading.Event(), []

    def run() -> None:
        try:
            work(stop)
        except Exception as error:  # whatever a driver raises: it belongs to whoever waits
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=30)
    if thread.is_alive():
        raise MeterError(f"{what} does not end")
    if failures:
        said = (str(failures[0]).strip().splitlines() or [type(failures[0]).__name__])[0]
        raise MeterError(f"{what} was lost while it measured: {said}") from failures[0]


@contextmanager
def on_device(device: Device, reading: str, period_s: float) -> Iterator[list[tuple[float, str]]]:
    """Run a line of shell on a device again and again beside the body.

    Yields:
        What it printed each time, with the device's clock in seconds; filled when the body has ended.
    """
    found: list[tuple[float, str]] = []
    script = _LOOP.format(reading=reading, period=f"{period_s:g}", count=round(LONGEST_S / period_s))
    with device.scratch() as folder:
        end, told = f"{folder}/stop", threading.Event()

        def work(_: threading.Event) -> None:
            done = device.run(["sh", "-c", script, "sh", end], timeout=LONGEST_S)
            if not told.is_set():
                raise DeviceError(f"the sampler ended: {done.stderr.strip() or done.returncode}")
            found.extend(readings(done.stdout))

        with in_thread(work, "the sampler on the device"):
            try:
                yield found
            finally:
                told.set()
                with suppress(DeviceError):
                    device.run(["touch", end], timeout=30)


def readings(text: str) -> list[tuple[float, str]]:
    """What a sampler printed, by the device's clock."""
    parts = re.split(r"^== (\d+\.\d+)\n", text, flags=re.MULTILINE)[1:]
    return [(float(time), body) for time, body in zip(parts[::2], parts[1::2])]


def once(device: Device, reading: str) -> str:
    """What a line of shell prints on a device."""
    return device.run(["sh", "-c", reading], timeout=30).stdout


def quoted(root: str, path: str) -> str:
    """A path below a root for a script; what is after the root may have the shell's own patterns."""
    return shlex.quote(root.rstrip("/")) + path if root.rstrip("/") else path
