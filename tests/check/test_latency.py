from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.comparison import Ratio
from deploy_kit.cells.recipe import Latency
from deploy_kit.check import latency
from deploy_kit.check.baseline import Baseline, Known, artifact_sha256
from deploy_kit.check.findings import Checked, Kind, Level
from deploy_kit.check.latency import BaselineFiles, Timing, keep, time_against
from deploy_kit.devices.base import DeviceError
from tests.check.fakes import cell, checked, failing, known, working

SAME, SLOWER, FASTER = (1.0, 0.99, 1.01), (1.1, 1.08, 1.12), (0.9, 0.88, 0.92)


@pytest.fixture
def files(tmp_path: Path) -> BaselineFiles:
    return BaselineFiles(tmp_path / "kept")


def program(path: Path, says: str = "") -> Path:
    path.write_text(f"#!/bin/sh\n# {says}\n")
    path.chmod(0o755)
    return path


def of(artifact: Artifact, key: str = "k1") -> Checked:
    result = working(cell("net", "onnx"))
    return checked(result, key=key).model_copy(update={"artifact": artifact.folder})


def other(artifact: Artifact, folder: Path) -> Artifact:
    """An artifact of other content."""
    shutil.copytree(artifact.folder, folder)
    file = folder / artifact.manifest.main_file
    file.write_bytes(file.read_bytes() + b"\0")
    record = artifact.manifest.files[0].model_copy(update={"sha256": latency._file_sha256(file)})
    manifest = artifact.manifest.model_copy(update={"files": [record]})
    (folder / "manifest.json").write_text(manifest.to_json())
    return Artifact(folder, manifest)


class Compared:
    """Stands for `compare`: gives the ratios it was made with, and keeps what it was asked."""

    def __init__(self, *ratios: tuple[float, float, float], notes: list[str] | None = None):
        self.ratios, self.notes, self.asked = list(ratios), notes or [], []  # type: ignore[var-annotated]

    def __call__(self, artifacts: Any, runners: Any, device: Any, protocol: Any, pairs: Any, **_: Any) -> Any:
        self.asked.append((artifacts, runners))
        estimate, low, high = self.ratios.pop(0)
        ratio = Ratio(estimate=estimate, low=low, high=high)
        times = [
            SimpleNamespace(result=SimpleNamespace(samples_ns=[int(ms * 1e6)] * 5)) for ms in (10.0, 10.0 * estimate)
        ]
        return SimpleNamespace(ratio=ratio, verdict=ratio.verdict, notes=self.notes, pairs=[times] * 30, device=device)


@pytest.fixture
def timed(
    tiny_onnx: Artifact, tmp_path: Path, files: BaselineFiles, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Compared], Timing]:
    """A changed artifact that is timed against the baseline's."""

    def run(compared: Compared) -> Timing:
        monkeypatch.setattr(latency, "compare", compared)
        before, settings = of(tiny_onnx), Latency()
        expected = known(before.result, sha256=artifact_sha256(tiny_onnx.folder))
        expected = expected.model_copy(update={"runner": keep([before], settings, files)["net/onnx/fp32"]})
        new = tmp_path / f"new{len(list(tmp_path.iterdir()))}"
        return time_against(expected, of(other(tiny_onnx, new), "k2"), settings, files)

    return run


def test_files_are_kept_by_their_content(tiny_onnx: Artifact, files: BaselineFiles, tmp_path: Path) -> None:
    sha256 = files.keep_artifact(tiny_onnx.folder)
    found = files.artifact(sha256)
    assert found is not None
    assert found.main_file.read_bytes() == tiny_onnx.main_file.read_bytes()
    runner = files.program(files.keep_program(program(tmp_path / "runner")))
    assert runner is not None
    assert os.access(runner, os.X_OK)
    assert sorted(len(path.name) for path in files.folder.iterdir()) == [64, 64]


