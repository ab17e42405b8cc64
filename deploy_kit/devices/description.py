"""What a device says of itself: one script that it runs, and pure functions that read what the script prints.

The script is the same for this machine, phones, boards and emulated ones. Each part of its output is headed by
``== name``; what a device has not, or does not let be read, is an empty part or an error message in it.
"""

from __future__ import annotations

import re

from deploy_kit.devices.base import Cluster, DeviceError, DeviceInfo, DeviceState

_PROPERTIES = (
    "ro.product.model",
    "ro.soc.model",
    "ro.board.platform",
    "ro.build.version.release",
    "ro.product.cpu.abi",
    "ro.kernel.qemu",
    "ro.boot.qemu",
)
_CPU = "sys/devices/system/cpu/cpu[0-9]*"

SCRIPT = f"""cd "${{1:-/}}" || exit 1
exec 2>/dev/null
part() {{ echo; echo "== $*"; }}
part uname; uname -s; uname -r; uname -m
part bits; getconf LONG_BIT
part os-release; cat etc/os-release
part cpuinfo; cat proc/cpuinfo
part meminfo; cat proc/meminfo
part loadavg; cat proc/loadavg 2>&1
part board; cat proc/device-tree/model | tr '\\0' '\\n'
part compatible; cat proc/device-tree/compatible | tr '\\0' '\\n'
part product; cat sys/class/dmi/id/product_name
part cpus; ls -d {_CPU}
part online; grep -sH . {_CPU}/online
part capacity; grep -sH . {_CPU}/cpu_capacity
part highest; grep -sH . {_CPU}/cpufreq/cpuinfo_max_freq
part current; grep -sH . {_CPU}/cpufreq/scaling_cur_freq
part zones; grep -sH . sys/class/thermal/thermal_zone*/type sys/class/thermal/thermal_zone*/temp
part supplies; grep -sH . sys/class/power_supply/*/type sys/class/power_supply/*/online \\
  sys/class/power_supply/*/capacity sys/class/power_supply/*/status
if command -v getprop >/dev/null; then
  for name in {" ".join(_PROPERTIES)}; do part "getprop $name"; getprop "$name"; done
  part battery; dumpsys battery 2>&1
  part power; dumpsys power 2>&1 | grep -E "mWakefulness=|Display Power: state=|find service"
  part thermalservice; dumpsys thermalservice 2>&1
fi
part end
"""
"""Run as ``sh -c SCRIPT sh ROOT``; ROOT is where ``/proc``, ``/sys`` and ``/etc`` are, ``/`` unless it is given."""

THERMAL = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
"""Android's thermal statuses by number."""

_ABIS = {"arm64-v8a": "aarch64", "armeabi-v7a": "armv7l", "armeabi": "armv7l", "x86": "i686", "arm64": "aarch64"}
_NARROW = {"aarch64": "armv7l", "armv8l": "armv7l", "x86_64": "i686"}
"""What a 64-bit kernel runs where programs have 32 bits."""

_SILENT = "the device does not tell"

NO_BATTERY = ("it has no battery", "it has no battery that the kernel knows")
"""Why it is not known whether a device is charged, where there is nothing to charge."""


def sections(text: str) -> dict[str, str]:
    """The parts of what `SCRIPT` printed, by name; a part that the device does not have is missing."""
    found: dict[str, str] = {}
    for part in re.split(r"^== ", text.replace("\r\n", "\n"), flags=re.MULTILINE)[1:]:
        name, _, body = part.partition("\n")
        found[name.strip()] = body.strip()
    return found


