"""Which runner times an artifact on a device."""

from __future__ import annotations

import os
from pathlib import Path

from deploy_kit.benchmarks.runners.android_app import FLAVORS
from deploy_kit.benchmarks.runners.base import Runner
from deploy_kit.benchmarks.runners.local import TARGETS, local_runner
from deploy_kit.benchmarks.runners.program import Program
from deploy_kit.devices.base import Device
from deploy_kit.errors import UserError

APP = "app"
"""What ``--runner`` takes for the app that is installed on a phone, beside the path of a program."""

NATIVE = ("executorch", "torchscript-lite")
"""The targets that have a native runner."""

TARGETS_OF = {"local": TARGETS, "adb": NATIVE, "ssh": (*NATIVE, "tensorrt"), "ios": ("coreml", "executorch")}
"""The targets whose artifacts a kind of device runs; of another kind, those with a native runner."""


def targets_of(device: Device, wanted: str | None = None) -> tuple[str, ...]:
    """The targets whose artifacts a device runs, with the runner that is wanted."""
    if wanted == APP and device.spec.startswith("adb:"):
        return tuple(FLAVORS)
    return TARGETS_OF.get(device.spec.partition(":")[0], NATIVE)


def choose_runner(device: Device, target: str, threads: int, wanted: str | None = None) -> Runner:
    """The runner of a target's artifacts on a device.

    Args:
        wanted: ``app``, or the path of a program that the user built for the device; None is the device's own. On an
            iPhone, ``app:cpuOnly`` and so on also choose what CoreML may use.

    Raises:
        UserError: no runner for the target on such a device, or a program that is not there.
    """
    if device.spec.startswith("ios:"):
        return _ios_app(target, wanted)
    if wanted == APP:
        return _app(device, target)
    if wanted is not None:
        program = Path(wanted)
        if not program.is_file() or not os.access(program, os.X_OK):
            raise UserError(f"there is no program {wanted!r}", fix="name an executable file with --runner, or `app`")
        return Program(program.name, (), (program.resolve(),))
    if device.spec == "local":
        return local_runner(target, threads)
    if device.spec.startswith("ssh:") and target == "tensorrt":
        from deploy_kit.benchmarks.runners.trtexec import Trtexec

        return Trtexec()
    from deploy_kit.benchmarks.native import native_runner

    return native_runner(target, device.info().abi)


def _app(device: Device, target: str) -> Runner:
    from deploy_kit.benchmarks.runners.android_app import AndroidApp, app_of

    if not device.spec.startswith("adb:"):
        raise UserError(f"{device.spec} has no benchmark app", fix="leave out --runner")
    app_of(target)
    return AndroidApp(target)


def _ios_app(target: str, wanted: str | None) -> Runner:
    from deploy_kit.benchmarks.runners.ios_app import IosApp

    name, _, units = (wanted or APP).partition(":")
    if name != APP:
        raise UserError(f"an iPhone runs no program such as {wanted!r}", fix="leave out --runner")
    return IosApp(target, units or "all")
