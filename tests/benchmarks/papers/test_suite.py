"""What is kept, what is gone on with, and what one failing model does to the others."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.harness import Measured
from deploy_kit.benchmarks.measurement import Energy
from deploy_kit.benchmarks.papers import suite as papers
from deploy_kit.benchmarks.papers.report import results_of, to_csv
from deploy_kit.benchmarks.papers.suite import Suite, check_folder, check_models, run_suite, write_whole
from deploy_kit.benchmarks.protocol import Protocol
from deploy_kit.benchmarks.runners import local
from deploy_kit.benchmarks.runners.ios_app import IosApp
from deploy_kit.benchmarks.runners.local import local_runner
from deploy_kit.devices.base import Completed, DeviceError
from deploy_kit.errors import DeployKitError, ExportError, UserError
from deploy_kit.models import get_architecture, list_models
from tests.benchmarks.papers.support import NOISY, fake_export, rename, suite_in
from tests.benchmarks.test_harness import DOCUMENT, Folder, script
from tests.benchmarks.test_protocol import SNAPDRAGON_888

MODELS = ["edgevit_xxs", "mobilenet_v2"]


@pytest.fixture(autouse=True)
def exported(monkeypatch: pytest.MonkeyPatch, tiny_onnx: Artifact) -> list[str]:
    return fake_export(monkeypatch, tiny_onnx)


def measured_in(suite: Suite) -> int:
    """How often a runner was started on the phone."""
    assert isinstance(suite.device, Folder)
    return sum("--result" in command for command in suite.device.commands)


def kept_in(suite: Suite) -> list[str]:
    return sorted(path.name.rsplit(".", 2)[0] for path in suite.folder.glob("measurements/*.json"))


def test_each_model_is_exported_measured_and_kept(tmp_path: Path, exported: list[str]) -> None:
    suite = suite_in(tmp_path)
    rows = run_suite(suite, MODELS)
    assert [(row.model, row.target, row.valid) for row in rows] == [(model, "onnx", True) for model in MODELS]
    assert [row.top1 for row in rows] == [get_architecture(model).published.top1 for model in MODELS]
    assert exported == MODELS
    assert kept_in(suite) == ["edgevit_xxs.onnx", "mobilenet_v2.onnx"]
    for row in rows:
        assert row.measurement is not None
        assert row.latency_ms == row.measurement.summary.p50_ms
        assert row.file is not None
        assert json.loads((suite.folder / row.file).read_text())["artifact"]["model"] == row.model
        assert (row.energy_mj, row.unavailable["energy_mj"]) == (None, row.measurement.unavailable["energy"])


class Unplugged(Folder):
    """It ends the whole run at its second measurement."""

    def run(self, command: Sequence[str], *, timeout: float, environment: Mapping[str, str] | None = None) -> Completed:
        if "--result" in command and any("--result" in before for before in self.commands):
            raise KeyboardInterrupt
        return super().run(command, timeout=timeout, environment=environment)


def test_a_run_that_was_ended_goes_on_where_it_was(tmp_path: Path, exported: list[str]) -> None:
    suite = suite_in(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_suite(replace(suite, device=Unplugged(tmp_path / "phone")), MODELS)
    assert kept_in(suite) == ["edgevit_xxs.onnx"]
    said: list[str] = []
    rows = run_suite(replace(suite, announce=said.append), MODELS)
    assert [row.valid for row in rows] == [True, True]
    assert measured_in(suite) == 1
    assert exported == MODELS
    assert any(text.startswith("edgevit_xxs, onnx: measured before") for text in said)


def _other_runner(**changes: Any) -> Any:
    return lambda suite: replace(suite, runners={"onnx": replace(suite.runners["onnx"], **changes)})


def _rebuilt(suite: Suite) -> Suite:
    (program,) = suite.runners["onnx"].files
    program.write_text(program.read_text() + "# built again\n")
    return suite


@pytest.mark.parametrize(
    "changed",
    [
        lambda suite: replace(suite, protocol=Protocol(cool_to_c=99.0)),
        lambda suite: replace(suite, info=SNAPDRAGON_888.model_copy(update={"os": "Android 13"})),
        _other_runner(name="another"),
        _other_runner(command=("--fast",)),
        _other_runner(environment={"A": "1"}),
        _other_runner(version="2"),
        _rebuilt,
    ],
    ids=["protocol", "device", "runner", "command", "environment", "version", "program"],
)
def test_a_measurement_of_other_conditions_is_not_reused_and_not_lost(tmp_path: Path, changed: Any) -> None:
    suite = suite_in(tmp_path)
    run_suite(suite, MODELS[:1])
    run_suite(changed(suite), MODELS[:1])
    assert measured_in(suite) == 2
    assert len(kept_in(suite)) == 2


def test_runners_of_this_machine_and_of_iphones_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    assert IosApp("coreml").identity() == IosApp("coreml").identity() != IosApp("coreml", "cpuOnly").identity()
    before = local_runner("onnx", 1).identity()
    assert local_runner("onnx", 1).identity() == before
    monkeypatch.setattr(local, "version", lambda package: "99.0")
    assert local_runner("onnx", 1).identity() != before


def test_a_measurement_of_another_file_is_not_reused(tmp_path: Path) -> None:
    suite = suite_in(tmp_path)
    (first,) = run_suite(suite, MODELS[:1])
    place = suite.folder / "artifacts" / "edgevit_xxs" / "onnx"
    manifest = json.loads((place / "manifest.json").read_text())
    (place / manifest["main_file"]).write_bytes(b"another file")
    changed = hashlib.sha256(b"another file").hexdigest()
    for record in manifest["files"]:
        if record["path"] == manifest["main_file"]:
            record.update(sha256=changed, bytes=12)
    (place / "manifest.json").write_text(json.dumps(manifest))
    (second,) = run_suite(suite, MODELS[:1])
    assert measured_in(suite) == 2
    assert second.measurement is not None
    assert second.measurement.artifact.sha256 == changed
    assert first.file != second.file


@pytest.mark.parametrize("damage", [lambda text: text[:200], lambda text: text.replace("SM8350", "SM9999")])
def test_a_kept_file_that_is_damaged_or_of_something_else_is_measured_again(tmp_path: Path, damage: Any) -> None:
    suite = suite_in(tmp_path)
    (row,) = run_suite(suite, MODELS[:1])
    kept = suite.folder / str(row.file)
    right = kept.read_text()
    kept.write_text(damage(right))
    (again,) = run_suite(suite, MODELS[:1])
    assert (measured_in(suite), again.valid) == (2, True)
    assert "SM8350" in json.loads(kept.read_text())["device"]["soc"]


def test_a_model_that_cannot_be_exported_is_a_row_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import deploy_kit.api

    right = deploy_kit.api.export

    def export(model: str, target: str, **options: Any) -> Artifact:
        if model == "edgevit_xxs":
            raise ExportError("edgevit_xxs for onnx: it cannot be", fix="try another")
        return right(model, target, **options)

    monkeypatch.setattr("deploy_kit.api.export", export)
    suite = suite_in(tmp_path)
    failed, measured = run_suite(suite, MODELS)
    assert failed.failure is not None
    assert (failed.failure.message, failed.failure.fix) == ("edgevit_xxs for onnx: it cannot be", "try another")
    assert (failed.valid, failed.latency_ms, failed.measurement) == (False, None, None)
    assert failed.unavailable["latency_ms"] == "edgevit_xxs for onnx: it cannot be"
    assert measured.valid
    assert kept_in(suite) == ["mobilenet_v2.onnx"]


def test_a_runner_that_fails_is_a_row_and_is_tried_the_next_time(tmp_path: Path) -> None:
    suite = suite_in(tmp_path)
    broken = replace(suite, runners={"onnx": script(tmp_path, "echo 'error: out of memory' >&2; exit 1")})
    (row,) = run_suite(broken, MODELS[:1])
    assert row.failure is not None
    assert "out of memory" in row.failure.message
    assert kept_in(suite) == []
    assert run_suite(suite, MODELS[:1])[0].valid


def test_an_artifact_that_was_changed_or_is_another_model_s_is_a_row(tmp_path: Path) -> None:
    suite = suite_in(tmp_path)
    run_suite(suite, MODELS)
    rename(suite.folder / "artifacts" / "edgevit_xxs" / "onnx", "edgevit_s")
    main = next((suite.folder / "artifacts" / "mobilenet_v2" / "onnx").glob("*.onnx"))
    main.write_bytes(b"")
    wrong, changed = run_suite(suite, MODELS)
    assert wrong.failure is not None
    assert "holds edgevit_s for onnx" in wrong.failure.message
    assert changed.failure is not None
    assert "was changed after it was proven" in changed.failure.message


def test_what_is_not_valid_is_kept_and_measured_once_more_only_where_that_is_asked_for(tmp_path: Path) -> None:
    written = tmp_path / "document.json"
    written.write_text(json.dumps(NOISY))
    suite = suite_in(tmp_path, script(tmp_path, f'cat "{written}" > "$result"'))
    (row,) = run_suite(suite, MODELS[:1])
    assert row.measurement is not None
    assert (row.valid, row.latency_ms) == (False, row.measurement.summary.p50_ms)
    assert run_suite(suite, MODELS[:1])[0] == row
    assert measured_in(suite) == 1
    written.write_text(json.dumps(DOCUMENT))
    (better,) = run_suite(replace(suite, again=True), MODELS[:1])
    assert (better.valid, better.file, measured_in(suite)) == (True, row.file, 2)
    run_suite(replace(suite, again=True), MODELS[:1])
    assert measured_in(suite) == 2


def test_energy_is_that_of_the_meter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = Energy(
        method="a meter", scope="the phone", mj_per_inference=41.5, parts_mj={}, iterations=50, window_s=1.0,
        total_mj=3000.0, baseline_mw=900.0, baseline_s=5.0, sampling_hz=5000.0, samples=5000, lowest_mw=1.0,
        highest_mw=2.0, clock_doubt_s=0.001, p50_ms=10.0,
    )  # fmt: skip
    right = papers.bench

    def bench(*given: Any, **named: Any) -> Measured:
        found = right(*given, **named)
        unavailable = {name: reason for name, reason in found.measurement.unavailable.items() if name != "energy"}
        metered = found.measurement.model_copy(update={"energy": used, "unavailable": unavailable})
        return replace(found, measurement=metered)

    monkeypatch.setattr(papers, "bench", bench)
    suite = suite_in(tmp_path)
    for _ in range(2):  # measured, then kept
        (row,) = run_suite(suite, MODELS[:1])
        assert (row.energy_mj, row.unavailable) == (41.5, {})
    (line, *_) = csv.DictReader(io.StringIO(to_csv(results_of("x", suite.info, suite.protocol, [row]))))
    assert (line["energy_mj"], line["energy_by"], line["note"]) == ("41.5", "a meter", "")


def test_a_model_without_a_published_accuracy_says_so(tmp_path: Path) -> None:
    (row,) = run_suite(suite_in(tmp_path), ["efficientvit_b0"])
    assert (row.top1, row.unavailable["top1"], row.valid) == (None, papers.NO_TOP1, True)


def _full(*arguments: Any, **named: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_ends_the_run_and_leaves_what_was_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = suite_in(tmp_path)
    run_suite(suite, MODELS[:1])

    right = Path.write_text

    def half(self: Path, text: str, **named: Any) -> None:
        right(self, text[:10])
        if self.parent.name == "measurements":
            _full()
        right(self, text, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", half)
        with pytest.raises(DeployKitError, match="no space left to write") as error:
            run_suite(suite, MODELS)
    assert (error.value.exit_code, "what was measured is kept" in error.value.fix) == (1, True)
    assert [path.name for path in (suite.folder / "measurements").iterdir() if path.name.startswith(".")] == []
    assert kept_in(suite) == ["edgevit_xxs.onnx"]
    assert [row.valid for row in run_suite(suite, MODELS)] == [True, True]


def test_a_full_disk_is_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(*arguments: Any, **named: Any) -> Artifact:
        try:
            _full()
        except OSError as error:
            raise DeployKitError("there is no space left to write 'model'") from error
        raise AssertionError

    monkeypatch.setattr("deploy_kit.api.export", export)
    with pytest.raises(DeployKitError, match="no space left to write 'model'"):
        run_suite(suite_in(tmp_path), MODELS)


def test_a_device_without_space_is_a_row(tmp_path: Path) -> None:
    class Full(Folder):
        def push(self, source: Path, target: str) -> None:
            raise DeviceError("adb:1234 is full", fix="free some space on it")

    suite = suite_in(tmp_path)
    rows = run_suite(replace(suite, device=Full(tmp_path / "phone")), MODELS)
    assert [row.failure and row.failure.message for row in rows] == ["adb:1234 is full"] * 2


def test_a_folder_that_cannot_be_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for folder in (file, file / "deeper"):
        with pytest.raises(UserError, match="cannot be written") as error:
            check_folder(folder)
        assert "--out" in error.value.fix
    check_folder(tmp_path / "new" / "deeper")
    assert [path.name for path in (tmp_path / "new" / "deeper").rglob("*")] == ["measurements"]


def test_a_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "results.json"
    write_whole(file, "old")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", _full)
        with pytest.raises(DeployKitError):
            write_whole(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_only_reference_models_are_measured() -> None:
    check_models(list(papers.MODELS))
    assert set(papers.MODELS) <= set(list_models())
    assert all(get_architecture(model).published.top1 for model in papers.MODELS)
    for name, near in (("edgevit_xxxs", "edgevit_xxs"), ("edgevit_digits", "edgevit")):
        with pytest.raises(UserError, match=f"there is no reference model called '{name}'") as error:
            check_models(["edgevit_s", name])
        assert near in error.value.fix
