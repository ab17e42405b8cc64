"""Hosts of a real Ray cluster on this machine, two of them with phones: the real adb, and daemons of the tests."""

from __future__ import annotations

import dataclasses
import errno
import json
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from deploy_kit.artifact import Artifact, open_artifact
from deploy_kit.benchmarks.suites.sweep_scaling import DEVICE
from deploy_kit.cells.recipe import Recipe, make_recipe
from deploy_kit.cells.result import CellResult
from deploy_kit.errors import DeployKitError, MissingDependencyError, UserError
from deploy_kit.outcome import Outcome
from deploy_kit.sweep import ray_hosts as module
from deploy_kit.sweep.drive import Progress, SweepReport, sweep
from deploy_kit.sweep.ray_hosts import Hosts, Packed, files_of, pack, ray_hosts, unpack, versions
from deploy_kit.sweep.store import Store, open_store
from deploy_kit.sweep.work import REAL, BenchResult, Task, Work, command, tasks_of
from tests.benchmarks.support import runner_document
from tests.cli.support import ROOT
from tests.devices.adbd import Daemon
from tests.support import TINY, TINY_SIZE, tiny
from tests.sweep.fakes import ARTIFACT, KILLING, PHONES, recipe_of

DOCUMENT = runner_document([10_000 + (index * 7 % 13) for index in range(50)], warmup_ns=[11_000] * 10)

RUNNER = """#!/bin/sh
for word; do result="$word"; done
exec 9>>USED
flock -n 9 || echo clash >> CLASHES
sleep 0.7 9>&-
cat > "$result" <<'END'
DOCUMENT
END
"""
"""A runner that takes a while, and tells of another one that is at work on any phone of its own file."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{tmp_path}/s.db")
    yield opened
    opened.close()


def test_an_artifact_travels_as_it_is_and_stays_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "a/package").mkdir(parents=True)
    (tmp_path / "a/package/weights.bin").write_bytes(b"\0\1")
    (tmp_path / "a/manifest.json").write_text("{}")
    unpack(pack(tmp_path / "a"), tmp_path / "b")
    assert (tmp_path / "b/package/weights.bin").read_bytes() == b"\0\1"
    assert (tmp_path / "b/manifest.json").read_text() == "{}"
    with pytest.raises(DeployKitError, match="outside of its artifact"):
        unpack({"../c": b""}, tmp_path / "b")
    assert not (tmp_path / "c").exists()


def test_without_ray_the_command_for_it_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError) as found:
        sweep(recipe_of("a"), store, hosts=partial(ray_hosts, address="local"), work=KILLING)
    assert found.value.fix == "pip install 'deploy-kit[ray]'"
    assert store.runs() == []


class OneProcess:
    """Stands for Ray: does each task when it is waited for, in this process, and keeps what was asked for it."""

    def __init__(self) -> None:
        self.exceptions = pytest.importorskip("ray", reason="needs Ray: pip install 'deploy-kit[ray]'").exceptions
        self.asked: list[dict[str, Any]] = []

    def put(self, what: Any) -> Any:
        return what

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 1.0, DEVICE: 1.0}

    def remote(self, **always: Any) -> Callable[..., Any]:
        def options(**asked: Any) -> Any:
            self.asked.append({**always, **asked})
            return SimpleNamespace(remote=partial(partial, module.do))

        return lambda function: SimpleNamespace(options=options)

    def wait(self, refs: list[Any], **how: Any) -> tuple[list[Any], list[Any]]:
        return refs, []

    def get(self, ref: Callable[[], Any]) -> Any:
        try:
            return ref()
        except Exception as error:
            said = f"Traceback (most recent call last):\n{type(error).__name__}: {error}"
            raise self.exceptions.RayTaskError("do", said, error) from None


class Head(OneProcess):
    """Stands for Ray whose head begins no server for a client, so many times."""

    def __init__(self, failing: int, error: Exception) -> None:
        super().__init__()
        self.failing, self.error, self.tried = failing, error, 0

    def init(self, **how: Any) -> None:
        self.tried += 1
        if self.tried <= self.failing:
            raise self.error

    def shutdown(self) -> None:
        pass


NO_SERVER = ConnectionAbortedError("Initialization failure from server:\nRuntimeError: no server. See a.err.")


def hosts_of(head: Head, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Connect to a cluster, and what is told meanwhile."""
    notes: list[str] = []
    monkeypatch.setattr(module, "import_ray", lambda: head)
    monkeypatch.setattr(Hosts, "compare", lambda hosts, modules: None)
    with ray_hosts(KILLING, recipe_of("a"), address="ray://head:1", note=notes.append):
        return notes


