from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from deploy_kit.advise import advise
from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks import timers
from deploy_kit.benchmarks.instructions import Instructions
from deploy_kit.benchmarks.measurement import Clocks
from deploy_kit.benchmarks.runners import python_runner
from deploy_kit.benchmarks.runners.program import Program
from deploy_kit.benchmarks.timers import DeviceTimer, InstructionTimer, LocalTimer, Looks, Race, get_timer
from deploy_kit.devices.base import DeviceError, DeviceInfo, DeviceState
from deploy_kit.errors import UserError
from tests.benchmarks.support import runner_document
from tests.benchmarks.test_clocks import cpus
from tests.benchmarks.test_harness import Folder
from tests.support import load_tiny

INPUTS = (torch.zeros(1, 3, 64, 64),)
RUNNER = """#!/bin/sh
while [ $# -gt 0 ]; do
  case "$1" in --model) model="$2";; --result) result="$2";; esac
  shift
done
echo "$model" >> {log}
cat "$(dirname "$model")/times.json" > "$result"
"""


def test_this_machine_times_real_files(tiny_onnx: Artifact) -> None:
    timer = get_timer("local")
    assert isinstance(timer, LocalTimer)
    with timer:
        contestants = {"a": tiny_onnx, "b": tiny_onnx}
        inputs = tuple(torch.zeros(shape) for shape in load_tiny().input_shapes)
        rounds = timer.time("onnx", contestants, inputs, Race(processes=2, warmup=1, iterations=3))
    assert [{name: len(times) for name, times in result.items()} for result in rounds] == 2 * [{"a": 3, "b": 3}]
    assert all(seconds > 0 for result in rounds for times in result.values() for seconds in times)


