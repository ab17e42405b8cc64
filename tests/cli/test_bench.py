from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.harness import record_of
from deploy_kit.cli import bench as command
from deploy_kit.devices.local import Local
from deploy_kit.manifest import MANIFEST
from deploy_kit.stages import Stages
from tests.cli.support import Ended, program


def test_bench_prints_and_keeps_one_measurement_an_artifact(
    deploykit: Callable[..., Ended], tiny_onnx: Artifact, tmp_path: Path
) -> None:
    out = tmp_path / "measured.json"
    ended = deploykit("bench", tiny_onnx.folder, tiny_onnx.folder, "--iterations", "20", "--warmup", "3", "--out", out)
    assert ended.code in (0, 1), ended.err
    assert ended.out.count(" onnx ") == 2
    found = json.loads(out.read_text())
    assert [len(each["rounds"][0]["result"]["samples_ns"]) for each in found] == [20, 20]
    assert ended.code == int(not all(each["valid"] for each in found))
    assert all(each["valid"] == (not each["reasons"]) for each in found)
    for each in found:
        for reason in each["reasons"]:
            assert reason in ended.err
    assert found[0]["command"].startswith("deploykit bench")


def test_json_is_what_is_kept(deploykit: Callable[..., Ended], tiny_onnx: Artifact) -> None:
    ended = deploykit("bench", tiny_onnx.folder, "--iterations", "5", "--rounds", "2", "--json")
    (found,) = ended.json
    assert len(found["rounds"]) == 2
    assert found["summary"]["p99_ms"] is None
    assert found["unavailable"]["summary.p99_ms"] == "fewer than 100 samples"
    assert found["outputs"]["verdict"] == "right"
    assert found["overhead_ms"] > 0


def test_what_was_not_asked_for_is_null_with_the_reason(deploykit: Callable[..., Ended], tiny_onnx: Artifact) -> None:
    ended = deploykit(
        "bench", tiny_onnx.folder, "--iterations", "3", "--json", "--no-check-outputs", "--energy", "none"
    )
    (found,) = ended.json
    assert (found["outputs"], found["energy"]) == (None, None)
    assert found["unavailable"]["outputs"] == found["unavailable"]["energy"] == "not asked for"


def test_a_meter_that_was_asked_for_and_is_not_there_is_said(
    deploykit: Callable[..., Ended], tiny_onnx: Artifact
) -> None:
    ended = deploykit("bench", tiny_onnx.folder, "--iterations", "3", "--energy", "rails")
    assert "no energy: rails: only Android phones have them" in ended.err


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["--device", "toaster"], "there is no kind of device called 'toaster'", 2),
        (["--cores", "prime"], "local has no cores called 'prime'", 2),
        (["--out", "measured.txt"], "'measured.txt' is no .json file", 2),
        (["--out", "no/such/measured.json"], "there is no folder 'no/such'", 2),
        (["--runner", "no/such/runner"], "there is no program 'no/such/runner'", 2),
        (["--energy", "steam"], "there is no meter called 'steam'", 2),
        (["--metric", "fuel"], "there is no metric called 'fuel'", 2),
        (["--metric", "instructions"], "instructions are counted on an emulated processor, not on local", 2),
        (
            ["--metric", "instructions", "--device", "qemu:aarch64", "--rounds", "1", "--check-outputs"],
            "--rounds, --check-outputs would change nothing",
            2,
        ),
        (["--iterations", "2000000"], "--iterations 2000000 cannot be", 2),
        (["--warmup", "200000"], "--warmup 200000 cannot be", 2),
        (["--threads", "2000"], "--threads 2000 cannot be", 2),
        (["--rounds", "2000"], "--rounds 2000 cannot be", 2),
        (["--cool-to", "nan"], "--cool-to nan cannot be", 2),
        (["--runner", "/bin/false"], "the runner (false) failed on local", 1),
        (["--runner", "/bin/true"], "is not there: what was to write it wrote nothing", 1),
    ],
)
def test_what_cannot_be_measured(
    deploykit: Callable[..., Ended], tiny_onnx: Artifact, words: list[str], message: str, code: int
) -> None:
    ended = deploykit("bench", tiny_onnx.folder, *words)
    assert ended.code == code, ended.err
    assert message in ended.err
    assert "Traceback" not in ended.err


def test_what_was_measured_is_kept_when_another_artifact_fails(
    deploykit: Callable[..., Ended], tiny_onnx: Artifact, tmp_path: Path
) -> None:
    broken, out = tmp_path / "broken", tmp_path / "measured.json"
    shutil.copytree(tiny_onnx.folder, broken)
    manifest = tiny_onnx.manifest.model_copy(update={"target": "coreml"})
    (broken / MANIFEST).write_text(manifest.to_json())
    ended = deploykit("bench", broken, tiny_onnx.folder, "--iterations", "3", "--out", out)
    assert "error: tests.support.tiny, coreml: coreml cannot be timed here" in ended.err
    assert ended.code == 2
    assert len(json.loads(out.read_text())) == 1
    assert ended.out.count(" onnx ") == 1


