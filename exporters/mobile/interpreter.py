"""Finding a Python whose torch has XNNPACK and the mobile optimizer: the runtime that phones have."""

from __future__ import annotations

import functools
import glob
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy_kit.errors import UserError
from deploy_kit.worker import WorkerError, run_worker

VARIABLE = "DEPLOYKIT_MOBILE_PYTHON"
WORKER = Path(__file__).with_name("worker.py")
INSTALL = "sudo apt-get install python3-torch libopenblas0-pthread"
FIX = (
    f"install Debian's or Ubuntu's torch ({INSTALL}), or name a Python with torch <= 2.12 and XNNPACK "
    f"in --mobile-python or {VARIABLE}"
)

KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(64 << 20)}
"""Makes glibc keep memory that is freed, as phones' allocators do. By default it gives large tensors back to the kernel
at once or not, by what else the process did before, and page faults then make up to a half of a model's time."""


@dataclass(frozen=True)
class Interpreter:
    """A Python that runs the worker: its path, its torch, and whether that can prepack for XNNPACK."""

    python: str
    torch: str
    xnnpack: bool

    @property
    def description(self) -> str:
        """The runtime's name for proofs, such as ``torch lite 1.13.1 + XNNPACK``."""
        return f"torch lite {self.torch}{' + XNNPACK' if self.xnnpack else ''}"

    def work(self, job: dict[str, Any], *, timeout: float = 600) -> dict[str, Any]:
        """Do one of the worker's jobs; raises `WorkerError`."""
        environment = {} if self.python == sys.executable else system_environment()
        return run_worker([self.python, "-s", WORKER], job, timeout=timeout, environment=environment)


def find_interpreter(named: str | None = None) -> Interpreter:
    """The first Python here that can prepack, or else this one, which can only save and run plain files.

    Args:
        named: a Python to use and no other; None looks at the environment variable
            DEPLOYKIT_MOBILE_PYTHON and then at the system's Pythons.

    Raises:
        UserError: a Python was named and it cannot prepack.
    """
    chosen = named or os.environ.get(VARIABLE)
    if chosen:
        return _named(chosen)
    for python in _system_pythons():
        interpreter = _probe(python)
        if isinstance(interpreter, Interpreter) and interpreter.xnnpack:
            return interpreter
    import torch

    return Interpreter(sys.executable, torch.__version__, xnnpack=False)


def system_environment(threads: int = 1) -> dict[str, str]:
    """Variables that give another Python its own packages, and OpenBLAS with a fixed number of threads."""
    libraries = glob.glob("/usr/lib/*/openblas-pthread")
    path = [*libraries, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {
        "PYTHONPATH": "",
        "PYTHONHOME": "",
        "LD_LIBRARY_PATH": os.pathsep.join(path),
        "OPENBLAS_NUM_THREADS": str(threads),
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",
        **KEEP_MEMORY,
        **({"OPENBLAS_CORETYPE": "SkylakeX"} if _has_avx512() else {}),
    }


def _has_avx512() -> bool:
    """Whether OpenBLAS's kernels for 512-bit vectors run here; it does not choose them on every such processor."""
    try:
        return " avx512vl " in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _named(python: str) -> Interpreter:
    path = shutil.which(python)
    if path is None:
        raise UserError(f"there is no Python called {python!r} for the mobile interpreter", fix=FIX)
    interpreter = _probe(path)
    if isinstance(interpreter, str):
        raise UserError(f"{python!r} cannot be the mobile interpreter: {interpreter}", fix=FIX)
    if not interpreter.xnnpack:
        raise UserError(f"{python!r} has torch {interpreter.torch}, which cannot prepack for XNNPACK", fix=FIX)
    return interpreter


def _system_pythons() -> Iterator[str]:
    """Pythons outside virtual environments, each once."""
    seen = {os.path.realpath(sys.executable)} if sys.prefix == sys.base_prefix else set()
    for folder in ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"):
        for path in sorted(glob.glob(f"{folder}/python3*"), key=len):
            real = os.path.realpath(path)
            if real not in seen and os.access(real, os.X_OK) and "config" not in path:
                seen.add(real)
                yield path


@functools.cache
def _probe(python: str) -> Interpreter | str:
    """What a Python can do, or why it cannot; asked once, for it takes a second."""
    environment = system_environment()
    try:
        result = run_worker([python, "-s", WORKER], {"do": "probe"}, timeout=120, environment=environment)
    except WorkerError as error:
        return str(error).splitlines()[-1]
    return Interpreter(python, result["torch"].split("+")[0], result["xnnpack"])