@pytest.mark.parametrize("sha256", [None, "", "../kept", "a" * 64, "A" * 64])
def test_what_is_not_there_is_none(sha256: str | None, files: BaselineFiles) -> None:
    assert files.artifact(sha256) is None
    assert files.program(sha256) is None


def test_what_was_damaged_is_not_there_and_is_kept_again(
    tiny_onnx: Artifact, files: BaselineFiles, tmp_path: Path
) -> None:
    sha256, runner = files.keep_artifact(tiny_onnx.folder), files.keep_program(program(tmp_path / "runner"))
    (files.folder / sha256 / "model.onnx").write_bytes(b"half")
    (files.folder / runner / "runner").write_text("#!/bin/sh\nrm -rf /")
    assert files.artifact(sha256) is None
    assert files.program(runner) is None
    files.keep_artifact(tiny_onnx.folder)
    files.keep_program(tmp_path / "runner")
    assert files.artifact(sha256) is not None
    assert files.program(runner) is not None


def test_several_processes_may_keep_the_same(tiny_onnx: Artifact, files: BaselineFiles) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(lambda _: files.keep_artifact(tiny_onnx.folder), range(16)))
    assert [path.name for path in files.folder.iterdir()] == list(names)


def test_what_was_used_longest_ago_goes_first(files: BaselineFiles, tmp_path: Path) -> None:
    names = [files.keep_program(program(tmp_path / "runner", str(index))) for index in range(4)]
    for age, name in enumerate(names):
        os.utime(files.folder / name, (1000 + age, 1000 + age))
    files.program(names[1])
    size = (tmp_path / "runner").stat().st_size
    files.trim(2 * size, needed=[names[0]])
    assert {path.name for path in files.folder.iterdir()} == {names[0], names[1]}


def test_a_baseline_names_its_runtime_or_the_user_s_program(
    tiny_onnx: Artifact, files: BaselineFiles, tmp_path: Path
) -> None:
    from importlib.metadata import version

    cells = [of(tiny_onnx), checked(working(cell("net", "coreml"))), checked(failing(spec=cell("bad", "onnx")))]
    runtime = keep(cells, Latency(), files)
    assert set(runtime) == {"net/onnx/fp32"}
    assert version("onnxruntime") in runtime["net/onnx/fp32"]
    assert str(tmp_path) not in runtime["net/onnx/fp32"]
    own = program(tmp_path / "runner")
    named = keep(cells, Latency(runner=str(own)), files)["net/onnx/fp32"]
    assert files.program(named.removeprefix(latency.PROGRAM)) is not None


def test_a_cell_that_has_not_changed_is_not_timed(
    tiny_onnx: Artifact, files: BaselineFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "compare", Compared())
    cells = [of(tiny_onnx)]
    expected = known(cells[0].result, runner=keep(cells, Latency(), files)["net/onnx/fp32"])
    sha256 = artifact_sha256(tiny_onnx.folder)
    assert time_against(expected.model_copy(update={"sha256": sha256}), of(tiny_onnx, "k2"), Latency(), files) == (
        Timing()
    )
    assert time_against(expected, of(tiny_onnx), Latency(), files) == Timing()
    assert time_against(None, of(tiny_onnx), Latency(), files) == Timing()
    assert time_against(expected, checked(failing(spec=cell("net", "onnx"))), Latency(), files) == Timing()


def test_slower_is_an_error_with_the_ratio_and_its_interval(timed: Callable[[Compared], Timing]) -> None:
    compared = Compared(SLOWER, SLOWER)
    found = timed(compared)
    (finding,) = found.findings
    assert (finding.kind, finding.level) == (Kind.LATENCY, Level.ERROR)
    assert "1.100 times as long as the baseline's (1.080 to 1.120 at 98.5% confidence, 30 pairs on local)" in (
        finding.message
    )
    assert (finding.before, finding.after) == (10.0, 11.0)
    assert found.ratio == Ratio(estimate=1.1, low=1.08, high=1.12)
    (before, after), _ = compared.asked[0]
    assert before.main_file.read_bytes() + b"\0" == after.main_file.read_bytes()