def describe(spec: str, text: str, *, emulated: bool = False) -> DeviceInfo:
    """What a device is, from what `SCRIPT` printed on it; None is what it does not tell.

    Args:
        spec: what ``--device`` takes for it.
        text: the output.
        emulated: whether it is known to be emulated; an Android emulator says so by itself.

    Raises:
        DeviceError: it does not even say what kind of machine it is.
    """
    parts = sections(text)
    uname = parts.get("uname", "").splitlines()
    properties = {name: _value(parts.get(f"getprop {name}")) for name in _PROPERTIES}
    abi = _abi(properties["ro.product.cpu.abi"], uname, parts.get("bits", ""))
    if abi is None:
        raise DeviceError(
            f"{spec} does not say what kind of machine it is: {text.strip()[:200] or 'it printed nothing'}",
            fix="see that a shell with `uname` runs on it",
        )
    android = "battery" in parts or properties["ro.build.version.release"] is not None
    if android:
        release = properties["ro.build.version.release"]
        system: str | None = f"Android {release}" if release else "Android"
        model = properties["ro.product.model"]
        soc = properties["ro.soc.model"] or properties["ro.board.platform"] or _cpu_field(parts, "Hardware")
    else:
        system = _os(parts.get("os-release", "")) or " ".join(uname[:2]) or None
        model = _line(parts, "board") or _line(parts, "product") or _cpu_field(parts, "Model")
        compatible = _lines(parts, "compatible")
        soc = compatible[-1] if compatible else _cpu_field(parts, "Hardware") or _cpu_field(parts, "model name")
    return DeviceInfo(
        spec=spec,
        model=model,
        soc=soc,
        os=system,
        abi=abi,
        clusters=_clusters(parts),
        memory_bytes=_memory(parts.get("meminfo", "")),
        emulated=emulated or "1" in (properties["ro.kernel.qemu"], properties["ro.boot.qemu"]),
    )


def observe(text: str) -> DeviceState:
    """How a device was while it printed what `SCRIPT` prints; ``unavailable`` has the reason for each None."""
    parts = sections(text)
    unavailable: dict[str, str] = {}
    percent, charging = (_android_battery if "battery" in parts else _linux_battery)(parts, unavailable)
    return DeviceState(
        battery_percent=percent,
        charging=charging,
        screen_on=_screen(parts, unavailable),
        thermal_status=_thermal(parts, unavailable),
        temperatures_c=_temperatures(parts, unavailable),
        clocks_mhz=_clocks(parts, unavailable),
        load=_load(parts, unavailable),
        runnable=_runnable(parts, unavailable),
        unavailable=unavailable,
    )


def _abi(android: str | None, uname: list[str], bits: str) -> str | None:
    if android and re.fullmatch(r"[\w-]+", android):
        return _ABIS.get(android, android)
    machine = uname[2].strip() if len(uname) > 2 else ""
    if not re.fullmatch(r"\w+", machine):
        return None
    machine = _ABIS.get(machine, machine)
    return _NARROW.get(machine, machine) if bits == "32" else machine


def _os(text: str) -> str | None:
    found = re.search(r'^PRETTY_NAME="?([^"\n]+)"?\s*$', text, re.MULTILINE)
    return found[1] if found else None


