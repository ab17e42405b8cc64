"""The harness against a device that is a folder and runners that are scripts: what a user sees when one misbehaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.harness import bench, example_inputs
from deploy_kit.benchmarks.protocol import Protocol
from deploy_kit.benchmarks.runners.local import TARGETS, local_runner
from deploy_kit.benchmarks.runners.program import Program
from deploy_kit.devices.base import Completed, Device, DeviceError, DeviceInfo, DeviceState
from deploy_kit.devices.local import Local
from deploy_kit.exporters import get_exporter
from deploy_kit.manifest import TensorRecord
from tests.benchmarks.support import runner_document
from tests.benchmarks.test_protocol import SNAPDRAGON_888
from tests.support import export_to, load_tiny

UNPLUGGED = DeviceState(charging=False)


class Folder(Device):
    """A phone that is a folder; its states are given one after the other, and the last one stays."""

    spec = "adb:1234"

    def __init__(self, root: Path, states: Sequence[DeviceState] = (UNPLUGGED,)):
        self.root, self.states, self.commands = root, list(states), []  # type: ignore[var-annotated]

    def info(self) -> DeviceInfo:
        return SNAPDRAGON_888

    def state(self) -> DeviceState:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def run(self, command: Sequence[str], *, timeout: float, environment: Mapping[str, str] | None = None) -> Completed:
        self.commands.append(list(command))
        ended = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
        return Completed(returncode=ended.returncode, stdout=ended.stdout, stderr=ended.stderr)

    def push(self, source: Path, target: str) -> None:
        shutil.copy(source, target)

    def pull(self, source: str, target: Path) -> None:
        if not os.path.exists(source):
            raise DeviceError(f"{source} is not there")
        shutil.copy(source, target)

    def make_folder(self) -> str:
        return tempfile.mkdtemp(dir=self.root)

    def remove(self, folder: str) -> None:
        shutil.rmtree(folder)


QUIET = [10_000 + index * 7 % 13 for index in range(50)]
"""Times that are less than any run of a script takes."""
DOCUMENT = runner_document(QUIET, warmup_ns=[11_000] * 10)


@pytest.fixture(scope="module")
def artifact(tiny_onnx: Artifact) -> Artifact:
    return tiny_onnx


def script(tmp_path: Path, body: str) -> Program:
    """A runner whose result file is ``$result`` in a shell script."""
    program = tmp_path / "runner"
    program.write_text('#!/bin/sh\nfor word; do result="$word"; done\n' + body)
    program.chmod(0o755)
    return Program("a script", (), (program,))


def writes(tmp_path: Path, document: Any) -> Program:
    text = document if isinstance(document, str) else json.dumps(document)
    return script(tmp_path, f"cat > \"$result\" <<'END'\n{text}\nEND\n")


def test_raw_samples_and_conditions_are_kept(tmp_path: Path, artifact: Artifact) -> None:
    device = Folder(tmp_path)
    found = bench(
        artifact,
        device,
        writes(tmp_path, {**DOCUMENT, "affinity": [4, 5, 6]}),
        Protocol(rounds=3, cores="big"),
        command="x",
        energy="none",
    ).measurement
    assert [each.result.samples_ns for each in found.rounds] == [QUIET] * 3
    assert (found.valid, found.reasons) == (True, [])
    assert (found.load_ms, found.first_ms, found.memory_over_baseline_kb) == (0.5, 0.02, 200)
    assert found.artifact.sha256 == artifact.manifest.files[0].sha256
    assert found.summary.samples == 150
    assert len(device.commands) == 3
    command = device.commands[0]
    assert command[command.index("--cores") + 1] == "4,5,6"
    assert command[command.index("--iterations") + 1] == "50"
    assert [path.name for path in tmp_path.iterdir()] == ["runner"], "the device was not left clean"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo 'error: no such model' >&2; exit 1", "no such model"),
        ("exit 3", "exit code 3: it said nothing"),
        ("kill -SEGV $$", "it said nothing"),
        ("exit 0", "is not there"),
    ],
)
def test_a_runner_that_fails(tmp_path: Path, artifact: Artifact, body: str, message: str) -> None:
    with pytest.raises(DeviceError) as error:
        bench(artifact, Folder(tmp_path), script(tmp_path, body), Protocol(), command="x")
    assert message in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["runner"]


def test_a_run_that_writes_nothing_is_not_given_the_result_of_the_run_before(
    tmp_path: Path, artifact: Artifact
) -> None:
    document, mark = tmp_path / "document", tmp_path / "ran"
    document.write_text(json.dumps(DOCUMENT))
    once = f'[ -e {mark} ] && exit 0; touch {mark}; cp {document} "$result"'
    found = bench(artifact, Folder(tmp_path), script(tmp_path, once), Protocol(rounds=2), command="x").measurement
    assert len(found.rounds) == 1
    assert not found.valid
    assert found.reasons[0].startswith("round 2 of 2 failed: ")
    assert "is not there" in found.reasons[0]
    assert found.unavailable["energy"] == "not all rounds could be run"


def test_a_device_that_is_lost_in_the_last_round_leaves_those_before(tmp_path: Path, artifact: Artifact) -> None:
    class Lost(Folder):
        def state(self) -> DeviceState:
            if len(self.commands) == 2:
                raise DeviceError("adb:1234 is not attached")
            return UNPLUGGED

    found = bench(artifact, Lost(tmp_path), writes(tmp_path, DOCUMENT), Protocol(rounds=3), command="x").measurement
    assert [each.result.samples_ns for each in found.rounds] == [QUIET]
    assert found.reasons == ["round 2 of 3 failed: adb:1234 is not attached"]


def test_a_device_that_cannot_be_cleaned_leaves_what_was_measured(tmp_path: Path, artifact: Artifact) -> None:
    class Kept(Folder):
        def remove(self, folder: str) -> None:
            raise DeviceError("adb:1234 is not attached")

    found = bench(artifact, Kept(tmp_path), writes(tmp_path, DOCUMENT), Protocol(rounds=2), command="x").measurement
    assert len(found.rounds) == 2
    assert (found.valid, found.reasons) == (False, ["the device was not left clean: adb:1234 is not attached"])


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("rubbish", "damaged result"),
        (json.dumps(DOCUMENT)[:200], "damaged result"),
        ({**DOCUMENT, "schema": 2}, "damaged result: schema"),
        ({**DOCUMENT, "samples_ns": []}, "damaged result: samples_ns"),
        ({**DOCUMENT, "samples_ns": [0] * 50}, "damaged result: samples_ns.0"),
        ({**DOCUMENT, "extra": 1}, "damaged result: extra"),
        ({**DOCUMENT, "samples_ns": QUIET[:49]}, "asked for 10 and 50 inferences, and wrote the times of 10 and 49"),
        ({**DOCUMENT, "engine": "executorch"}, "the runner is one of executorch, the artifact one of onnx"),
        ({**DOCUMENT, "threads": 4}, "asked for 1 threads, and says that it used 4"),
        ({**DOCUMENT, "samples_ns": [3_600_000_000_000, *QUIET[1:]]}, "tells of 3600001.1 ms in a run that took "),
        ({**DOCUMENT, "load_ns": 3_600_000_000_000}, "its clock jumped, or its times are no nanoseconds"),
        (
            {**DOCUMENT, "outputs": [{"file": "../../etc/passwd", "dtype": "float32", "shape": [1]}]},
            "damaged result: outputs.0.file",
        ),
        ({**DOCUMENT, "outputs": [{"file": "0.bin", "dtype": "float32", "shape": [1]}]}, "0.bin is not there"),
        ({**DOCUMENT, "outputs": [{"file": None, "dtype": "U1", "shape": [1]}]}, "damaged result: outputs.0.dtype"),
        ({**DOCUMENT, "outputs": [{"file": None, "dtype": ">f4", "shape": [1]}]}, "damaged result: outputs.0.dtype"),
        (
            {**DOCUMENT, "outputs": [{"file": None, "dtype": "float32", "shape": [-1]}]},
            "damaged result: outputs.0.shape.0",
        ),
    ],
)
def test_a_document_that_is_not_to_be_believed(tmp_path: Path, artifact: Artifact, document: Any, message: str) -> None:
    with pytest.raises(DeviceError) as error:
        bench(artifact, Folder(tmp_path), writes(tmp_path, document), Protocol(), command="x")
    assert message in str(error.value)


@pytest.mark.parametrize("affinity", [[0], [4, 5], [4, 5, 6, 7]])
def test_a_runner_that_ran_on_other_cores_is_refused(tmp_path: Path, artifact: Artifact, affinity: list[int]) -> None:
    runner = writes(tmp_path, {**DOCUMENT, "affinity": affinity})
    with pytest.raises(DeviceError, match="was asked for the cores 4, 5, 6, and says that it ran on "):
        bench(artifact, Folder(tmp_path), runner, Protocol(cores="big"), command="x")


def test_it_waits_for_a_warm_device(tmp_path: Path, artifact: Artifact) -> None:
    warm, cool = (UNPLUGGED.model_copy(update={"temperatures_c": {"soc": celsius}}) for celsius in (50.0, 38.0))
    slept: list[float] = []
    protocol = Protocol(cool_to_c=40, cool_seconds=60)
    device = Folder(tmp_path, [warm, warm, cool])
    found = bench(artifact, device, writes(tmp_path, DOCUMENT), protocol, command="x", sleep=slept.append).measurement
    assert (len(slept), found.valid) == (2, True)


def test_a_device_that_does_not_cool_is_measured_and_does_not_count(tmp_path: Path, artifact: Artifact) -> None:
    slept: list[float] = []
    device = Folder(tmp_path, [DeviceState(charging=False, temperatures_c={"soc": 50.0})])
    protocol = Protocol(cool_to_c=40, cool_seconds=60)
    found = bench(artifact, device, writes(tmp_path, DOCUMENT), protocol, command="x", sleep=slept.append).measurement
    assert sum(slept) == 60
    assert found.reasons == ["not cool: 50 degrees before a round, asked were 40"]


def test_inputs_are_the_same_every_time() -> None:
    records = [
        TensorRecord(name="x", shape=[None, 3, 4, 4], dtype="float32"),
        TensorRecord(name="y", shape=[2], dtype="uint8"),
        TensorRecord(name="z", shape=[1], dtype="int64"),
    ]
    first, second = example_inputs(records), example_inputs(records)
    assert [tuple(x.shape) for x in first] == [(1, 3, 4, 4), (2,), (1,)]
    assert all((a == b).all() for a, b in zip(first, second))


SLOW = ("executorch",)


@pytest.mark.parametrize(
    "target", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in TARGETS]
)
def test_the_runners_of_this_machine(tmp_path: Path, target: str) -> None:
    """Each times its target's file and returns what the target's own runtime computes."""
    exporter = get_exporter(target)
    if any(need.found is None and not need.optional for need in exporter.requirements()):
        pytest.skip(f"{target} is not installed")
    opened = export_to(tmp_path, load_tiny(), target)
    options = exporter.options_type(**opened.manifest.options)
    protocol = Protocol(warmup=2, iterations=5)
    measured = bench(opened, Local(), local_runner(target, 1), protocol, command="x")
    inputs = example_inputs(opened.manifest.inputs)
    expected = exporter.run(opened.main_file, [inputs], options, opened.manifest.details).outputs
    assert expected is not None
    near = 2e-2 if target == "openvino" else 1e-5  # OpenVINO computes in bfloat16 where the processor has it
    assert measured.outputs[0] == pytest.approx(expected[0][0].numpy(), rel=near, abs=near)
    (each,) = measured.measurement.rounds
    assert len(each.result.samples_ns) == 5
    assert each.result.memory.peak_kb is not None
    assert each.result.memory.baseline_kb is not None
    assert each.result.memory.peak_kb >= each.result.memory.baseline_kb
    assert each.result.affinity