def test_a_head_that_begins_no_server_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    head = Head(2, NO_SERVER)
    said = (
        "the Ray head at ray://head:1 answers, but begins no server for this sweep: RuntimeError: no server. See a.err"
    )
    assert hosts_of(head, monkeypatch) == [f"{said} (asked {tried} of 4 times; asking again)" for tried in (1, 2)]
    assert head.tried == 3


def test_a_head_that_never_begins_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    head = Head(99, NO_SERVER)
    with pytest.raises(UserError, match=r"begins no server .*: no server\. See a.err \(asked 4 times\)$") as found:
        hosts_of(head, monkeypatch)
    assert head.tried == 4
    for name in ("GRPC_ENABLE_FORK_SUPPORT=false", "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S=120"):
        assert name in found.value.fix
        assert name in (ROOT / "docs/device-lab.md").read_text()


def test_a_cluster_that_does_not_answer_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    head = Head(99, ConnectionError("ray client connection timeout"))
    with pytest.raises(UserError, match="no Ray cluster can be used at ray://head:1: ray client connection timeout"):
        hosts_of(head, monkeypatch)
    assert head.tried == 1


def swept(store: Store, work: Work, recipe: Recipe, ray: OneProcess | None = None) -> SweepReport:
    return sweep(recipe, store, hosts=lambda work, recipe: nullcontext(Hosts(ray or OneProcess(), work)), work=work)


def raising(error: Exception) -> Work:
    def export(task: Task, folder: Path, references: Path | None) -> CellResult:
        raise error

    return dataclasses.replace(KILLING, export=export)


def test_a_measurement_takes_its_device_and_no_processor(store: Store) -> None:
    ray = OneProcess()
    report = swept(store, KILLING, recipe_of("a"), ray)
    assert len(report.entries[0].measurements) == 1
    export, measurement = ray.asked
    assert export["num_cpus"] == 1
    assert measurement["num_cpus"] == 0
    assert measurement["resources"] == {DEVICE: 1}


