"""``deploykit devices``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploy_kit.cli.console import format_number, print_json, print_line, print_table
from deploy_kit.cli.parameters import Json

if TYPE_CHECKING:
    from deploy_kit.devices.base import DeviceInfo, DeviceState


@dataclass(frozen=True)
class Attached:
    """One device: what it is and how it is, or why it cannot be used and what to do about it."""

    spec: str
    info: DeviceInfo | None = None
    state: DeviceState | None = None
    error: str | None = None
    fix: str | None = None


def command(json: Json = False) -> None:
    """List the devices that are attached, what each is and how it is now."""
    from deploy_kit.devices.registry import attached

    devices = [
        Attached(spec, *found) if isinstance(found, tuple) else Attached(spec, error=str(found), fix=found.fix or None)
        for spec, found in attached()
    ]
    if json:
        print_json(devices)
        return
    print_table(
        "devices",
        ["device", "model", "SoC", "cores", "memory", "OS", "ABI", "battery", "thermal", "load"],
        [_row(device.info, device.state) for device in devices if device.info and device.state],
    )
    for device in devices:
        if device.error:
            print_line(f"{device.spec} cannot be used: {device.error}")
            if device.fix:
                print_line(f"  fix: {device.fix}")


def _row(info: DeviceInfo, state: DeviceState) -> tuple[str | None, ...]:
    return (
        info.spec + (" (emulated)" if info.emulated else ""),
        info.model,
        info.soc,
        _cores(info),
        None if info.memory_bytes is None else f"{info.memory_bytes / 2**30:.1f} GiB",
        info.os,
        info.abi,
        _battery(state),
        _thermal(state),
        format_number(state.load, 1),
    )


def _cores(info: DeviceInfo) -> str | None:
    """Such as ``1 prime 2841 MHz, 3 big 2419 MHz, 4 little 1804 MHz``."""
    shown = []
    for cluster in info.clusters:
        name = "" if cluster.name == "all" else f" {cluster.name}"
        shown.append(f"{len(cluster.cores)}{name}" + (f" {cluster.max_mhz} MHz" if cluster.max_mhz else ""))
    return ", ".join(shown) or None


def _battery(state: DeviceState) -> str | None:
    level = None if state.battery_percent is None else f"{state.battery_percent:.0f}%"
    return f"{level or '?'}, charging" if state.charging else level


def _thermal(state: DeviceState) -> str | None:
    """The status, and the hottest that the device has measured."""
    hottest = max(state.temperatures_c.values(), default=None)
    shown = [state.thermal_status, None if hottest is None else f"{hottest:.0f} °C"]
    return ", ".join(filter(None, shown)) or None