class Quiet(Folder):
    """This machine, in states and with times that are made up: a run has the samples and the clocks of its turn."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, *states: DeviceState) -> None:
        super().__init__(root, [state for each in states for state in (each, each)])
        self.samples = [[0.01, 0.0101, 0.0099]] * 2
        self.looks = [[(0.5, 900), (1.0, 2000), (2.0, 2010), (3.5, 900)]] * 2
        self.runs = 0
        monkeypatch.setattr(timers, "time_once", self.time_once)
        monkeypatch.setattr(timers, "LOOK_EVERY_S", 3600.0)
        monkeypatch.setattr(timers.Looks, "seen", property(lambda looks: self.seen()))

    def info(self) -> DeviceInfo:
        return super().info().model_copy(update={"spec": "local"})

    def time_once(self, target: str, files: Mapping[str, Path], *rest: Any, **options: Any) -> dict[str, Any]:
        self.runs += 1
        return {"seconds": dict.fromkeys(files, self.samples[self.runs - 1]), "window": [1.0, 3.0]}

    def seen(self) -> list[Clocks]:
        return [Clocks(at_ns=int(at * 1e9), mhz={0: mhz}) for at, mhz in self.looks[self.runs - 1]]

    def race(self, artifact: Artifact) -> list[str]:
        """What is said of two runs of two contestants."""
        with LocalTimer("local", self) as timer:
            timer.time("onnx", {"a": artifact, "b": artifact}, INPUTS, Race(processes=2, warmup=1, iterations=3))
        return timer.conditions


def test_a_quiet_machine_is_not_complained_of(
    tmp_path: Path, tiny_onnx: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = DeviceState(runnable=1, temperatures_c={"cpu": 40.0}, charging=False)
    assert Quiet(tmp_path, monkeypatch, idle, idle).race(tiny_onnx) == []


def test_what_disturbed_this_machine_is_said_as_bench_says_it(
    tmp_path: Path, tiny_onnx: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Quiet(tmp_path, monkeypatch, DeviceState(runnable=4), DeviceState(runnable=7, charging=True))
    machine.samples = [[0.01, 0.01, 0.01], [0.01, 0.01, 0.02]]
    machine.looks[0] = [(1.0, 2000), (2.0, 1500)]
    assert machine.race(tiny_onnx) == [
        "clocks moved: core 0 ran at 1500 to 2000 MHz (in 1 of 2 runs)",
        "background load: 4 threads wanted to run when it began (in 2 of 2 runs)",
        "charging: the device was on external power (in 1 of 2 runs)",
        "too noisy: the standard deviation is 43% of the mean (in 1 of 2 runs)",
    ]


def test_the_clocks_are_looked_at_while_a_worker_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_runner, "CPUS", str(cpus(tmp_path, {0: "1804800"})))
    monkeypatch.setattr(timers, "LOOK_EVERY_S", 0.001)
    with Looks() as looks:
        while len(looks.seen) < 3:
            time.sleep(0.001)
    assert {look.mhz.get(0) for look in looks.seen} == {1804}
    first, second, *_ = (look.at_ns / 1e9 for look in looks.seen)
    assert [look.at_ns / 1e9 for look in looks.within((first, second))] == [first, second]


class Phone:
    """A folder as a phone, whose runner writes the times that lie beside a model."""

    def __init__(self, root: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch, **state: Any) -> None:
        self.root, self.log, self.artifact = root / "phone", root / "log", artifact
        self.root.mkdir()
        program = root / "runner"
        program.write_text(RUNNER.format(log=self.log))
        program.chmod(0o755)
        self.pushed: list[str] = []
        self.device = Folder(self.root, [DeviceState(**{"charging": False, **state})])
        push = self.device.push
        monkeypatch.setattr(self.device, "push", lambda source, to: (self.pushed.append(source.name), push(source, to)))
        monkeypatch.setattr(timers, "choose_runner", lambda *given: Program("a script", (), (program,)))
        monkeypatch.setattr(timers, "get_device", lambda spec: self.device)

    def contestant(self, folder: Path, microseconds: int) -> Artifact:
        """The artifact with times of its own beside it."""
        shutil.copytree(self.artifact.folder, folder)
        document = runner_document([1000 * microseconds] * 4, warmup_ns=[1] * 2)
        (folder / "times.json").write_text(json.dumps(document))
        manifest = self.artifact.manifest
        times = manifest.files[0].model_copy(update={"path": "times.json"})
        return Artifact(folder, manifest.model_copy(update={"files": [*manifest.files, times]}))


@pytest.fixture
def phone(tmp_path: Path, tiny_onnx: Artifact, monkeypatch: pytest.MonkeyPatch) -> Phone:
    return Phone(tmp_path, tiny_onnx, monkeypatch)


def test_a_phone_runs_each_in_turn_with_one_runner_for_all_races(phone: Phone, tmp_path: Path) -> None:
    contestants = {"a": phone.contestant(tmp_path / "a", 2), "b": phone.contestant(tmp_path / "b", 3)}
    with DeviceTimer("adb:1234", phone.device) as timer:
        for _ in range(2):
            rounds = timer.time("onnx", contestants, INPUTS, Race(processes=3, warmup=2, iterations=4))
            assert rounds == 3 * [{"a": [2e-6] * 4, "b": [3e-6] * 4}]
        assert phone.pushed.count("runner") == 1
        models = phone.log.read_text().splitlines()
        first = {models[0]: "a", models[1]: "b"}
        assert [first[model] for model in models[:6]] == ["a", "b", "b", "a", "a", "b"]
    assert list(phone.root.iterdir()) == [], "the phone was not left clean"


def test_what_was_not_good_on_the_phone_is_kept(
    tmp_path: Path, tiny_onnx: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    phone = Phone(tmp_path, tiny_onnx, monkeypatch, charging=True)
    with DeviceTimer("adb:1234", phone.device) as timer:
        contestant = {"a": phone.contestant(tmp_path / "a", 2)}
        timer.time("onnx", contestant, INPUTS, Race(processes=2, warmup=2, iterations=4))
    assert timer.conditions == ["charging: the device was on external power (in 2 of 2 runs)"]


def test_a_phone_that_fails_is_left_clean(phone: Phone, tmp_path: Path) -> None:
    artifact = phone.contestant(tmp_path / "a", 2)
    (artifact.folder / "times.json").write_text("half")
    with pytest.raises(DeviceError, match="damaged"), DeviceTimer("adb:1234", phone.device) as timer:
        timer.time("onnx", {"a": artifact}, INPUTS, Race(processes=2, warmup=2, iterations=4))
    assert list(phone.root.iterdir()) == []


def test_a_device_refuses_a_target_that_it_does_not_run(phone: Phone) -> None:
    timer = get_timer("adb:1234")
    timer.require("executorch")
    with pytest.raises(UserError, match="openvino cannot be timed on adb:1234") as refused:
        timer.require("openvino")
    assert "torchscript-lite" in refused.value.fix


def test_an_emulated_processor_counts_once(tiny_onnx: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[Path] = []

    def count(bundle: Any, model: Path, inputs: Any) -> Instructions:
        counted.append(model)
        return Instructions((1000, 1000, 1000), {})

    monkeypatch.setattr("deploy_kit.benchmarks.instructions.count_instructions", count)
    monkeypatch.setattr("deploy_kit.benchmarks.native.build_runner", lambda target, abi: None)
    timer = InstructionTimer("qemu:aarch64")
    rounds = timer.time("executorch", {"a": tiny_onnx}, INPUTS, Race(processes=7, warmup=1, iterations=99))
    assert rounds == [{"a": [1000.0] * 3}]
    assert counted == [tiny_onnx.main_file]
    assert timer.unit == "instructions"


def test_no_advice_without_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy_kit.advise.get_timer", lambda spec: InstructionTimer(spec))
    with pytest.raises(UserError, match="qemu:aarch64 has no times"):
        advise("edgevit_digits", device="qemu:aarch64")
