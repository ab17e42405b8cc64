"""The suite: every model for every target, exported where it has to be, measured once, and kept.

In its folder ``artifacts/MODEL/TARGET`` are the artifacts and ``measurements/MODEL.TARGET.KEY.json`` the measurements;
KEY is of the artifact, the device, the runner and the protocol. A run that was ended goes on with what is there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from deploy_kit.artifact import Artifact, open_artifact
from deploy_kit.benchmarks.harness import bench, record_of
from deploy_kit.benchmarks.measurement import ArtifactRecord, Measurement
from deploy_kit.benchmarks.protocol import Protocol
from deploy_kit.benchmarks.runners.base import Runner
from deploy_kit.devices.base import Device, DeviceInfo
from deploy_kit.disk import FULL, replace
from deploy_kit.errors import DeployKitError, UserError, unknown_name
from deploy_kit.manifest import MANIFEST
from deploy_kit.models import get_architecture, list_models
from deploy_kit.stages import Stages

MODELS = (
    *("edgevit_xxs", "edgevit_xs", "edgevit_s", "mobilevit_xxs", "mobilevit_xs", "mobilevit_s"),
    *("levit_128s", "levit_128", "levit_192", "levit_256"),
    *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
)
"""EdgeViT, and the reference models of the families that its paper compares it with."""

Result = TypeVar("Result")

NO_TOP1 = "its authors publish no ImageNet-1k top-1"


class Failure(BaseModel):
    """Why there is no measurement, and what to do about it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    message: str
    fix: str


class Row(BaseModel):
    """One model for one target: its measurement, or why there is none.

    ``latency_ms`` is the median; ``top1`` is what the model's authors published, as the weights here are random.
    ``unavailable`` says of each of the three figures that is None why. ``file`` is in the suite's folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    target: str
    top1: float | None
    top1_source: str
    latency_ms: float | None = None
    energy_mj: float | None = None
    unavailable: dict[str, str] = {}
    valid: bool = False
    failure: Failure | None = None
    file: str | None = None
    measurement: Measurement | None = None


@dataclass(frozen=True)
class Suite:
    """What is measured where and how; ``again`` measures what is kept and not valid once more."""

    device: Device
    info: DeviceInfo
    runners: Mapping[str, Runner]
    """By target."""
    protocol: Protocol
    folder: Path
    command: str
    stages: Stages
    announce: Callable[[str], None] = lambda text: None
    again: bool = False


def check_models(names: Sequence[str]) -> None:
    """Raise `UserError` for a name that is no reference model."""
    for name in names:
        if name not in list_models():
            raise unknown_name("reference model", name, list_models())


def run_suite(suite: Suite, models: Sequence[str]) -> list[Row]:
    """Export what is not there, then measure what is not kept yet. A model that fails is a row with the reason.

    All is exported first, as the work would disturb what is measured on this machine.

    Raises:
        DeployKitError: the disk is full.
        UserError: the folder cannot be written.
    """
    cells = [(model, target) for model in models for target in suite.runners]
    exported = {cell: _attempt(suite, cell, partial(_artifact, suite, *cell)) for cell in cells}
    return [_row(suite, model, target, exported[model, target]) for model, target in cells]


def _attempt(suite: Suite, cell: tuple[str, str], work: Callable[[], Result]) -> Result | DeployKitError:
    """What work returns, or the error that it ends with and that is this cell's alone."""
    try:
        return work()
    except DeployKitError as error:
        if is_full(error):
            raise
        suite.announce(f"{', '.join(cell)}: {error}")
        return error


def _row(suite: Suite, model: str, target: str, artifact: Artifact | DeployKitError) -> Row:
    published = get_architecture(model).published
    row = Row(
        model=model,
        target=target,
        top1=published.top1,
        top1_source=published.paper,
        unavailable={} if published.top1 else {"top1": NO_TOP1},
    )
    if isinstance(artifact, DeployKitError):
        return _failed(row, artifact)
    record = record_of(artifact)
    file = kept_file(suite, record)
    kept = read_kept(file, record, suite)
    if kept is not None and (kept.valid or not suite.again):
        suite.announce(f"{model}, {target}: measured before, at {kept.started}")
        return _measured(row, kept, file.relative_to(suite.folder).as_posix())
    found = _attempt(suite, (model, target), partial(_measure, suite, artifact))
    if isinstance(found, DeployKitError):
        return _failed(row, found)
    write_whole(file, found.model_dump_json(by_alias=True, indent=1) + "\n")
    return _measured(row, found, file.relative_to(suite.folder).as_posix())


