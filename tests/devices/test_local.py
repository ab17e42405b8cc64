"""This machine as a device."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pytest

from deploy_kit.devices.base import DeviceError
from deploy_kit.devices.calls import LARGEST_PULL
from deploy_kit.devices.local import Local
from deploy_kit.devices.registry import get_device
from deploy_kit.errors import UserError
from tests.test_worker import is_running

FOREIGN = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xf3\x00\x01" + bytes(300)


def written(path: Path, data: bytes | str, mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    path.chmod(mode)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_machine_describes_itself() -> None:
    info, state = get_device("local").info(), get_device("local").state()
    assert (info.spec, info.abi, info.emulated) == ("local", platform.machine(), False)
    assert info.memory_bytes
    assert sum(len(cluster.cores) for cluster in info.clusters) > 0
    assert state.load is not None


def test_what_the_kernel_says_is_read_from_its_files(tmp_path: Path) -> None:
    cpu = tmp_path / "sys/devices/system/cpu"
    for core, khz in enumerate((1_800_000, 1_800_000, 2_400_000, 2_400_000)):
        written(cpu / f"cpu{core}/cpufreq/cpuinfo_max_freq", f"{khz}\n")
        written(cpu / f"cpu{core}/cpufreq/scaling_cur_freq", f"{khz // 2}\n")
    written(tmp_path / "sys/class/thermal/thermal_zone0/type", "soc-thermal\n")
    written(tmp_path / "sys/class/thermal/thermal_zone0/temp", "41250\n")
    written(tmp_path / "sys/class/power_supply/BAT0/type", "Battery\n")
    written(tmp_path / "sys/class/power_supply/BAT0/capacity", "64\n")
    written(tmp_path / "sys/class/power_supply/BAT0/status", "Discharging\n")
    written(tmp_path / "proc/meminfo", "MemTotal:        4000000 kB\nMemFree: 1 kB\n")
    written(tmp_path / "proc/loadavg", "0.52 0.30 0.20 1/100 999\n")
    written(tmp_path / "proc/device-tree/model", "Radxa ROCK 5B\0")
    written(tmp_path / "proc/device-tree/compatible", "radxa,rock-5b\0rockchip,rk3588\0")
    written(tmp_path / "etc/os-release", 'NAME="x"\nPRETTY_NAME="Armbian 24.5"\n')
    device = Local(tmp_path)
    info, state = device.info(), device.state()
    assert (info.model, info.soc, info.os) == ("Radxa ROCK 5B", "rockchip,rk3588", "Armbian 24.5")
    assert [(c.name, c.cores, c.max_mhz) for c in info.clusters] == [("big", (2, 3), 2400), ("little", (0, 1), 1800)]
    assert info.memory_bytes == 4_096_000_000
    assert (state.battery_percent, state.charging, state.load) == (64, False, 0.52)
    assert state.temperatures_c == {"soc-thermal": 41.25}
    assert state.clocks_mhz == {0: 900, 1: 900, 2: 1200, 3: 1200}
    assert set(state.unavailable) == {"screen_on", "thermal_status"}


def test_a_program_runs_with_its_words_and_variables() -> None:
    command = ["sh", "-c", 'printf "%s" "$1-$A"; printf err >&2; cat; exit 3', "sh", "a b'\"$x"]
    done = Local().run(command, timeout=10, environment={"A": "1 2"})
    assert (done.returncode, done.stdout, done.stderr) == (3, "a b'\"$x-1 2", "err")
    assert Local().run(["sh", "-c", "kill -9 $$"], timeout=10).returncode == 137


def test_a_program_that_cannot_be_started(tmp_path: Path) -> None:
    assert Local().run([str(tmp_path / "nothing")], timeout=10).returncode == 127
    assert Local().run([str(written(tmp_path / "plain", "x"))], timeout=10).returncode == 126
    with pytest.raises(DeviceError, match="cannot run 'runner', which is made for another machine"):
        Local().run([str(written(tmp_path / "runner", FOREIGN, 0o755))], timeout=10)


def test_what_takes_too_long_is_ended_with_all_it_started(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"after 0\.5 s and was ended"):
        Local().run(["sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; wait"], timeout=0.5)
    assert not is_running(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("mode", [0o644, 0o755])
def test_a_file_goes_there_and_back(tmp_path: Path, mode: int) -> None:
    source = written(tmp_path / "a b", b"data", mode)
    device = Local()
    with device.scratch() as folder:
        device.push(source, f"{folder}/x")
        assert Path(folder, "x").stat().st_mode & 0o777 == mode
        device.pull(f"{folder}/x", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"data"
    assert not Path(folder).exists()


def test_what_cannot_be_copied(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="is not there: what was to write it wrote nothing"):
        Local().pull(str(tmp_path / "nothing"), tmp_path / "x")
    os.truncate(written(tmp_path / "large", ""), LARGEST_PULL + 1)
    with pytest.raises(DeviceError, match=f"large' on local has {LARGEST_PULL + 1} bytes"):
        Local().pull(str(tmp_path / "large"), tmp_path / "x")
    with pytest.raises(DeviceError, match=r"cannot be written: No such file"):
        Local().push(written(tmp_path / "a", b""), str(tmp_path / "missing" / "x"))
    with pytest.raises(ValueError, match="no folder that was made here"):
        Local().remove(str(tmp_path))


@pytest.mark.parametrize("spec", ["lokal", "", "Local", ":x"])
def test_an_unknown_kind_of_device_is_the_users_mistake(spec: str) -> None:
    with pytest.raises(UserError, match="there is no kind of device called"):
        get_device(spec)


def test_this_machine_has_no_serial() -> None:
    with pytest.raises(UserError, match="local:0 is no device"):
        get_device("local:0")