def second_fails(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let the measurement of the second artifact end in an error."""
    real, seen = command._measure, []  # type: ignore[var-annotated]

    def measure(*words: Any, **options: Any) -> Any:
        seen.append(words)
        if len(seen) == 2:
            raise error
        return real(*words, **options)

    monkeypatch.setattr(command, "_measure", measure)


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (RuntimeError("a bug"), 1)])
def test_what_was_measured_is_kept_however_the_command_ends(
    deploykit: Callable[..., Ended],
    tiny_onnx: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
) -> None:
    out = tmp_path / "measured.json"
    second_fails(monkeypatch, error)
    words = ["bench", *[tiny_onnx.folder] * 3, "--iterations", "3", "--out", out]
    if isinstance(error, RuntimeError):
        with pytest.raises(RuntimeError, match="a bug"):
            deploykit(*words)
    else:
        ended = deploykit(*words)
        assert ended.code == code
        assert ended.out.count(" onnx ") == 1
    assert len(json.loads(out.read_text())) == 1


def test_what_cannot_be_written_is_printed(
    deploykit: Callable[..., Ended], tiny_onnx: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("deploy_kit.disk.replace", full)
    ended = deploykit("bench", tiny_onnx.folder, "--iterations", "3", "--out", tmp_path / "measured.json")
    assert ended.code == 1
    assert "No space left on device" in ended.err
    assert ended.out.count(" onnx ") == 1


def test_outputs_that_were_not_checked_have_the_reason(
    deploykit: Callable[..., Ended], tiny_onnx: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy_kit.benchmarks.harness.check_outputs", lambda *given: (None, "nothing here can run it"))
    assert "outputs not checked: nothing here can run it" in deploykit("bench", tiny_onnx.folder).err
    assert "not checked" not in deploykit("bench", tiny_onnx.folder, "--no-check-outputs").err


def test_a_damaged_artifact_is_left_out_of_all(
    deploykit: Callable[..., Ended], tiny_onnx: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "artifacts/a/coreml").mkdir(parents=True)
    (tmp_path / "artifacts/a/coreml" / MANIFEST).write_text("half")
    (tmp_path / "artifacts/tiny").mkdir()
    (tmp_path / "artifacts/tiny/onnx").symlink_to(tiny_onnx.folder)
    monkeypatch.chdir(tmp_path)
    ended = deploykit("bench", "--iterations", "3", "--json")
    assert len(ended.json) == 1
    assert "artifacts/a/coreml is left out: " in ended.err


def test_where_there_is_nothing_what_the_device_can_run_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: list[tuple[str, str]] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("deploy_kit.api.export", lambda model, target, stages: exported.append((model, target)))
    for spec in ("ios:0001", "adb:1234"):
        command._found(SimpleNamespace(spec=spec), None, Stages())  # type: ignore[arg-type]
    assert [target for _, target in exported] == ["coreml"] * 3 + ["torchscript-lite"] * 3


def test_no_artifact_is_every_one_that_the_device_can_run(tiny_onnx: Artifact, tmp_path: Path) -> None:
    there = tmp_path / "artifacts" / "tiny"
    there.mkdir(parents=True)
    (there / "onnx").symlink_to(tiny_onnx.folder)
    ended = program("bench", "--iterations", "3", "--json", cwd=tmp_path)
    assert [each["artifact"]["target"] for each in ended.json] == ["onnx"]


def test_the_papers_suite_is_what_the_paper_has() -> None:
    assert (command.PAPERS, command.PAPERS_TARGET) == (("edgevit_xxs", "edgevit_xs", "edgevit_s"), "torchscript-lite")


@pytest.mark.slow
def test_where_there_is_nothing_the_papers_suite_is_exported(tmp_path: Path) -> None:
    ended = program("bench", "--iterations", "3", "--json", cwd=tmp_path)
    assert [each["artifact"]["model"] for each in ended.json] == list(command.PAPERS)
    assert len(list(tmp_path.glob("artifacts/*/torchscript-lite/manifest.json"))) == 3


def test_counts_are_the_result_and_stages_are_not(
    deploykit: Callable[..., Ended], tiny_onnx: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(artifact: Artifact, stages: Stages) -> command.Counted:
        with stages.stage("count"):
            return command.Counted(record_of(artifact), [3, 4567], {"cpu": "a test's"})

    monkeypatch.setattr(command, "_count", count)
    monkeypatch.setattr("deploy_kit.devices.registry.get_device", lambda spec: Local())
    words = ["bench", tiny_onnx.folder, "--device", "qemu:aarch64", "--metric", "instructions"]
    ended = deploykit(*words, "--json")
    assert [each["counts"] for each in ended.json] == [[3, 4567]]
    assert "count" in ended.err
    assert "4,567" in deploykit(*words).out


def test_compare_says_what_the_pairs_show(deploykit: Callable[..., Ended], tiny_onnx: Artifact) -> None:
    few = ["--pairs", "8", "--iterations", "5", "--warmup", "1"]
    ended = deploykit("compare", tiny_onnx.folder, tiny_onnx.folder, *few, "--json")
    found = ended.json
    assert len(found["pairs"]) == 8
    assert found["a_first"] == [True, False] * 4
    assert found["ratio"]["low"] <= found["ratio"]["estimate"] <= found["ratio"]["high"]
    assert found["verdict"] in ("faster", "slower", "no difference shown")


def test_compare_refuses_what_no_run_can_be(deploykit: Callable[..., Ended], tiny_onnx: Artifact) -> None:
    ended = deploykit("compare", tiny_onnx.folder, tiny_onnx.folder, "--iterations", "2000000")
    assert ended.code == 2
    assert "--iterations 2000000 cannot be" in ended.err


def test_compare_refuses_pairs_that_can_show_nothing(deploykit: Callable[..., Ended], tiny_onnx: Artifact) -> None:
    ended = deploykit("compare", tiny_onnx.folder, tiny_onnx.folder, "--pairs", "7")
    assert ended.code == 2
    assert "take 8 or more" in ended.err