def _artifact(suite: Suite, model: str, target: str) -> Artifact:
    from deploy_kit.api import export

    out = suite.folder / "artifacts"
    place = out / model / target
    if not (place / MANIFEST).is_file():
        return export(model, target, out=out, stages=suite.stages)
    artifact = open_artifact(place)
    found = (artifact.manifest.model.name, artifact.manifest.target)
    if found != (model, target):
        raise UserError(f"{str(place)!r} holds {found[0]} for {found[1]}", fix="remove it, and run the command again")
    return artifact


def _measure(suite: Suite, artifact: Artifact) -> Measurement:
    name, target = artifact.manifest.model.name, artifact.manifest.target
    with suite.stages.stage(f"measure {name}, {target}, on {suite.device.spec}"):
        return bench(
            artifact,
            suite.device,
            suite.runners[target],
            suite.protocol,
            command=suite.command,
            announce=lambda text: suite.announce(text) if text.startswith("wait") else None,
        ).measurement


def kept_file(suite: Suite, artifact: ArtifactRecord) -> Path:
    """Where the measurement of an artifact is kept."""
    parts = [each.model_dump(mode="json") for each in (artifact, suite.info, suite.protocol)]
    conditions = json.dumps([*parts, suite.runners[artifact.target].identity()], sort_keys=True)
    key = hashlib.sha256(conditions.encode()).hexdigest()[:12]
    return suite.folder / "measurements" / f"{artifact.model}.{artifact.target}.{key}.json"


def read_kept(file: Path, artifact: ArtifactRecord, suite: Suite) -> Measurement | None:
    """The measurement in a file; None where there is none, it is damaged, or it is of something else."""
    try:
        found = Measurement.model_validate_json(file.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    except OSError as error:
        raise UserError(f"{str(file)!r} cannot be read: {error.strerror}", fix="make it readable") from error
    of = (found.artifact, found.device, found.protocol)
    return found if of == (artifact, suite.info, suite.protocol) else None


def _measured(row: Row, measurement: Measurement, file: str) -> Row:
    energy = measurement.energy
    reason = {} if energy else {"energy_mj": measurement.unavailable.get("energy", "it was not measured")}
    return row.model_copy(
        update={
            "latency_ms": measurement.summary.p50_ms,
            "energy_mj": energy.mj_per_inference if energy else None,
            "unavailable": {**row.unavailable, **reason},
            "valid": measurement.valid,
            "file": file,
            "measurement": measurement,
        }
    )


def _failed(row: Row, error: DeployKitError) -> Row:
    reasons = {"latency_ms": str(error), "energy_mj": str(error)}
    failure = Failure(message=str(error), fix=error.fix)
    return row.model_copy(update={"unavailable": {**row.unavailable, **reasons}, "failure": failure})


def is_full(error: BaseException | None) -> bool:
    """Whether an error comes from a disk without space left, which ends every cell alike."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        error = error.__cause__
    return False


def check_folder(folder: Path) -> None:
    """Make the suite's folder, where it is not there; `UserError` where it cannot be written."""
    probe = folder / "measurements" / ".probe"
    write_whole(probe, "")
    probe.unlink()


def write_whole(file: Path, text: str) -> None:
    """Write a file of the suite, and the folders above it; it is whole or as it was.

    Raises:
        DeployKitError: there is no space left.
        UserError: it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace(file, text)
    except OSError as error:
        if error.errno in FULL:
            raise DeployKitError(
                f"there is no space left to write {str(file)!r}",
                fix="free some space and run the command again: what was measured is kept",
            ) from error
        raise UserError(f"{str(file)!r} cannot be written: {error.strerror}", fix="choose another --out") from error
