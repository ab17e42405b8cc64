"""The ARM instructions of one inference, counted under qemu: a cost that is the same on every run, and no time.

It needs ``qemu-aarch64`` with plugins (Debian 12's ``qemu-user``, not ``qemu-user-static``) and a C compiler, next to
what `deploy_kit.benchmarks.native.build_runner` needs for arm64.
"""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from deploy_kit.benchmarks.native import Bundle, build_folder, call, sources_folder
from deploy_kit.benchmarks.runners.base import write_input
from deploy_kit.devices.qemu import CPU, CPUINFO, QEMU, write_root
from deploy_kit.errors import DeployKitError, MissingDependencyError, UserError

INSTALL = "sudo apt-get install qemu-user gcc"
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "OPENBLAS_NUM_THREADS": "1"}
WARMUP = 3
"""Inferences that are not counted; a runtime lays out its memory in the first ones."""


@dataclass(frozen=True)
class Instructions:
    """The count of each inference, and what it holds for."""

    counts: tuple[int, ...]
    pins: dict[str, str]
    """What was fixed, and what a count may be compared across: everything here has to be the same."""


def count_instructions(
    bundle: Bundle, model: Path, inputs: Sequence[Tensor], *, iterations: int = 3, timeout: float = 600
) -> Instructions:
    """Run a model with an arm64 runner under qemu, and count the instructions of each inference after the warm-up.

    Raises:
        UserError: the runner is not for arm64.
        MissingDependencyError: there is no qemu, it has no plugins, or there is no C compiler.
        DeployKitError: the runner failed; the message has its last words.
    """
    if bundle.abi != "aarch64":
        raise UserError(f"instructions are counted for aarch64, not {bundle.abi}", fix="build the runner for aarch64")
    qemu = shutil.which(QEMU)
    if qemu is None:
        raise MissingDependencyError(f"instructions are counted by {QEMU}, which is not installed", fix=INSTALL)
    plugin = _plugin()
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
        folder = Path(scratch)
        # Everything has a short name of its own here: the lengths of paths move the stack, and with it the counts.
        (folder / "runner").symlink_to(bundle.folder.resolve())
        (folder / "model").symlink_to(model.resolve())
        shutil.copyfile(plugin, folder / "count.so")
        write_root(folder / "root")
        options = ["--model", "model"]
        for name, tensor in ((f"input{index}", each) for index, each in enumerate(inputs)):
            options += ["--input", write_input(tensor, folder / name, name)]
        options += ["--threads", "1", "--warmup", str(WARMUP), "--iterations", str(iterations), "--mark"]
        emulator = [qemu, "-cpu", CPU, "-L", "root", "-plugin", f"{folder}/count.so,out=counts"]
        command = [*emulator, *bundle.command("runner"), *options, "--result", "result.json"]
        counts = _run(command, folder, timeout)
    if len(counts) != iterations:
        raise DeployKitError(f"{len(counts)} inferences were counted, not {iterations}: the runner does not mark them")
    return Instructions(counts, {**_pins(qemu), "runner": bundle.folder.name})


def _run(command: Sequence[str], folder: Path, timeout: float) -> tuple[int, ...]:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise DeployKitError(
            f"the runner did not end within {timeout:.0f} s under {QEMU}",
            fix="count a smaller model, or when the machine has less to do",
        ) from None
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        if re.search(r"plugin interface not enabled|unknown option.*plugin|[Uu]nable to load plugin", done.stderr):
            raise MissingDependencyError(f"this {QEMU} takes no plugins: {words[0]}", fix=INSTALL)
        raise DeployKitError(f"the runner failed under {QEMU}: {words[-1].removeprefix('error: ')}")
    return tuple(int(line) for line in (folder / "counts").read_text().split())


def _pins(qemu: str) -> dict[str, str]:
    version = call([qemu, "--version"], f"{QEMU} does not start").splitlines()[0]
    return {
        "emulator": version.removeprefix("qemu-aarch64 version "),
        "cpu": CPU,
        "cpuinfo": hashlib.sha256(CPUINFO.encode()).hexdigest()[:16],
        "threads": "1",
        **ENVIRONMENT,
    }


def _plugin() -> Path:
    """The counting plugin, compiled on the first call and found in the cache after that."""
    compiler = shutil.which("gcc")
    if compiler is None:
        raise MissingDependencyError("the counting plugin is compiled, and there is no C compiler (gcc)", fix=INSTALL)
    source = sources_folder() / "count.c"
    key = hashlib.sha256(source.read_bytes() + platform.machine().encode()).hexdigest()[:16]
    options = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"]

    def fill(folder: Path) -> None:
        call([compiler, *options, source, "-o", folder / "count.so"], "the counting plugin could not be compiled")

    return build_folder(f"count-{key}", fill) / "count.so"
