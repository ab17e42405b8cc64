"""What devices say of themselves, read from texts of several phones and boards."""

from __future__ import annotations

import pytest

from deploy_kit.devices.base import Cluster, DeviceError
from deploy_kit.devices.description import describe, observe

ANDROID = """
== uname
Linux
5.4.210-qgki
aarch64

== bits
64

== cpuinfo
processor	: 0
Hardware	: Qualcomm Technologies, Inc SM8350

== meminfo
MemTotal:        7572840 kB
MemFree:          310000 kB

== loadavg
3.07 2.51 2.40 2/4100 12001
"""
GALAXY = (
    ANDROID
    + """
== getprop ro.product.model
SM-G991B

== getprop ro.soc.model
SM8350

== getprop ro.board.platform
lahaina

== getprop ro.build.version.release
14

== getprop ro.product.cpu.abi
arm64-v8a

== getprop ro.kernel.qemu

== zones
sys/class/thermal/thermal_zone0/type:aoss-0
sys/class/thermal/thermal_zone1/type:cpu-1-0
sys/class/thermal/thermal_zone2/type:cpu-1-0
sys/class/thermal/thermal_zone3/type:modem
sys/class/thermal/thermal_zone0/temp:38200
sys/class/thermal/thermal_zone1/temp:41000
sys/class/thermal/thermal_zone2/temp:41300
sys/class/thermal/thermal_zone3/temp:-273000

== battery
Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Max charging current: 500000
  status: 2
  health: 2
  present: true
  level: 83
  scale: 100
  voltage: 4212
  temperature: 288
  technology: Li-ion

== power
  mWakefulness=Asleep
Display Power: state=OFF

== thermalservice
IsStatusOverride: false
ThermalEventListeners:
	callbacks: 1
Thermal Status: 2
Cached temperatures:
	Temperature{mValue=99.0, mType=3, mName=OLD, mStatus=0}
HAL Ready: true
Current temperatures from HAL:
	Temperature{mValue=36.5, mType=3, mName=SKIN, mStatus=0}
	Temperature{mValue=28.8, mType=2, mName=BATTERY, mStatus=0}
Current cooling devices from HAL:
	CoolingDevice{mValue=0, mType=2, mName=thermal-cpufreq-0}

== end
"""
)


def part(name: str, *lines: str) -> str:
    return "\n".join(["", f"== {name}", *lines, ""])


def cpus(*mhz: float | None, off: tuple[int, ...] = (), capacity: tuple[int, ...] = ()) -> str:
    """Cores with their highest clocks; a core that is off has no cpufreq, as on phones."""
    place = "sys/devices/system/cpu/cpu"
    count = len(mhz)
    return (
        part("cpus", *(f"{place}{core}" for core in sorted(range(count), key=str)))
        + part("online", *(f"{place}{core}/online:{int(core not in off)}" for core in range(1, count)))
        + part("capacity", *(f"{place}{core}/cpu_capacity:{value}" for core, value in enumerate(capacity)))
        + part(
            "highest",
            *(
                f"{place}{core}/cpufreq/cpuinfo_max_freq:{round(value * 1000)}"
                for core, value in enumerate(mhz)
                if value is not None and core not in off
            ),
        )
    )


def clusters(text: str) -> list[tuple[str, tuple[int, ...], int | None]]:
    return [(c.name, c.cores, c.max_mhz) for c in describe("local", ANDROID + text).clusters]


def test_a_galaxy_s21() -> None:
    info = describe("adb:R5", GALAXY + cpus(1804.8, 1804.8, 1804.8, 1804.8, 2419.2, 2419.2, 2419.2, 2841.6))
    assert (info.model, info.soc, info.os, info.abi) == ("SM-G991B", "SM8350", "Android 14", "aarch64")
    assert info.memory_bytes == 7572840 * 1024
    assert not info.emulated
    assert info.clusters == (
        Cluster(name="prime", cores=(7,), max_mhz=2842),
        Cluster(name="big", cores=(4, 5, 6), max_mhz=2419),
        Cluster(name="little", cores=(0, 1, 2, 3), max_mhz=1805),
    )
    state = observe(GALAXY)
    assert (state.battery_percent, state.charging, state.screen_on) == (83, True, False)
    assert (state.thermal_status, state.load, state.runnable) == ("moderate", 3.07, 1)
    assert state.temperatures_c == {"aoss-0": 38.2, "cpu-1-0 (1)": 41.0, "cpu-1-0 (2)": 41.3}
    assert set(state.unavailable) == {"temperatures_c", "clocks_mhz"}
    assert state.unavailable["temperatures_c"].startswith("modem says -273000")


