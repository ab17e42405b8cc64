"""Programs of this machine that are asked something."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from deploy_kit.devices.base import Completed, DeviceError

TRANSFER_BYTES_PER_S = 1_000_000
"""A transfer slower than this is given up."""

LARGEST_PULL = 256 << 20
"""Bytes of a file that is taken from a device, which writes results and outputs of models, and is not trusted."""


def check_size(spec: str, source: str, size: int) -> None:
    """Raise `DeviceError` for a file that is too large to be a result."""
    if size > LARGEST_PULL:
        raise DeviceError(f"{source!r} on {spec} has {size} bytes, and at most {LARGEST_PULL} are taken from a device")


def call(words: Sequence[str], seconds: float) -> Completed:
    """Run a program to its end; `DeviceError` where it takes longer, and is ended."""
    environment = {**os.environ, "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "1000"}
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        name = " ".join([Path(words[0]).name, *words[1:4]])
        raise DeviceError(
            f"`{name}` took more than {seconds:g} s and was stopped", fix="unlock the device, or plug it in again"
        ) from None
    except OSError as error:
        raise DeviceError(f"{words[0]} cannot be started: {error.strerror}") from error
    return Completed(
        returncode=done.returncode,
        stdout=done.stdout.decode(errors="replace"),
        stderr=done.stderr.decode(errors="replace"),
    )


def last_line(done: Completed) -> str:
    """The last line that a program said on standard error, or on standard output."""
    lines = [line.strip() for line in (done.stderr.strip() or done.stdout).splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""