def test_a_full_disk_of_a_host_is_no_result(store: Store) -> None:
    full = raising(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(DeployKitError, match=f"{socket.gethostname()} has no space left") as found:
        swept(store, full, recipe_of("a"))
    assert "what was done is kept" in found.value.fix
    assert store.entries() == []


def test_a_host_whose_locks_are_of_another_is_no_result(store: Store) -> None:
    with pytest.raises(DeployKitError, match="a host cannot work: not yours") as found:
        swept(store, raising(UserError("not yours", fix="mend it")), recipe_of("a"))
    assert found.value.fix == "mend it"
    assert store.entries() == []


def test_an_error_that_was_raised_is_no_lost_worker(store: Store) -> None:
    report = swept(store, raising(ValueError("a bug")), recipe_of("a"))
    assert list(report.failed.values()) == ["crashed: an error was raised, tried 3 times: ValueError: a bug"]


def test_calibration_images_travel(store: Store, tmp_path: Path) -> None:
    images = tmp_path / "images"
    (images / "more").mkdir(parents=True)
    (images / "more/a.png").write_bytes(b"picture")
    seen: list[Path] = []

    def export(task: Task, folder: Path, references: Path | None) -> CellResult:
        seen.append(Path(task.cell.options["calibration"]))
        assert (seen[-1] / "more/a.png").read_bytes() == b"picture"
        return KILLING.export(task, folder, references)

    recipe = recipe_of("a").model_copy(update={"options": {"onnx": {"calibration": str(images)}}})
    report = swept(store, dataclasses.replace(KILLING, export=export), recipe)
    assert report.failed == {}
    assert seen != [images]
    assert report.entries[0].result.cell.options == {"calibration": str(images)}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a host's temporary files; this process is the host."""
    place = tmp_path / "of-the-host"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def done_on_host(task: Task, artifact: Packed | None = None) -> tuple[CellResult | BenchResult, Packed | None]:
    """What a host makes of a task, and of the files of it that travelled."""
    files = files_of(task)
    given = [pack(path) if path.is_dir() else path.read_bytes() for path in files.values()]
    names = {part: path.name for part, path in files.items()}
    result, packed, _ = module.do(REAL, task, versions(), names, artifact, *given)
    return result, packed


def images_in(folder: Path, count: int) -> None:
    folder.mkdir()
    for index in range(count):
        Image.new("RGB", (32, 32), (index * 9, 90, 255 - index * 9)).save(folder / f"{index}.png")


def test_an_artifact_names_the_weights_and_images_of_the_recipe(host: Path, tmp_path: Path) -> None:
    torch.save(tiny().state_dict(), tmp_path / "best.pth")
    images_in(tmp_path / "images", 16)
    document = {
        "models": [TINY],
        "targets": ["onnx"],
        "precisions": ["int8"],
        "options": {"onnx": {"calibration": "images"}},
        "model": {TINY: {"weights": "best.pth", "input_size": TINY_SIZE}},
    }
    recipe = make_recipe(document, tmp_path)
    result, packed = done_on_host(tasks_of(recipe, recipe.cells()[0])[0])
    assert isinstance(result, CellResult)
    assert result.works, result.reason
    assert packed is not None
    unpack(packed, tmp_path / "back")
    manifest = open_artifact(tmp_path / "back").manifest
    assert manifest.model.weights.path == str(tmp_path / "best.pth")
    assert manifest.options["calibration"] == str(tmp_path / "images")
    assert manifest.details["calibration"] == f"8 images of {tmp_path / 'images'}"
    assert all(str(host).encode() not in content for content in packed.values())
    assert str(host) not in result.model_dump_json()


@pytest.mark.slow
def test_an_artifact_names_the_program_of_the_recipe(host: Path, tmp_path: Path) -> None:
    (tmp_path / "my nets").mkdir()
    program = torch.export.export(tiny(), (torch.zeros(1, 3, 32, 32),))
    torch.export.save(program, tmp_path / "my nets/net.pt2")
    recipe = make_recipe({"models": ["my nets/net.pt2"], "targets": ["onnx"]}, tmp_path)
    result, packed = done_on_host(tasks_of(recipe, recipe.cells()[0])[0])
    assert isinstance(result, CellResult)
    assert result.works, result.reason
    assert packed is not None
    assert json.loads(packed["manifest.json"])["model"]["source"] == str(tmp_path / "my nets/net.pt2")
    assert str(host).encode() not in packed["manifest.json"]


def test_a_reason_names_the_images_of_the_recipe(host: Path, tmp_path: Path) -> None:
    images_in(tmp_path / "few", 1)
    document = {
        "models": [TINY],
        "targets": ["onnx"],
        "precisions": ["int8"],
        "options": {"onnx": {"calibration": "few"}},
        "model": {TINY: {"input_size": TINY_SIZE}},
    }
    recipe = make_recipe(document, tmp_path)
    result, _ = done_on_host(tasks_of(recipe, recipe.cells()[0])[0])
    assert isinstance(result, CellResult)
    assert f"{str(tmp_path / 'few')!r} holds 1 images" in str(result.reason)
    assert str(host) not in result.model_dump_json()


def test_a_measurement_names_the_runner_of_the_recipe(host: Path, tiny_onnx: Artifact, tmp_path: Path) -> None:
    runner = tmp_path / "my tools/runner"
    runner.parent.mkdir()
    text = RUNNER.replace("DOCUMENT", json.dumps(DOCUMENT)).replace("sleep 0.7", "true")
    runner.write_text(text.replace("USED", str(tmp_path / "used")))
    runner.chmod(0o755)
    document = {"models": [TINY], "targets": ["onnx"], "bench": {"runner": "my tools/runner"}}
    recipe = make_recipe(document, tmp_path)
    (task,) = tasks_of(recipe, recipe.cells()[0])[1]
    result, _ = done_on_host(task, pack(tiny_onnx.folder))
    assert isinstance(result, BenchResult)
    assert result.measurement is not None, result.failure
    assert result.measurement.command == command(task)
    assert shlex.split(result.measurement.command)[-2:] == ["--runner", str(runner)]
    assert str(host) not in result.model_dump_json()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Start a node, the first one the head, with what it is given; the cluster is in the function's ``now``."""
    pytest.importorskip("ray", reason="needs Ray: pip install 'deploy-kit[ray]'")
    module.import_ray()
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = Cluster()
    yield made
    made.shutdown()


def end(cluster: Any, node: Any) -> None:
    """End a host at once, with all that runs on it, as when its power is cut."""
    raylets = [info.process.pid for info in node.all_processes["raylet"]]
    below = [pid for raylet in raylets for pid in descendants(raylet)]
    subprocess.run(["kill", "-9", *map(str, [*raylets, *below])], check=False, capture_output=True)
    cluster.remove_node(node, allow_graceful=False)


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, file.read_text().split()):
            found += [child, *descendants(child)]
    return found


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_host_with_a_phone_is_lost_in_mid_sweep(
    phones: list[Daemon],
    cluster: Any,
    tiny_onnx: Artifact,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three hosts, two of them with phones. One is cut off, and its phone is plugged into another that joins."""
    monkeypatch.setenv(ARTIFACT, str(tiny_onnx.folder))
    clashes = tmp_path / "clashes"
    runner = tmp_path / "runner"
    text = RUNNER.replace("DOCUMENT", json.dumps(DOCUMENT)).replace("CLASHES", str(clashes))
    runner.write_text(text.replace("USED", '"$(dirname "$0")/../used"'))
    runner.chmod(0o755)
    specs = [f"adb:{phone.serial}" for phone in phones]
    cluster.add_node(num_cpus=1)
    first = cluster.add_node(num_cpus=1, resources={specs[0]: 1})
    cluster.add_node(num_cpus=1, resources={specs[1]: 1})
    seen: list[Any] = []
    lost: list[float] = []

    def progress(made: Progress) -> None:
        seen.append(made.unit.key)
        if not lost and sum(key.device == specs[0] for key in seen) == 2:
            lost.append(time.monotonic())
            end(cluster, first)
            cluster.add_node(num_cpus=1, resources={specs[0]: 1})

    recipe = recipe_of(*"abcd", devices=tuple(specs), runner=str(runner))
    report = sweep(
        recipe,
        store,
        artifacts=tmp_path / "kept",
        hosts=partial(ray_hosts, address=cluster.address),
        work=PHONES,
        progress=progress,
    )
    assert lost
    assert report.failed == report.impossible == {}
    assert set(Counter(seen).values()) == {1}
    assert len(seen) == report.done_now == 12
    for entry in report.entries:
        assert sorted(each.device.spec for each in entry.measurements) == sorted(specs)
        assert entry.artifact is not None
        assert Path(entry.artifact, "manifest.json").is_file()
    assert len(report.entries) == 4
    assert not clashes.exists()


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_host_without_processors_measures_on_its_phone(cluster: Any, store: Store) -> None:
    cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=0, resources={DEVICE: 1})
    report = sweep(recipe_of("a"), store, hosts=partial(ray_hosts, address=cluster.address), work=KILLING)
    assert len(report.entries[0].measurements) == 1


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_cell_that_kills_its_worker_is_a_result(store: Store) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'deploy-kit[ray]'")
    report = sweep(recipe_of("good", "bad"), store, hosts=partial(ray_hosts, address="local", workers=2), work=KILLING)
    outcomes = {entry.result.cell.model.rpartition(":")[2]: entry.result for entry in report.entries}
    assert outcomes["good"].outcome == Outcome.OK
    assert outcomes["bad"].outcome == Outcome.CRASHED
    assert "its worker was lost, tried 3 times" in str(outcomes["bad"].reason)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_hosts_that_differ_are_refused_before_anything_runs(
    cluster: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.add_node(num_cpus=1)
    monkeypatch.setattr(module, "versions", lambda: {"Python": "3.11.0", "deploykit": "0.0.9", "torch": "1.0"})
    with pytest.raises(UserError, match=r"the hosts are not alike: .* \(here 0\.0\.9\)"):
        sweep(recipe_of("a"), store, hosts=partial(ray_hosts, address=cluster.address), work=KILLING)
    assert store.runs() == []
    monkeypatch.undo()
    with pytest.raises(UserError, match="no host of the Ray cluster has sim:phone") as found:
        sweep(recipe_of("a"), store, hosts=partial(ray_hosts, address=cluster.address), work=KILLING)
    assert """--resources='{"sim:phone": 1}'""" in found.value.fix
