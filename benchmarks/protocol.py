"""How a latency is measured."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deploy_kit.devices.base import Cluster, DeviceInfo
from deploy_kit.errors import UserError

MOST_ITERATIONS = 1_000_000


class Protocol(BaseModel):
    """The protocol of the mobile ViT papers by default: 50 inferences after a warm-up of 10, one thread.

    ``rounds`` is how often the whole is done, each time by a new process. ``cores`` names a cluster (``prime``,
    ``big``, ``little``), several (``prime+big``), or is a mask such as ``0xf0``; None leaves the choice to the system.
    Before each round the harness waits until no temperature is above ``cool_to_c`` and the thermal status is none, for
    at most ``cool_seconds``; with ``cool_seconds`` 0 it does not wait.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    warmup: Annotated[int, Field(ge=0, le=100_000)] = 10
    iterations: Annotated[int, Field(ge=1, le=MOST_ITERATIONS)] = 50
    rounds: Annotated[int, Field(ge=1, le=1000)] = 1
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    cores: str | None = None
    cool_to_c: float | None = None
    cool_seconds: Annotated[float, Field(ge=0)] = 300


def protocol_of(**options: Any) -> Protocol:
    """A protocol of a command's options; `UserError` where one of them cannot be."""
    try:
        return Protocol(**options)
    except ValidationError as error:
        wrong = error.errors()[0]
        option = "--cool-to" if wrong["loc"][0] == "cool_to_c" else f"--{wrong['loc'][0]}".replace("_", "-")
        raise UserError(f"{option} {wrong['input']} cannot be: {wrong['msg']}", fix=f"another {option}") from None


def chosen_cores(cores: str | None, device: DeviceInfo) -> tuple[int, ...] | None:
    """The numbers of the cores that a protocol's ``cores`` means on a device; None where it leaves them free.

    Raises:
        UserError: no such cluster or core, or the device does not tell its clusters.
    """
    if cores is None:
        return None
    known = {core for cluster in device.clusters for core in cluster.cores}
    if re.fullmatch(r"0[xX][0-9a-fA-F]{1,256}", cores):
        mask = int(cores, 16)
        numbers = tuple(index for index in range(mask.bit_length()) if mask >> index & 1)
        if not numbers or (known and not known.issuperset(numbers)):
            raise UserError(f"the mask {cores} names cores that {device.spec} has not", fix=_listed(device.clusters))
        return numbers
    clusters = {cluster.name: cluster.cores for cluster in device.clusters}
    names = cores.split("+")
    unknown = [name for name in names if name not in clusters]
    if unknown:
        raise UserError(f"{device.spec} has no cores called {unknown[0]!r}", fix=_listed(device.clusters))
    return tuple(sorted(core for name in names for core in clusters[name]))


def _listed(clusters: tuple[Cluster, ...]) -> str:
    if not clusters:
        return "leave out --cores: the device does not tell its clusters"
    texts = [f"{cluster.name} ({', '.join(map(str, cluster.cores))})" for cluster in clusters]
    return f"it has {', '.join(texts)}; a mask such as 0xf0 names cores by number"
