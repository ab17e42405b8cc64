"""Devices by what ``--device`` takes, and those that are attached."""

from __future__ import annotations

from collections.abc import Callable

from deploy_kit.devices.adb import Adb, attached_serials
from deploy_kit.devices.base import Device, DeviceInfo, DeviceState
from deploy_kit.devices.hosts import listed_hosts
from deploy_kit.devices.ios import Ios, attached_udids
from deploy_kit.devices.local import Local
from deploy_kit.devices.qemu import Qemu
from deploy_kit.devices.ssh import Ssh
from deploy_kit.errors import DeployKitError, UserError, unknown_name


def _local(place: str | None) -> Device:
    if place is not None:
        raise UserError(f"local:{place} is no device", fix="this machine is `local`")
    return Local()


KINDS: dict[str, Callable[[str | None], Device]] = {"local": _local, "adb": Adb, "qemu": Qemu, "ssh": Ssh, "ios": Ios}
"""What makes a device of a kind, from what follows the colon; None where there is none."""

LISTED_S = 3.0
"""How long a host that is only listed may take to answer."""


def get_device(spec: str) -> Device:
    """The device that ``--device`` names, such as ``local``, ``adb:SERIAL``, or ``adb`` for the only one.

    Raises:
        UserError: there is no such kind of device.
        DeviceError: the device is not there, or cannot be used as it is.
    """
    kind, colon, place = spec.partition(":")
    if kind not in KINDS:
        raise unknown_name("kind of device", kind, KINDS)
    return KINDS[kind](place if colon else None)


def attached() -> list[tuple[str, tuple[DeviceInfo, DeviceState] | DeployKitError]]:
    """What is attached or listed, each with what it is and how, or why it cannot be used; this machine is the first.

    What is needed to look for more, such as adb, is an entry with its error where it is missing.
    """
    specs = ["local", Qemu.spec]
    found: list[tuple[str, tuple[DeviceInfo, DeviceState] | DeployKitError]] = []
    try:
        specs += [f"adb:{serial}" for serial in sorted(attached_serials())]
    except DeployKitError as error:
        found.append(("adb", error))
    try:
        specs += [f"ios:{udid}" for udid in attached_udids()]
    except DeployKitError as error:
        found.append(("ios", error))
    try:
        specs += [f"ssh:{host}" for host in listed_hosts()]
    except DeployKitError as error:
        found.append(("ssh", error))
    for spec in reversed(specs):
        try:
            device = _look(spec)
            found.insert(0, (spec, (device.info(), device.state())))
        except DeployKitError as error:
            found.insert(0, (spec, error))
    return found


def _look(spec: str) -> Device:
    """A device that is to be listed, which nobody wants to wait for."""
    kind, _, place = spec.partition(":")
    return Ssh(place, connect_s=LISTED_S, answer_s=LISTED_S) if kind == "ssh" else get_device(spec)
