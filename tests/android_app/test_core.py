"""The app's core: what it measures and writes, and how it fails."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from deploy_kit.benchmarks.measurement import RunnerResult
from deploy_kit.benchmarks.summary import summarise
from tests.android_app.support import java, needs_java

pytestmark = needs_java


class Runner:
    """The core with the fake engine, in a folder of its own."""

    def __init__(self, classpath: list[Path], folder: Path):
        self.classpath, self.folder = classpath, folder
        self.model, self.result = folder / "model.onnx", folder / "result.json"
        self.model.write_bytes(b"x")
        self.values = np.array([[1.5, -2.0, 3.25], [4.0, 1e-8, 6.0]], np.float32)
        (folder / "x.bin").write_bytes(self.values.tobytes())

    def words(self, *more: object) -> list[object]:
        given = ["--model", self.model, "--input", f"{self.folder}/x.bin:float32:2,3", "--result", self.result]
        return [*given, "--warmup", 3, "--iterations", 8, *more]

    def __call__(self, *more: object, **properties: object) -> subprocess.CompletedProcess[str]:
        return java(self.classpath, "Command", "runner", *self.words(*more), **properties)

    def measured(self, *more: object, **properties: object) -> RunnerResult:
        done = self(*more, **properties)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "closed\n"
        return RunnerResult.model_validate_json(self.result.read_bytes())

    def refused(self, words: list[object], **properties: object) -> str:
        done = java(self.classpath, "Command", "runner", *words, **properties)
        assert done.returncode == 1, done.stdout
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1, done.stderr
        assert not self.result.exists()
        assert not list(self.folder.glob("*.part"))
        return done.stderr


@pytest.fixture
def runner(core: Path, fakes: Path, tmp_path: Path) -> Runner:
    return Runner([core, fakes], tmp_path)


def test_it_times_each_inference_and_nothing_else(runner: Runner) -> None:
    result = runner.measured("--threads", 2, sleep=30, release=200)
    assert (result.runner, result.engine, result.runtime, result.threads) == ("test 1", "onnx", "fake 1", 2)
    assert (len(result.warmup_ns), len(result.samples_ns)) == (3, 8)
    for sample in [*result.warmup_ns, *result.samples_ns]:
        assert 30e6 <= sample < 200e6
    assert 20e6 <= result.load_ns < 200e6
    assert result.first_ns == result.warmup_ns[0]


def test_without_a_warm_up_the_first_inference_is_the_first_sample(runner: Runner) -> None:
    result = runner.measured("--warmup", 0)
    assert result.warmup_ns == []
    assert result.first_ns == result.samples_ns[0]


def test_it_tells_the_machine_the_memory_and_the_cores_in_force(runner: Runner) -> None:
    result = runner.measured()
    assert result.abi == os.uname().machine
    assert result.affinity == sorted(os.sched_getaffinity(0))
    memory = result.memory
    assert memory.baseline_kb is not None
    assert memory.loaded_kb is not None
    assert memory.peak_kb is not None
    assert 1000 < memory.baseline_kb <= memory.peak_kb
    assert 1000 < memory.loaded_kb <= memory.peak_kb


@pytest.mark.skipif(shutil.which("taskset") is None, reason="there is no taskset")
def test_the_cores_in_force_are_the_kernels(runner: Runner) -> None:
    core = max(os.sched_getaffinity(0))
    classpath = ":".join(map(str, runner.classpath))
    command = ["taskset", "-c", str(core), "java", "-cp", classpath, "org.deploykit.benchmark.Command", "runner"]
    subprocess.run([*command, *map(str, runner.words())], check=True, capture_output=True)
    assert json.loads(runner.result.read_text())["affinity"] == [core]


def test_what_the_system_does_not_tell_is_null(runner: Runner) -> None:
    result = runner.measured(root=runner.folder / "nothing")
    assert result.affinity is None
    assert (result.memory.baseline_kb, result.memory.loaded_kb, result.memory.peak_kb) == (None, None, None)
    assert result.clocks_mhz == []
    assert result.window_ns is None


def test_it_reads_the_clocks_now_and_then_when_it_timed_and_the_lists_of_cores(runner: Runner) -> None:
    cores = runner.folder / "root" / "sys" / "devices" / "system" / "cpu"
    for name, text in {"cpu0": "1804800\n", "cpu10": "2841600\n", "cpu3": "<unknown>\n", "cpuidle": "5\n"}.items():
        (cores / name / "cpufreq").mkdir(parents=True)
        (cores / name / "cpufreq" / "scaling_cur_freq").write_text(text)
    (cores / "cpu1").mkdir()
    status = runner.folder / "root" / "proc" / "thread-self" / "status"
    status.parent.mkdir(parents=True)
    status.write_text("Name:\tx\nCpus_allowed:\tf7\nCpus_allowed_list:\t0-2,4,6-7\n")
    (runner.folder / "root" / "proc" / "uptime").write_text("4711.25 9000.00\n")
    result = runner.measured(root=runner.folder / "root", sleep=30)
    assert [each.mhz for each in result.clocks_mhz] == [{0: 1804, 10: 2841}] * len(result.clocks_mhz)
    first, *between, last = result.clocks_mhz
    assert last.at_ns - first.at_ns >= sum(result.samples_ns)
    assert 1 <= len(between) <= (last.at_ns - first.at_ns) // 100_000_000
    assert between[0].at_ns - first.at_ns >= 100_000_000
    assert result.window_ns == (4_711_250_000_000, 4_711_250_000_000)
    assert result.affinity == [0, 1, 2, 4, 6, 7]


def test_it_writes_the_outputs_of_the_last_inference(runner: Runner) -> None:
    result = runner.measured("--outputs", runner.folder)
    first, second, third = result.outputs
    assert (first.file, first.dtype, first.shape) == ("0.bin", "float32", [2, 3])
    assert np.array_equal(np.fromfile(runner.folder / "0.bin", "<f4").reshape(2, 3), 2 * runner.values)
    assert (second.file, second.dtype, second.shape) == ("1.bin", "int64", [])
    assert np.fromfile(runner.folder / "1.bin", "<i8").tolist() == [11]  # the warm-up's and the samples'
    assert (third.file, third.dtype, third.shape) == ("2.bin", "uint8", [2])
    assert not list(runner.folder.glob("*.part"))


def test_outputs_that_nobody_asked_for_are_described_and_not_written(runner: Runner) -> None:
    assert [(each.file, each.shape) for each in runner.measured().outputs] == [(None, [2, 3]), (None, []), (None, [2])]
    assert not list(runner.folder.glob("?.bin"))[1:]


def test_an_input_without_a_file_is_made_the_same_way_each_time(runner: Runner) -> None:
    made = []
    for _ in range(2):
        words = ["--model", runner.model, "--input", "float32:50,40", "--result", runner.result]
        done = java(runner.classpath, "Command", "runner", *words, "--iterations", 1, "--outputs", runner.folder)
        assert done.returncode == 0, done.stderr
        made.append(np.fromfile(runner.folder / "0.bin", "<f4") / 2)
    assert np.array_equal(*made)
    assert abs(made[0].mean()) < 0.1
    assert 0.9 < made[0].std() < 1.1


def test_any_text_is_written_as_json(runner: Runner) -> None:
    text = 'a "quoted" \\ back\tslash \x01 ünïcode \U0001f600'
    assert runner.measured(runner=text).runner == text


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("no library", "the runtime cannot be started: no fake in path\n"),
        ("no load", "the file cannot be loaded: not a model\n"),
        ("no run", "the model cannot be run: RuntimeException\n"),
        ("no memory", "the model cannot be run: too large\n"),
    ],
)
def test_a_broken_engine_is_one_line_and_no_result(runner: Runner, kind: str, said: str) -> None:
    assert runner.refused(runner.words(), kind=kind) == f"error: {said}"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["--model", "/no/such/file"], "there is no file '/no/such/file'"),
        (["--model", "/"], "there is no file '/'"),
        (["--input", "/no/such/file:float32:2,3"], "there is no file '/no/such/file'"),
        (["--input", "{folder}/x.bin:float32:2,4"], "has 24 bytes; float32 of 2,4 has 32"),
        (["--input", "{folder}/x.bin:float99:2,3"], "no element type called 'float99'"),
        (["--input", "{folder}/x.bin:float32:2,-3"], "'2,-3' is no shape"),
        (["--input", "float32:100000,100000"], "is larger than"),
        (["--input", "x"], "an input is FILE:DTYPE:SIZES"),
        (["--iterations", "0"], "--iterations is a number from 1 to 1000000, not '0'"),
        (["--threads", "two"], "--threads is a number from 1 to 1024, not 'two'"),
        (["--cores", "4,5"], "an app cannot keep itself on chosen cores"),
        (["--mark"], "cannot mark"),
        (["--speed", "fast"], "there is no option --speed"),
        (["--warmup"], "--warmup has no value"),
    ],
)
def test_wrong_options_are_one_line_and_no_result(runner: Runner, changed: list[str], said: str) -> None:
    words = [*runner.words(), *(word.format(folder=runner.folder) for word in changed)]
    assert said in runner.refused(words)


def test_a_model_and_a_result_must_be_named(runner: Runner) -> None:
    assert "--model is missing" in runner.refused(["--result", runner.result])
    assert "--result is missing" in runner.refused(["--model", runner.model])


def test_a_result_that_cannot_be_written_leaves_nothing(runner: Runner) -> None:
    runner.result.mkdir()
    (runner.result / "full").touch()
    done = runner()
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert not list(runner.folder.glob("*.part"))
    assert "cannot be written" in runner("--result", runner.folder / "no" / "folder.json").stderr


@pytest.mark.parametrize("count", [1, 2, 50])
def test_the_statistics_on_the_screen_are_the_reports(runner: Runner, count: int) -> None:
    samples = [random.Random(count).randrange(10**6, 10**8) for _ in range(count)]
    done = java(runner.classpath, "Command", "summary", *samples)
    shown = dict(pair.split("=") for pair in done.stdout.strip().removeprefix("Summary[").removesuffix("]").split(", "))
    wanted = summarise([samples])
    assert int(shown["samples"]) == count
    for name in ("mean", "min", "p50", "p90", "max"):
        assert float(shown[name]) == pytest.approx(getattr(wanted, f"{name}_ms"), rel=1e-12)
    if count == 1:
        assert shown["std"] == "null"
    else:
        assert float(shown["std"]) == pytest.approx(wanted.std_ms, rel=1e-9)


class TestJob:
    """A run by name, as an intent asks for it."""

    def job(self, runner: Runner, *extras: str, **properties: object) -> subprocess.CompletedProcess[str]:
        return java(runner.classpath, "Command", "job", runner.folder, *extras, **properties)

    def test_its_folder_has_the_result_and_the_outputs(self, runner: Runner) -> None:
        extras = ["run=ab12", "model=model.onnx", "inputs=x.bin:float32:2,3", "iterations=5", "outputs=true"]
        done = self.job(runner, *extras)
        assert done.returncode == 0, done.stderr
        folder = runner.folder / "runs" / "ab12"
        assert {file.name for file in folder.iterdir()} == {"result.json", "0.bin", "1.bin", "2.bin"}
        result = RunnerResult.model_validate_json((folder / "result.json").read_bytes())
        assert (len(result.warmup_ns), len(result.samples_ns)) == (10, 5)

    def test_a_failure_is_a_file_of_one_line(self, runner: Runner) -> None:
        for extras, said in [
            (["run=a", "model=no.onnx"], f"there is no file '{runner.folder}/no.onnx' that can be read\n"),
            (["run=b", "model=model.onnx", "speed=fast"], "there is no option --speed\n"),
        ]:
            assert self.job(runner, *extras).returncode == 1
            folder = runner.folder / "runs" / extras[0].removeprefix("run=")
            assert (folder / "error.txt").read_text() == said
            assert [file.name for file in folder.iterdir()] == ["error.txt"]

    def test_a_disturbed_run_has_no_result(self, runner: Runner) -> None:
        done = self.job(runner, "run=c", f"model={runner.model}", "inputs=float32:2", disturbed="true")
        assert "left the screen" in done.stderr
        assert [file.name for file in (runner.folder / "runs" / "c").iterdir()] == ["error.txt"]

    def test_a_name_stays_in_the_folder_and_is_used_once(self, runner: Runner) -> None:
        for name in ("", "../x", "a/b", "a b", "x" * 65):
            assert "a run's name is of letters" in self.job(runner, f"run={name}", "model=model.onnx").stderr
        (runner.folder / "runs" / "old").mkdir(parents=True)
        assert "there is a run called 'old'" in self.job(runner, "run=old", "model=model.onnx").stderr
        assert [file.name for file in (runner.folder / "runs").iterdir()] == ["old"]