@pytest.mark.parametrize(
    ("text", "runnable"),
    [("0.52 0.30 0.20 1/100 999", 0), ("9.52 0.30 0.20 12/4100 999", 11), ("9.52 0.30 0.20", None), ("", None)],
)
def test_threads_that_want_to_run_are_those_beside_the_reader(text: str, runnable: int | None) -> None:
    assert observe(part("loadavg", text)).runnable == runnable


def test_where_the_zones_are_closed_the_thermal_service_tells() -> None:
    text = GALAXY.replace("sys/class/thermal", "closed")
    assert observe(text).temperatures_c == {"SKIN": 36.5, "BATTERY": 28.8}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            cpus(1803, 1803, 1803, 1803, 2253, 2253, 2802, 2802),
            [("prime", (6, 7), 2802), ("big", (4, 5), 2253), ("little", (0, 1, 2, 3), 1803)],
            id="Tensor, 4+2+2",
        ),
        pytest.param(
            cpus(2265, 2265, 3148, 3148, 3148, 2956, 2956, 3302),
            [("prime", (7,), 3302), ("big", (2, 3, 4, 5, 6), 3148), ("little", (0, 1), 2265)],
            id="Snapdragon 8 Gen 3, 2+3+2+1",
        ),
        pytest.param(cpus(*[2001] * 8), [("all", tuple(range(8)), 2001)], id="Helio P22, all alike"),
        pytest.param(
            cpus(*[1800] * 4, *[2300] * 4),
            [("big", (4, 5, 6, 7), 2300), ("little", (0, 1, 2, 3), 1800)],
            id="Helio P35, two kinds",
        ),
        pytest.param(
            cpus(*[1612] * 8, capacity=(*[512] * 6, 1024, 1024)),
            [("big", (6, 7), 1612), ("little", tuple(range(6)), 1612)],
            id="Unisoc T606, two kinds at one clock",
        ),
        pytest.param(
            cpus(*[1804] * 4, *[2419] * 3, 2841, off=(5, 7)),
            [("big", (4, 6), 2419), ("little", (0, 1, 2, 3), 1804)],
            id="cores that are off",
        ),
        pytest.param(cpus(None, None, None, None), [("all", (0, 1, 2, 3), None)], id="no cpufreq"),
        pytest.param(
            cpus(None, None, None, capacity=(400, 1024, 1024)),
            [("big", (1, 2), None), ("little", (0,), None)],
            id="capacity and no cpufreq",
        ),
        pytest.param(cpus(1800, None, 2400), [("all", (0, 1, 2), None)], id="a core that does not tell"),
        pytest.param(cpus(*[3000] * 12), [("all", tuple(range(12)), 3000)], id="more than ten"),
        pytest.param(
            cpus(2000, 1000).replace(":1000000", ":<unknown>"), [("all", (0, 1), None)], id="a damaged number"
        ),
        pytest.param(part("cpus"), [("all", (0,), None)], id="/sys is closed: /proc/cpuinfo"),
    ],
)
def test_clusters(text: str, expected: list[tuple[str, tuple[int, ...], int | None]]) -> None:
    assert clusters(text) == expected


def test_clocks_are_by_core() -> None:
    place = "sys/devices/system/cpu/cpu"
    current = part("current", *(f"{place}{core}/cpufreq/scaling_cur_freq:{300000 * (core + 1)}" for core in (0, 10, 2)))
    state = observe(ANDROID + current)
    assert state.clocks_mhz == {0: 300, 2: 900, 10: 3300}
    assert list(state.clocks_mhz) == [0, 2, 10]


