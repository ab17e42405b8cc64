"""Units done by the hosts of a Ray cluster, of which each declares its phones and boards as Ray resources.

A measurement asks for the resource that is called as its device, and for one of it, so it runs on the host that has the
device, and a device is used by one at a time. Exports run anywhere. What a host needs travels to it, and what it made
comes back: this process alone writes results. A unit whose host is lost is done again elsewhere.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

from deploy_kit.cells.recipe import Recipe
from deploy_kit.cells.result import CellResult
from deploy_kit.disk import FULL
from deploy_kit.errors import DeployKitError, MissingDependencyError, UserError
from deploy_kit.manifest import MANIFEST
from deploy_kit.outcome import Outcome
from deploy_kit.sweep.local import Executor, Finished
from deploy_kit.sweep.locks import MACHINE, held
from deploy_kit.sweep.work import BenchResult, Task, Work

TRIES = 3
"""How often a unit is begun whose worker or host is lost each time."""

AWAY_S = 120.0
"""Seconds that a device, or every host, may be away before what needs it is given up."""

ASKED_S = 2.0
"""Seconds between two looks at what the cluster has."""

PROBE_S = 180.0
"""Seconds that a host may take to say what it is."""

CONNECTS = 4
"""How often the head of a cluster is asked that answers and then begins no server; each time takes half a minute."""

QUIET = {  # what a raylet says would be on the standard output, also with `log_to_driver` off; every line is skipped
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "^",
    "RAY_enable_metrics_collection": "0",
    "RAY_worker_niceness": "0",  # else 15: what else this machine does would be in the times that are measured
}

CALIBRATION = "calibration"
"""The option of targets that names a folder of images."""

HEAD = (
    "start Ray there again with GRPC_ENABLE_FORK_SUPPORT=false, and where it is slow with "
    "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S=120"
)

FREE = "free some space there, and give the same command again: what was done is kept"

Packed = dict[str, bytes]
"""The files of a folder, by their paths in it."""

Result = TypeVar("Result", CellResult, BenchResult)


class OtherVersionsError(Exception):
    """A host has other versions than this one."""


class FullDiskError(Exception):
    """A host has no space left."""


@dataclass(frozen=True)
class Host:
    """What a host says of itself."""

    name: str
    versions: dict[str, str]
    missing: list[str]
    """The modules of models that it does not have."""


@cache
def versions() -> dict[str, str]:
    """What has to be the same on all hosts."""
    return {"Python": platform.python_version(), "deploykit": version("deploy-kit"), "torch": version("torch")}


def probe(modules: Sequence[str]) -> Host:
    """What this host is; done there."""
    code = "import sys, importlib.util as u; sys.path.insert(0, '.'); sys.exit(u.find_spec(sys.argv[1]) is None)"
    missing = []
    for module in modules:
        words = [sys.executable, "-P", "-c", code, module]
        if subprocess.run(words, capture_output=True, timeout=60, check=False).returncode != 0:
            missing.append(module)
    return Host(socket.gethostname(), versions(), missing)


def do(
    work: Work,
    task: Task,
    expected: Mapping[str, str],
    files: Mapping[str, str],
    artifact: Packed | None,
    *given: bytes | Packed,
) -> tuple[CellResult | BenchResult, Packed | None, str]:
    """Do a task on the host that this runs on.

    Args:
        expected: the versions that it has to have.
        files: the names of the files and folders that the task needs, by what they are of it; their contents are
            ``given``.
        artifact: what is measured.

    Returns: the result, the artifact that an export made, and the host's name. Both name the files as the task does.

    Raises:
        OtherVersionsError: the host has others.
        FullDiskError: a disk of the host is full.
    """
    if versions() != expected:
        raise OtherVersionsError(_different(socket.gethostname(), versions(), expected))
    try:
        return _done(work, task, dict(zip(files.items(), given, strict=True)), artifact)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise FullDiskError(f"{socket.gethostname()} has no space left") from error


def _done(
    work: Work, task: Task, files: Mapping[tuple[str, str], bytes | Packed], artifact: Packed | None
) -> tuple[CellResult | BenchResult, Packed | None, str]:
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
        folder, needed = Path(scratch, "artifact"), Path(scratch, "needed")
        there = {}
        for (part, name), content in files.items():
            place = needed / part / name
            place.parent.mkdir(parents=True)
            if isinstance(content, dict):
                unpack(content, place)
            else:
                place.write_bytes(content)
                place.chmod(0o755)
            there[part] = str(place)
        here = dataclasses.replace(_with_files(task, there), scratch=Path(scratch))
        names = {there[part]: str(path) for part, path in files_of(task).items() if part in there}
        name = MACHINE if task.key.is_export or task.of_this_machine else task.key.device
        with held(name, Event(), shared=task.key.is_export) if work.real else nullcontext():
            if artifact is not None:
                unpack(artifact, folder)
                return _renamed(work.measure(here, folder), names), None, socket.gethostname()
            result = _renamed(work.export(here, folder, None), names).model_copy(update={"cell": task.cell})
        packed = _with_names(pack(folder), names) if result.works else None
        return result, packed, socket.gethostname()


def files_of(task: Task) -> dict[str, Path]:
    """The files and folders of this host that a task needs, by what they are of it."""
    found = {}
    if task.key.is_export:
        if task.cell.model.endswith(".pt2"):
            found["model"] = Path(task.cell.model)
        if task.cell.of_model.weights not in (None, "timm"):
            found["weights"] = Path(str(task.cell.of_model.weights))
        if task.accuracy is not None:
            found["accuracy"] = task.accuracy
        if task.cell.options.get(CALIBRATION):
            found[CALIBRATION] = Path(task.cell.options[CALIBRATION])
    elif task.bench is not None and task.bench.runner is not None and not task.bench.runner.startswith("app"):
        found["runner"] = Path(task.bench.runner)
    return found


def _with_files(task: Task, there: Mapping[str, str]) -> Task:
    """A task with its files where they are on a host."""
    cell = task.cell
    if "model" in there:
        cell = cell.model_copy(update={"model": there["model"]})
    if "weights" in there:
        cell = cell.model_copy(update={"of_model": cell.of_model.model_copy(update={"weights": there["weights"]})})
    if CALIBRATION in there:
        cell = cell.model_copy(update={"options": {**cell.options, CALIBRATION: there[CALIBRATION]}})
    runner = Path(there["runner"]) if "runner" in there else None
    accuracy = Path(there["accuracy"]) if "accuracy" in there else task.accuracy
    return dataclasses.replace(task, cell=cell, runner=runner, accuracy=accuracy)


def _with_names(artifact: Packed, names: Mapping[str, str]) -> Packed:
    """An artifact whose manifest, which no hash is of, has other names for files."""
    if not names or MANIFEST not in artifact:
        return artifact
    document = _replaced(json.loads(artifact[MANIFEST]), names)
    return {**artifact, MANIFEST: (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()}


def _renamed(result: Result, names: Mapping[str, str]) -> Result:
    """A result with other names for files."""
    return result.model_validate(_replaced(result.model_dump(by_alias=True), names)) if names else result


def _replaced(value: Any, names: Mapping[str, str]) -> Any:
    """Plain values with other names for files in all of their texts."""
    if isinstance(value, str):
        for name, other in names.items():
            value = value.replace(name, other)
        return value
    if isinstance(value, dict):
        return {key: _replaced(each, names) for key, each in value.items()}
    return type(value)(_replaced(each, names) for each in value) if isinstance(value, (list, tuple)) else value


def pack(folder: Path) -> Packed:
    """The files under a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def unpack(packed: Packed, folder: Path) -> None:
    """Write files under a folder; none gets out of it."""
    for name, content in packed.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise DeployKitError(f"a host sent a file outside of its artifact: {name!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@contextmanager
def ray_hosts(
    work: Work,
    recipe: Recipe,
    *,
    address: str,
    workers: int | None = None,
    devices: Mapping[str, int] | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Iterator[Executor]:
    """The hosts of the Ray cluster at an address, which have been seen to have the versions of this one.

    Args:
        address: ``ray://HOST:PORT``, ``auto`` for the cluster that this host is of, ``HOST:PORT`` of one that it is of,
            or ``local`` for a cluster of this machine alone, which ends with the sweep.
        workers: units at a time of a ``local`` one; None is one a processor.
        devices: what a ``local`` one has; None is each of the recipe's once.
        note: is told when a cluster is asked again.

    Raises:
        MissingDependencyError: Ray is not installed.
        UserError: no cluster there, or hosts that differ from this one.
    """
    ray = import_ray()
    _connect(ray, address, workers, devices or dict.fromkeys(recipe.bench.devices if recipe.bench else (), 1), note)
    try:
        names = recipe.models if work.real else ()
        modules = sorted({name.partition(":")[0] for name in names if ":" in name})
        hosts = Hosts(ray, work)
        hosts.compare(modules)
        yield hosts
    finally:
        with suppress(Exception):  # whatever a cluster that is gone raises
            ray.shutdown()


def import_ray() -> Any:
    """Ray, told to be quiet."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("--on needs Ray", fix="pip install 'deploy-kit[ray]'") from error
    return ray


def _connect(
    ray: Any, address: str, workers: int | None, devices: Mapping[str, int], note: Callable[[str], None]
) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": True}
    if address == "local":
        quiet |= {"num_cpus": workers, "num_gpus": 0, "resources": dict(devices), "include_dashboard": False}
    for tried in range(1, CONNECTS + 1):
        try:
            ray.init(address=address, namespace="deploykit", **quiet)
            return
        except ConnectionAbortedError as error:  # gRPC crashes what the head forks, or the head is slow
            reason = _last_line(error).rstrip(".")
            said = f"the Ray head at {address} answers, but begins no server for this sweep: {reason}"
            if tried == CONNECTS:
                raise UserError(f"{said} (asked {tried} times)", fix=HEAD) from error
            note(f"{said} (asked {tried} of {CONNECTS} times; asking again)")
        except Exception as error:  # of a dozen classes, some of them grpc's
            said = " ".join(str(error).split())[:300]
            fix = "start one with `ray start --head`, with this Python, Ray, RAY_AUTH_MODE and token, or use --on local"
            raise UserError(f"no Ray cluster can be used at {address}: {said}", fix=fix) from error


@dataclass
class _Flight:
    """A unit that was given to the cluster."""

    task: Task
    folder: Path
    tries: int = 1
    begun: float = field(default_factory=time.perf_counter)


class Hosts:
    """Does tasks on a cluster; see `deploy_kit.sweep.local.Executor`."""

    def __init__(self, ray: Any, work: Work):
        self._ray, self._work = ray, ray.put(work)
        self._do = ray.remote(max_retries=0, num_cpus=1)(do)
        self._flying: dict[Any, _Flight] = {}
        self._files: dict[Path, Any] = {}
        self._resources: dict[str, float] = {}
        self._asked = float("-inf")
        self._away: dict[str, float] = {}
        """Since when a resource is not there."""
        self._expected = versions()

    def compare(self, modules: Sequence[str]) -> None:
        """Raise `UserError` where a host that will work has not what this one has."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = [node for node in self._ray.nodes() if node["Alive"] and _works(node["Resources"])]
        if not nodes:
            raise UserError("the Ray cluster has no host that works", fix="start one with `ray start --address=...`")
        remote = self._ray.remote(max_retries=0, num_cpus=0)(probe)
        asked = [
            remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                modules
            )
            for node in nodes
        ]
        wrong = []
        for node, answer in zip(nodes, asked):
            name = node["NodeManagerHostname"]
            try:
                host = self._ray.get(answer, timeout=PROBE_S)
            except Exception as error:  # of a host that has no deploykit, or is lost
                wrong.append(f"{name} cannot be asked: {_last_line(error)}")
                continue
            if host.versions != self._expected:
                wrong.append(_different(name, host.versions, self._expected))
            if host.missing:
                wrong.append(f"{name} cannot import {', '.join(host.missing)}")
        if wrong:
            raise UserError(
                f"the hosts are not alike: {'; '.join(dict.fromkeys(wrong))}",
                fix="install the same Python, deploykit, torch and models on each, and start Ray there again",
            )

    def prepare(self, devices: Sequence[str]) -> None:
        resources = self._have()
        gone = [device for device in devices if device not in resources]
        if gone:
            raise UserError(
                f"no host of the Ray cluster has {', '.join(gone)}",
                fix=f"""start Ray on the host that has it with --resources='{{"{gone[0]}": 1}}'""",
            )

    def has_room(self, task: Task, beside: Sequence[Task] = ()) -> bool:
        """Twice as many are given to the cluster as it can do, so that no host waits for the next."""
        name = _resource(task)
        others = [*(flight.task for flight in self._flying.values()), *beside]
        flying = sum(_resource(each) == name for each in others)
        return flying < 2 * max(1, int(self._have().get(name, 0)))

    def start(self, task: Task, folder: Path) -> None:
        self._begin(_Flight(task, folder))

    def _begin(self, flight: _Flight) -> None:
        task = flight.task
        files = files_of(task)
        needs = {} if task.key.is_export else {"resources": {task.key.device: 1}, "num_cpus": 0}
        artifact = None if task.key.is_export else self._ray.put(pack(flight.folder))
        given = [self._put(path) for path in files.values()]
        names = {part: path.name for part, path in files.items()}
        remote = self._do.options(name=f"deploykit {task.key.cell}", **needs)
        try:
            self._flying[remote.remote(self._work, task, self._expected, names, artifact, *given)] = flight
        except Exception as error:
            raise self._lost_cluster(error) from error

    def _put(self, path: Path) -> Any:
        if path not in self._files:
            self._files[path] = self._ray.put(pack(path) if path.is_dir() else path.read_bytes())
        return self._files[path]

    def wait(self, seconds: float) -> list[Finished]:
        try:
            ready, _ = self._ray.wait(list(self._flying), num_returns=1, timeout=seconds) if self._flying else ([], [])
            more, _ = (
                self._ray.wait(list(self._flying), num_returns=len(self._flying), timeout=0) if ready else ([], [])
            )
        except Exception as error:
            raise self._lost_cluster(error) from error
        finished = [each for ref in dict.fromkeys([*ready, *more]) if (each := self._landed(ref)) is not None]
        return [*finished, *self._given_up()]

    def _landed(self, ref: Any) -> Finished | None:
        """What came of a unit; None where it has begun again."""
        exceptions = self._ray.exceptions
        flight = self._flying.pop(ref)
        try:
            result, artifact, place = self._ray.get(ref)
        except exceptions.RayTaskError as error:
            if isinstance(error.cause, OtherVersionsError):
                raise UserError(str(error.cause), fix="end Ray there, and install what the other hosts have") from error
            if isinstance(error.cause, FullDiskError):
                raise DeployKitError(_last_line(error.cause), fix=FREE) from error
            if isinstance(error.cause, DeployKitError):
                raise DeployKitError(f"a host cannot work: {error.cause}", fix=error.cause.fix) from error
            return self._again(flight, "an error was raised", _last_line(error))
        except exceptions.OutOfDiskError as error:
            raise DeployKitError("a host of the Ray cluster has no space left", fix=FREE) from error
        except exceptions.RayError as error:
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            return self._again(flight, "its worker was lost", said)
        except Exception as error:
            raise self._lost_cluster(error) from error
        if artifact is not None:
            unpack(artifact, flight.folder)
        return Finished(flight.task, result, place)

    def _again(self, flight: _Flight, what: str, reason: str) -> Finished | None:
        """Begin a unit elsewhere, or give it up where that was done often enough; ``what`` happened is in words."""
        shutil.rmtree(flight.folder, ignore_errors=True) if flight.task.key.is_export else None
        if flight.tries < TRIES:
            flight.tries += 1
            self._begin(flight)
            return None
        return _failed(flight, f"{what}, tried {flight.tries} times: {reason}")

    def _given_up(self) -> list[Finished]:
        """The units whose device, or all of whose hosts, have been away for long."""
        resources, now = self._have(), time.monotonic()
        wanted = {*self._away, *(_resource(flight.task) for flight in self._flying.values())}
        self._away = {name: self._away.get(name, now) for name in wanted if not resources.get(name)}
        gone = {name for name, since in self._away.items() if now - since > AWAY_S}
        if "CPU" in gone:
            raise DeployKitError(
                "no host of the Ray cluster is left",
                fix="start some, and give the same command again: what is done is kept",
            )
        finished = []
        for ref, flight in list(self._flying.items()):
            if _resource(flight.task) in gone:
                del self._flying[ref]
                with suppress(Exception):
                    self._ray.cancel(ref)
                finished.append(_failed(flight, f"no host has {flight.task.key.device} any more"))
        return finished

    def _have(self) -> dict[str, float]:
        """What the cluster has, as of a moment ago."""
        if time.monotonic() - self._asked >= ASKED_S:
            try:
                self._resources = self._ray.cluster_resources()
            except Exception as error:
                raise self._lost_cluster(error) from error
            self._asked = time.monotonic()
        return self._resources

    def stop(self) -> None:
        for ref in self._flying:
            with suppress(Exception):  # the cluster may be gone
                self._ray.cancel(ref)
        with suppress(Exception):
            self._ray.wait(list(self._flying), num_returns=len(self._flying), timeout=5)
        self._flying.clear()

    def _lost_cluster(self, error: Exception) -> DeployKitError:
        if isinstance(error, DeployKitError):
            return error
        return DeployKitError(
            f"the Ray cluster cannot be reached any more: {_last_line(error)}",
            fix="see that it runs, and give the same command again: what was done is kept",
        )


def _works(resources: Mapping[str, float]) -> bool:
    """Whether a host does units: it has processors, or a device."""
    return resources.get("CPU", 0) > 0 or any(":" in name and not name.startswith("node:") for name in resources)


def _resource(task: Task) -> str:
    return "CPU" if task.key.is_export else task.key.device


def _failed(flight: _Flight, reason: str) -> Finished:
    seconds = time.perf_counter() - flight.begun
    result: CellResult | BenchResult = BenchResult(outcome="failed", failure=reason, seconds=seconds)
    if flight.task.key.is_export:
        created = datetime.now(UTC).isoformat(timespec="seconds")
        result = CellResult(
            cell=flight.task.cell, outcome=Outcome.CRASHED, reason=reason, seconds=seconds, created=created
        )
    return Finished(flight.task, result, "")


def _different(host: str, has: Mapping[str, str], expected: Mapping[str, str]) -> str:
    parts = [f"{name} {has.get(name)} (here {value})" for name, value in expected.items() if has.get(name) != value]
    return f"{host} has {', '.join(parts)}"


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
