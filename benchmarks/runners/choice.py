"""Which runner times an artifact on a device."""

from __future__ import annotations

import os
from pathlib import Path

from deploy_kit.benchmarks.runners.base import Runner
from deploy_kit.benchmarks.runners.local import local_runner
from deploy_kit.devices.base import Device
from deploy_kit.errors import UserError


def choose_runner(device: Device, target: str, threads: int, program: Path | None = None) -> Runner:
    """The runner of a target's artifacts on a device; ``program`` is one that the user built for it.

    Raises:
        UserError: no runner for the target on such a device, or a program that is not there.
    """
    if program is not None:
        if not program.is_file() or not os.access(program, os.X_OK):
            raise UserError(f"there is no program {str(program)!r}", fix="name an executable file with --runner")
        return Runner(program.name, (), (program.resolve(),))
    if device.spec == "local":
        return local_runner(target, threads)
    from deploy_kit.benchmarks.native import native_runner

    return native_runner(target, device.info().abi)