@pytest.mark.parametrize(
    ("android", "machine", "bits", "abi"),
    [
        ("armeabi-v7a", "aarch64", "32", "armv7l"),
        ("x86_64", "x86_64", "64", "x86_64"),
        ("x86", "i686", "32", "i686"),
        ("", "aarch64", "64", "aarch64"),
        ("", "aarch64", "32", "armv7l"),
        ("", "aarch64", "", "aarch64"),
        ("", "armv7l", "32", "armv7l"),
        ("", "arm64", "64", "aarch64"),
        ("", "riscv64", "64", "riscv64"),
    ],
)
def test_the_abi_is_that_of_programs(android: str, machine: str, bits: str, abi: str) -> None:
    text = part("uname", "Linux", "6.1", machine) + part("bits", bits) + part("getprop ro.product.cpu.abi", android)
    assert describe("local", text).abi == abi


def test_boards_with_linux() -> None:
    board = part("uname", "Linux", "6.6.31-v8+", "aarch64") + part("os-release", 'PRETTY_NAME="Debian GNU/Linux 12"')
    pi = describe(
        "ssh:pi@pi",
        board
        + part("board", "Raspberry Pi 4 Model B Rev 1.4")
        + part("compatible", "raspberrypi,4-model-b", "brcm,bcm2711"),
    )
    assert (pi.model, pi.soc, pi.os) == ("Raspberry Pi 4 Model B Rev 1.4", "brcm,bcm2711", "Debian GNU/Linux 12")
    server = describe(
        "local",
        part("uname", "Linux", "6.1.0", "x86_64")
        + part("cpuinfo", "model name	: AMD EPYC 9B45")
        + part("product", "X11"),
    )
    assert (server.model, server.soc, server.os, server.memory_bytes) == ("X11", "AMD EPYC 9B45", "Linux 6.1.0", None)
    assert server.clusters == ()


def test_an_emulator_is_one() -> None:
    assert describe("adb:emulator-5554", GALAXY.replace("ro.kernel.qemu\n", "ro.kernel.qemu\n1\n")).emulated
    assert describe("qemu:aarch64", ANDROID, emulated=True).emulated


def test_older_phones_name_their_platform() -> None:
    assert (
        describe("adb:1", GALAXY.replace("SM8350\n\n== getprop ro.board", "\n\n== getprop ro.board")).soc == "lahaina"
    )
    without = GALAXY.replace("== getprop ro.soc.model", "== x").replace("lahaina", "unknown")
    assert describe("adb:1", without).soc == "Qualcomm Technologies, Inc SM8350"


@pytest.mark.parametrize("text", ["", "sh: permission denied\n", "== uname\n", "== uname\nLinux\n5.4\n<html>\n"])
def test_what_does_not_say_its_machine_is_no_device(text: str) -> None:
    with pytest.raises(DeviceError, match="adb:1 does not say what kind of machine it is"):
        describe("adb:1", text)


@pytest.mark.parametrize(
    ("old", "new", "percent", "charging", "reason"),
    [
        ("USB powered: true", "USB powered: false", 83, True, None),  # by its status
        ("  status: 2\n", "  status: 5\n", 83, True, None),  # full, and plugged in
        ("  USB powered: true\n", "", 83, True, None),
        ("  USB powered: true\n  Wireless powered: false\n", "  Wireless powered: true\n", 83, True, None),
        ("  scale: 100", "  scale: 200", 41.5, True, None),
        ("  level: 83", "  level: -1", None, True, "level -1 of 100"),
        ("  level: 83", "  level: 830", None, True, "level 830 of 100"),
        ("  present: true", "  present: false", None, None, "no battery"),
        ("Current Battery Service state:", "  (UPDATES STOPPED -- use 'reset' to restart)", None, None, "set by hand"),
    ],
)
def test_batteries_of_phones(
    old: str, new: str, percent: float | None, charging: bool | None, reason: str | None
) -> None:
    assert old in GALAXY
    state = observe(GALAXY.replace(old, new))
    assert (state.battery_percent, state.charging) == (percent, charging)
    assert (reason is None) == ("battery_percent" not in state.unavailable)
    assert (reason or "") in state.unavailable.get("battery_percent", "")