def _memory(text: str) -> int | None:
    found = re.search(r"^MemTotal:\s+(\d+) kB\s*$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _clusters(parts: dict[str, str]) -> tuple[Cluster, ...]:
    """Cores that are on, by their highest clocks, and by capacity where two kinds share a clock.

    Of more than three kinds the fastest is ``prime``, the slowest ``little``, and those between are ``big``.
    """
    online = _by_core(parts, "online")
    cores = [core for core in _cores(parts) if online.get(core, 1) != 0]
    if not cores:
        return ()
    clocks, capacities = _by_core(parts, "highest"), _by_core(parts, "capacity")
    usable = [known for known in (clocks, capacities) if all(core in known for core in cores)]
    ranks = {core: tuple(known[core] for known in usable) for core in cores}
    groups = sorted(set(ranks.values()), reverse=True)
    names = {1: ["all"], 2: ["big", "little"]}.get(len(groups), ["prime", *["big"] * (len(groups) - 2), "little"])
    name_of = dict(zip(groups, names))
    clusters = []
    for name in dict.fromkeys(names):
        members = tuple(core for core in cores if name_of[ranks[core]] == name)
        highest = max(clocks[core] for core in members) if clocks in usable else None
        clusters.append(Cluster(name=name, cores=members, max_mhz=highest and round(highest / 1000)))
    return tuple(clusters)


def _cores(parts: dict[str, str]) -> list[int]:
    """All cores, on or off."""
    listed = re.findall(r"^sys/devices/system/cpu/cpu(\d+)$", parts.get("cpus", ""), re.MULTILINE)
    listed = listed or re.findall(r"^processor\s*:\s*(\d+)\s*$", parts.get("cpuinfo", ""), re.MULTILINE)
    return sorted({int(core) for core in listed})


def _by_core(parts: dict[str, str], name: str) -> dict[int, int]:
    """Numbers that the kernel gives by core; those that are no numbers are left out."""
    found = re.findall(r"^sys/devices/system/cpu/cpu(\d+)/[\w/]+:(\d+)\s*$", parts.get(name, ""), re.MULTILINE)
    return {int(core): int(value) for core, value in found}


def _clocks(parts: dict[str, str], unavailable: dict[str, str]) -> dict[int, int]:
    clocks = {core: round(khz / 1000) for core, khz in sorted(_by_core(parts, "current").items())}
    if not clocks:
        unavailable["clocks_mhz"] = "the kernel gives no cpufreq, or does not let it be read"
    return clocks


def _load(parts: dict[str, str], unavailable: dict[str, str]) -> float | None:
    found = re.match(r"\d+\.\d+(?= )", parts.get("loadavg", ""))
    if not found:
        unavailable["load"] = parts.get("loadavg") or _SILENT
    return float(found[0]) if found else None


def _runnable(parts: dict[str, str], unavailable: dict[str, str]) -> int | None:
    """From the fourth field, which counts also the program that reads it."""
    found = re.match(r"(?:\d+\.\d+ ){3}(\d{1,9})/\d", parts.get("loadavg", ""))
    if not found:
        unavailable["runnable"] = parts.get("loadavg") or _SILENT
    return max(int(found[1]) - 1, 0) if found else None


def _android_battery(parts: dict[str, str], unavailable: dict[str, str]) -> tuple[float | None, bool | None]:
    """Level and whether it is charged, from ``dumpsys battery``."""
    text = parts["battery"]
    values = dict(re.findall(r"^\s*([A-Za-z ]+): (\S+)\s*$", text, re.MULTILINE))
    reason = ""
    if "UPDATES STOPPED" in text:
        reason = "its values are set by hand; `adb shell dumpsys battery reset` ends that"
    elif values.get("present") == "false":
        reason = NO_BATTERY[0]
    elif not values:
        reason = text or _SILENT
    if reason:
        unavailable.update(battery_percent=reason, charging=reason)
        return None, None
    level, scale = values.get("level", ""), values.get("scale", "100")
    percent = None
    if level.isdigit() and scale.isdigit() and 0 <= int(level) <= int(scale) != 0:
        percent = 100 * int(level) / int(scale)
    else:
        unavailable["battery_percent"] = f"it says level {level or 'nothing'} of {scale}"
    powered = [value for name, value in values.items() if name.endswith(" powered")]
    charging: bool | None
    if "true" in powered or values.get("status") == "2":
        charging = True
    elif "false" in powered or values.get("status") in ("3", "4"):  # discharging, not charging
        charging = False
    else:
        charging = None
        unavailable["charging"] = f"it says status {values.get('status', 'nothing')} and not what powers it"
    return percent, charging


def _linux_battery(parts: dict[str, str], unavailable: dict[str, str]) -> tuple[float | None, bool | None]:
    """The same from ``/sys/class/power_supply``."""
    supplies: dict[str, dict[str, str]] = {}
    for name, key, value in re.findall(
        r"^sys/class/power_supply/([^/]+)/(\w+):(.+)$", parts.get("supplies", ""), re.MULTILINE
    ):
        supplies.setdefault(name, {})[key] = value.strip()
    batteries = [supply for supply in supplies.values() if supply.get("type") == "Battery" and "capacity" in supply]
    if not batteries:
        unavailable.update(dict.fromkeys(("battery_percent", "charging"), NO_BATTERY[1]))
        return None, None
    level, status = batteries[0]["capacity"], batteries[0].get("status")
    percent = float(level) if level.isdigit() and int(level) <= 100 else None
    if percent is None:
        unavailable["battery_percent"] = f"it says {level}"
    others = [supply.get("online") for supply in supplies.values() if supply.get("type") != "Battery"]
    charging: bool | None
    if "1" in others or status == "Charging":
        charging = True
    elif "0" in others or status in ("Discharging", "Not charging"):
        charging = False
    else:
        charging = None
        unavailable["charging"] = f"it says {status or 'nothing'}"
    return percent, charging


def _screen(parts: dict[str, str], unavailable: dict[str, str]) -> bool | None:
    if "power" not in parts:
        unavailable["screen_on"] = "only Android tells"
        return None
    display = re.search(r"Display Power: state=(\w+)", parts["power"])
    awake = re.search(r"mWakefulness=(\w+)", parts["power"])
    if display and display[1] in ("ON", "OFF", "DOZE", "DOZE_SUSPEND", "ON_SUSPEND"):
        return display[1] in ("ON", "ON_SUSPEND")
    if awake and awake[1] in ("Awake", "Dreaming", "Asleep", "Dozing"):
        return awake[1] in ("Awake", "Dreaming")
    unavailable["screen_on"] = parts["power"] or _SILENT
    return None


def _thermal(parts: dict[str, str], unavailable: dict[str, str]) -> str | None:
    if "thermalservice" not in parts:
        unavailable["thermal_status"] = "only Android tells"
        return None
    found = re.search(r"^Thermal Status: (\d+)\s*$", parts["thermalservice"], re.MULTILINE)
    if found and int(found[1]) < len(THERMAL):
        return THERMAL[int(found[1])]
    unavailable["thermal_status"] = found[0] if found else parts["thermalservice"].partition("\n")[0] or _SILENT
    return None


def _temperatures(parts: dict[str, str], unavailable: dict[str, str]) -> dict[str, float]:
    """By the kernel's zones; by what Android's thermal service has measured where those are closed."""
    zones: dict[str, dict[str, str]] = {}
    for zone, key, value in re.findall(
        r"^sys/class/thermal/thermal_zone(\d+)/(\w+):(.*)$", parts.get("zones", ""), re.MULTILINE
    ):
        zones.setdefault(zone, {})[key] = value.strip()
    types = [zone.get("type", "") for zone in zones.values()]
    found, damaged = {}, []
    for number, zone in zones.items():
        kind = zone.get("type", "")
        name = kind if kind and types.count(kind) == 1 else f"{kind or 'zone'} ({number})"
        try:
            celsius = int(zone["temp"]) / 1000
        except (KeyError, ValueError):
            damaged.append(f"{name} says {zone.get('temp', 'nothing')}")
            continue
        if 1 <= abs(celsius) < 200:
            found[name] = celsius
        else:
            damaged.append(f"{name} says {zone['temp']}, which is no temperature in thousandths of a degree")
    if not found:
        _, _, measured = parts.get("thermalservice", "").partition("Current temperatures from HAL:")
        measured, _, _ = measured.partition("\nCurrent cooling")
        for value, name in re.findall(r"Temperature\{mValue=(-?\d+(?:\.\d+)?), mType=-?\d+, mName=([^,}]+)", measured):
            if 1 <= abs(float(value)) < 200:
                found[name] = float(value)
    if damaged:
        unavailable["temperatures_c"] = "; ".join(damaged)
    elif not found:
        unavailable["temperatures_c"] = "the kernel gives no thermal zones, or does not let them be read"
    return found


def _value(text: str | None) -> str | None:
    """A property, where it is set; ``unknown`` is Android's word for one that is not."""
    return text if text and "\n" not in text and text != "unknown" else None


def _line(parts: dict[str, str], name: str) -> str | None:
    lines = _lines(parts, name)
    return lines[0] if lines else None


def _lines(parts: dict[str, str], name: str) -> list[str]:
    return [line.strip() for line in parts.get(name, "").splitlines() if line.strip()]


def _cpu_field(parts: dict[str, str], name: str) -> str | None:
    found = re.search(rf"^{name}\s*:\s*(\S.*?)\s*$", parts.get("cpuinfo", ""), re.MULTILINE)
    return found[1] if found else None
