"""The root: Debian 13's packages for arm64, unpacked and not installed, and a static qemu to run them with."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy_kit.benchmarks.native import build_folder, call
from deploy_kit.devices.qemu import CPUINFO, write_root

SUITE = "trixie"
PACKAGES = ("base-files", "adbd", "dash", "coreutils", "grep", "sed")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
GETPROP = """\
#!/bin/sh
case "$1" in
  ro.kernel.qemu) echo 1;;
  ro.product.model) echo "Debian 13 userspace";;
  *) echo;;
esac
"""
"""What tells the harness that it is emulated, as Android's emulator does."""

INSIDE = Path(__file__).with_name("inside.sh")
NAMESPACE = ("unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child")
TOOLS = ("adb", "apt-get", "dpkg-deb", "ip", "unshare")


@dataclass(frozen=True)
class Emulated:
    """A root, and the emulator of its programs."""

    root: Path
    qemu: Path

    def command(self, words: Sequence[str | Path]) -> list[str]:
        """What runs ``words`` beside its adbd."""
        return [*NAMESPACE, "sh", str(INSIDE), str(self.root), str(self.qemu), *map(str, words)]


def missing() -> str | None:
    """Why it cannot be had here; None where it can."""
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        return f"{', '.join(absent)} not installed"
    if not Path(KEYRING).is_file() or not _archive():
        return "packages are fetched from Debian's archive, which apt does not know here"
    tried = subprocess.run([*NAMESPACE, "mount", "-t", "binfmt_misc", "none", "/proc/sys/fs/binfmt_misc"])
    return "this system allows no namespace with a binfmt_misc of its own" if tried.returncode else None


def emulated() -> Emulated:
    """The root and its emulator, fetched on the first call and found in the cache after that."""
    text = f"{SUITE} {PACKAGES} {GETPROP} {Path(__file__).read_text()}"
    folder = build_folder(f"adbd-arm64-{hashlib.sha256(text.encode()).hexdigest()[:12]}", _fill)
    return Emulated(folder / "root", folder / "usr/bin/qemu-aarch64-static")


def _fill(folder: Path) -> None:
    root = folder / "root"
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
        for package in _fetch(Path(scratch)):
            call(["dpkg-deb", "-x", package, root], f"{package.name} cannot be unpacked")
        call(["apt-get", "-q", "download", "qemu-user-static"], "qemu-user-static cannot be fetched", Path(scratch))
        call(["dpkg-deb", "-x", next(Path(scratch).glob("qemu-user-static_*.deb")), folder], "it cannot be unpacked")
    for name in ("data/local/tmp", "dev", "tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    write_root(root)
    (root / "usr/bin/sh").unlink(missing_ok=True)
    (root / "usr/bin/sh").symlink_to("dash")
    (root / "cpuinfo").write_text(CPUINFO)
    (root / "usr/bin/getprop").write_text(GETPROP)
    (root / "usr/bin/getprop").chmod(0o755)


def _fetch(scratch: Path) -> list[Path]:
    """The packages and all that they need, by an apt with a state of its own, in which nothing is installed."""
    for name in ("lists/partial", "archives/partial", "sources"):
        (scratch / name).mkdir(parents=True)
    (scratch / "status").touch()
    (scratch / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_archive()} {SUITE} main\n")
    options = {
        "Dir::Etc::SourceList": scratch / "sources.list",
        "Dir::Etc::SourceParts": scratch / "sources",
        "Dir::State": scratch,
        "Dir::State::status": scratch / "status",
        "Dir::Cache": scratch,
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    apt = ["apt-get", "-q", "-y", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    call([*apt, "update"], f"apt could not fetch the lists of {SUITE}")
    call([*apt, "--no-install-recommends", "--download-only", "install", *PACKAGES], "apt could not fetch adbd")
    return sorted(scratch.glob("archives/*.deb"))


def _archive() -> str:
    """The archive that this machine's apt has its own packages from; empty where that is not Debian's."""
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN) $(COMPONENT)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    found = re.search(r"^(\S+) Debian main$", done.stdout, re.MULTILINE)
    return found[1] if found else ""