def test_a_phone_on_its_battery_is_not_charging() -> None:
    text = GALAXY.replace("USB powered: true", "USB powered: false").replace("  status: 2\n", "  status: 3\n")
    assert observe(text).charging is False
    nothing = observe(text.replace(" powered: false", " xx: ?").replace("  status: 3\n", "  status: 1\n"))
    assert nothing.charging is None
    assert nothing.unavailable["charging"] == "it says status 1 and not what powers it"


@pytest.mark.parametrize(
    ("supplies", "percent", "charging"),
    [
        ({"BAT0/type": "Battery", "BAT0/capacity": "71", "BAT0/status": "Charging"}, 71, True),
        (
            {
                "BAT0/type": "Battery",
                "BAT0/capacity": "71",
                "BAT0/status": "Full",
                "AC/type": "Mains",
                "AC/online": "1",
            },
            71,
            True,
        ),
        ({"BAT0/type": "Battery", "BAT0/capacity": "71", "AC/type": "Mains", "AC/online": "0"}, 71, False),
        ({"BAT0/type": "Battery", "BAT0/capacity": "71", "BAT0/status": "Unknown"}, 71, None),
        ({"BAT0/type": "Battery", "BAT0/capacity": "x", "BAT0/status": "Discharging"}, None, False),
        ({"AC/type": "Mains", "AC/online": "1"}, None, None),
        ({}, None, None),
    ],
)
def test_batteries_of_computers(supplies: dict[str, str], percent: float | None, charging: bool | None) -> None:
    lines = [f"sys/class/power_supply/{name}:{value}" for name, value in supplies.items()]
    state = observe(part("supplies", *lines))
    assert (state.battery_percent, state.charging) == (percent, charging)
    assert (percent is None) == ("battery_percent" in state.unavailable)
    assert (charging is None) == ("charging" in state.unavailable)


@pytest.mark.parametrize(
    ("shown", "on"),
    [
        ("  mWakefulness=Awake\nDisplay Power: state=ON", True),
        ("  mWakefulness=Awake", True),
        ("  mWakefulness=Dozing\nDisplay Power: state=DOZE", False),
        ("  mWakefulness=Asleep", False),
        ("Display Power: state=WEIRD", None),
        ("Can't find service: power", None),
        ("", None),
    ],
)
def test_the_screen(shown: str, on: bool | None) -> None:
    state = observe(part("power", shown))
    assert state.screen_on is on
    assert ("screen_on" in state.unavailable) == (on is None)


@pytest.mark.parametrize(
    ("shown", "status"),
    [
        ("Thermal Status: 0", "none"),
        ("Thermal Status: 6", "shutdown"),
        ("Thermal Status: 7", None),
        ("Can't find service: thermalservice", None),
        ("", None),
    ],
)
def test_the_thermal_status(shown: str, status: str | None) -> None:
    state = observe(part("thermalservice", shown))
    assert state.thermal_status == status
    if status is None:
        assert state.unavailable["thermal_status"] == (shown or "the device does not tell")


@pytest.mark.parametrize("value", ["45", "0", "", "hot", "500000"])
def test_a_zone_that_is_no_temperature_is_left_out_and_said(value: str) -> None:
    zone = "sys/class/thermal/thermal_zone0"
    state = observe(part("zones", f"{zone}/type:tsens", f"{zone}/temp:{value}"))
    assert state.temperatures_c == {}
    assert state.unavailable["temperatures_c"].startswith(f"tsens says {value}")


def test_nothing_is_invented_for_a_device_that_says_nothing() -> None:
    state = observe("")
    fields = set(type(state).model_fields) - {"unavailable"}
    assert set(state.unavailable) == fields
    assert not any(getattr(state, name) for name in fields)
    assert all(state.unavailable.values())


def test_windows_line_ends_are_read() -> None:
    assert describe("adb:1", GALAXY.replace("\n", "\r\n")) == describe("adb:1", GALAXY)
    assert observe(GALAXY.replace("\n", "\r\n")) == observe(GALAXY)