def test_slower_has_to_be_seen_twice(timed: Callable[[Compared], Timing]) -> None:
    (finding,) = timed(Compared(SLOWER, SAME)).findings
    assert (finding.kind, finding.level) == (Kind.LATENCY, Level.NOTE)
    assert "a first comparison said slower" in finding.message


def test_faster_is_a_note(timed: Callable[[Compared], Timing]) -> None:
    (finding,) = timed(Compared(FASTER)).findings
    assert (finding.kind, finding.level) == (Kind.LATENCY, Level.NOTE)


def test_no_difference_is_nothing(timed: Callable[[Compared], Timing]) -> None:
    found = timed(Compared(SAME))
    assert found.findings == []
    assert found.ratio is not None


def test_conditions_that_were_not_good_are_said(timed: Callable[[Compared], Timing]) -> None:
    (finding,) = timed(Compared(SAME, notes=["A: the clocks moved"])).findings
    assert finding.level == Level.NOTE
    assert "A: the clocks moved" in finding.message
    (finding,) = timed(Compared(SAME, notes=[f"A: busy in round {index}" for index in range(90)])).findings
    assert finding.message.endswith("A: busy in round 3; and 86 more such notes")


def test_a_changed_program_is_timed_against_the_former(
    tiny_onnx: Artifact, files: BaselineFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = Compared(SLOWER, SLOWER)
    monkeypatch.setattr(latency, "compare", compared)
    own = program(tmp_path / "runner", "fast")
    settings, cells = Latency(runner=str(own)), [of(tiny_onnx)]
    expected = known(cells[0].result, runner=keep(cells, settings, files)["net/onnx/fp32"])
    program(own, "slow")
    (finding,) = time_against(expected, cells[0], settings, files).findings
    assert (finding.kind, finding.level) == (Kind.LATENCY, Level.ERROR)
    (a, b), (former, now) = compared.asked[0]
    assert a == b
    assert "fast" in former.files[0].read_text()
    assert "slow" in now.files[0].read_text()


def not_compared(expected: Known, now: Checked, settings: Latency, files: BaselineFiles) -> tuple[Level, str, str]:
    (finding,) = time_against(expected, now, settings, files).findings
    assert finding.kind == Kind.NOT_COMPARED
    return finding.level, finding.message, finding.fix


def test_what_could_not_be_compared_says_why(
    tiny_onnx: Artifact, files: BaselineFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "compare", Compared())
    now, changed = of(tiny_onnx), of(tiny_onnx, "k2")
    runner = keep([now], Latency(), files)["net/onnx/fp32"]
    expected = known(now.result, sha256="c" * 64, runner=runner)
    level, text, fix = not_compared(expected, changed, Latency(), files)
    assert level == Level.WARNING
    assert f"artifact ({'c' * 64}) is not in {str(files.folder)!r}" in text
    assert "check what the baseline expects here first" in fix
    own = expected.model_copy(update={"runner": f"{latency.PROGRAM}{'d' * 64}"})
    assert f"runner ({'d' * 64})" in not_compared(own, now, Latency(), files)[1]
    older = expected.model_copy(update={"runner": "python, onnx; 1.0"})
    assert "the runner was 'python, onnx; 1.0', which is not here" in not_compared(older, now, Latency(), files)[1]
    untimed = expected.model_copy(update={"runner": None})
    assert "without timing" in not_compared(untimed, now, Latency(), files)[1]
    level, text, _ = not_compared(expected, changed, Latency(device="adb:none-such"), files)
    assert level == Level.WARNING
    assert "could not be compared" in text
    apple = changed.model_copy(update={"result": working(cell("net", "coreml"))})
    level, text, _ = not_compared(expected, apple, Latency(), files)
    assert (level, text) == (Level.NOTE, "its latency is not compared: local does not run coreml")


def test_a_device_that_fails_is_no_verdict(timed: Callable[[Compared], Timing]) -> None:
    class Failed(Compared):
        def __call__(self, *_: Any, **__: Any) -> Any:
            raise DeviceError("it went away", fix="plug it in")

    (finding,) = timed(Failed()).findings
    assert (finding.kind, finding.level, finding.fix) == (Kind.NOT_COMPARED, Level.WARNING, "plug it in")
    assert "it went away" in finding.message


@pytest.mark.parametrize("bytes_differ", [False, True])
def test_an_unchanged_cell_is_kept_for_the_next_one_wherever_the_baseline_was_written(
    bytes_differ: bool, tiny_onnx: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = Compared(SLOWER, SLOWER)
    monkeypatch.setattr(latency, "compare", compared)
    own = program(tmp_path / "runner", "fast")
    settings, laptop = Latency(runner=str(own)), BaselineFiles(tmp_path / "laptop")
    made = of(tiny_onnx)
    expected = known(made.result, sha256=artifact_sha256(tiny_onnx.folder))
    expected = expected.model_copy(update={"runner": keep([made], settings, laptop)["net/onnx/fp32"]})
    ci = BaselineFiles(tmp_path / "ci")
    here = of(other(tiny_onnx, tmp_path / "here")) if bytes_differ else of(tiny_onnx, "another machine's")
    assert time_against(expected, here, settings, ci) == Timing()
    ci.trim(0, latency.needed(Baseline(cells={"net/onnx/fp32": expected})))
    program(own, "slow")
    new = of(other(Artifact(here.artifact, tiny_onnx.manifest), tmp_path / "new"), "k2")
    (finding,) = time_against(expected, new, settings, ci).findings
    assert (finding.kind, finding.level) == (Kind.LATENCY, Level.ERROR)
    assert ("another one stands for it" in finding.message) == bytes_differ
    (before, after), (former, now) = compared.asked[0]
    assert before.main_file.read_bytes() == (here.artifact / "model.onnx").read_bytes()
    assert after.main_file.read_bytes() == before.main_file.read_bytes() + b"\0"
    assert "fast" in former.files[0].read_text()
    assert "slow" in now.files[0].read_text()


def test_what_is_kept_is_not_read_again_and_what_lost_bytes_is_kept_again(
    tiny_onnx: Artifact, files: BaselineFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = of(tiny_onnx)
    runner = keep([made], Latency(), files)["net/onnx/fp32"]
    expected = known(made.result, sha256=artifact_sha256(tiny_onnx.folder), runner=runner)
    (kept,) = files.folder.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(latency, "open_artifact", lambda folder: pytest.fail("it was read"))
        assert time_against(expected, made, Latency(), files) == Timing()
    (kept / "model.onnx").write_bytes(b"half")
    time_against(expected, made, Latency(), files)
    assert files.artifact(kept.name) is not None


def test_what_is_timed_is_not_trimmed_by_another_check(
    tiny_onnx: Artifact, files: BaselineFiles, tmp_path: Path
) -> None:
    sha256, runner = files.keep_artifact(tiny_onnx.folder), files.keep_program(program(tmp_path / "runner"))
    other = BaselineFiles(files.folder)
    with files.holding():
        assert files.artifact(sha256) is not None
        assert other.trim(0) > 0
        assert other.program(runner) is None
        assert other.artifact(sha256) is not None
    assert other.trim(0) == 0
    assert list(files.folder.iterdir()) == []


def test_the_copy_of_a_killed_run_goes(files: BaselineFiles, tmp_path: Path) -> None:
    files.keep_program(program(tmp_path / "runner"))
    for name, age in ((".left", 2 * latency.LEFT_S), (".new", 0)):
        (files.folder / name).mkdir()
        os.utime(files.folder / name, (time.time() - age,) * 2)
    files.trim(10**9)
    assert sorted(path.name for path in files.folder.iterdir())[:1] == [".new"]
    assert len(list(files.folder.iterdir())) == 2
