"""ARM64 programs on this machine, under qemu's emulation of a processor: what they compute, and not how fast."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy_kit.devices.base import Completed, DeviceInfo, DeviceState
from deploy_kit.devices.local import Local
from deploy_kit.errors import MissingDependencyError, UserError

ABI = "aarch64"
QEMU = "qemu-aarch64"
INSTALL = "sudo apt-get install qemu-user"
CPU = "cortex-a76"
CPUINFO = """\
processor\t: 0
BogoMIPS\t: 48.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

"""


class Qemu(Local):
    """An emulated core; runtimes see the processor that is emulated in ``/proc/cpuinfo``, and one of it."""

    spec = f"qemu:{ABI}"

    def __init__(self, abi: str | None = ABI):
        super().__init__()
        if abi not in (None, ABI):
            raise UserError(f"there is no emulated device qemu:{abi}", fix=f"choose qemu:{ABI}")
        qemu = shutil.which(QEMU) or shutil.which(f"{QEMU}-static")
        if qemu is None:
            raise MissingDependencyError(f"{self.spec} needs {QEMU}, which is not installed", fix=INSTALL)
        self._qemu = qemu
        self._folder = tempfile.TemporaryDirectory(prefix="deploykit-")
        write_root(Path(self._folder.name))

    def info(self) -> DeviceInfo:
        version = Local.run(self, [self._qemu, "--version"], timeout=30).stdout.split()
        number = version[version.index("version") + 1] if "version" in version else "of an unknown version"
        return DeviceInfo(
            spec=self.spec,
            model=f"qemu {number}",
            soc=CPU,
            os=None,
            abi=ABI,
            clusters=(),
            memory_bytes=None,
            emulated=True,
        )

    def state(self) -> DeviceState:
        missing = ("battery_percent", "charging", "screen_on", "thermal_status", "temperatures_c", "clocks_mhz", "load")
        return DeviceState(unavailable=dict.fromkeys(missing, "an emulated device has none"))

    def run(self, command: Sequence[str], *, timeout: float, environment: Mapping[str, str] | None = None) -> Completed:
        return super().run(
            [self._qemu, "-cpu", CPU, "-L", self._folder.name, *command], timeout=timeout, environment=environment
        )


def write_root(root: Path) -> None:
    """The files of the system that runtimes read, as a machine of one core has them."""
    cpu = root / "sys/devices/system/cpu"
    cpu.mkdir(parents=True)
    for name in ("online", "possible", "present"):
        (cpu / name).write_text("0\n")
    (cpu / "kernel_max").write_text("0\n")
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc" / "cpuinfo").write_text(CPUINFO)
