"""What belongs together is one cell, in time; what does not is told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.harness import record_of
from deploy_kit.benchmarks.measurement import Measurement
from deploy_kit.check.findings import Finding
from deploy_kit.manifest import read_manifest
from deploy_kit.report.data import Page
from deploy_kit.report.gather import gather
from deploy_kit.report.read import Counted, Source
from tests.report.support import (
    BOARD,
    artifact_in,
    check_of,
    day,
    entry_of,
    measurement_of,
    record_of_cell,
    result_of,
    sha_of,
    spec_of,
)
from tests.support import TINY


def page_of(*sources: Source) -> Page:
    return gather(sources, "deploykit report")


def store(*entries: object) -> Source:
    return Source("sqlite:///s.db", "store", entries=list(entries))  # type: ignore[arg-type]  # entries of `entry_of`


def test_runs_of_a_cell_are_one_history_and_the_newest_is_what_it_is_now() -> None:
    old, new = result_of(spec_of(), "a" * 64, bytes=100), result_of(spec_of(), "b" * 64, bytes=90)
    page = page_of(store(entry_of(new, "later", 5), entry_of(old, "first", 1)))
    (cell,) = page.cells
    assert [export.run for export in cell.exports] == ["first", "later"]
    assert cell.bytes == 90
    assert [run.id for run in page.runs] == ["first", "later"]
    (change,) = page.changes
    assert (change.what, change.before, change.after, change.level) == ("size", 100, 90, "note")


@pytest.mark.parametrize(
    ("before", "after", "what", "level"),
    [
        ({}, {"outcome": "export_failed", "reason": "no such operator"}, "outcome", "error"),
        ({"outcome": "export_failed"}, {}, "outcome", "note"),
        ({"outcome": "export_failed"}, {"outcome": "too_slow"}, "outcome", "warning"),
        ({"bytes": 1000}, {"bytes": 1011}, "size", "warning"),
        ({"noise_ratio": 1.0}, {"noise_ratio": 2.1}, "error", "warning"),
        ({"accuracy": {"right": 9, "total": 10}}, {"accuracy": {"right": 8, "total": 10}}, "accuracy", "warning"),
        (
            {"instructions": {"count": 1000, "pins": {"qemu": "8"}}},
            {"instructions": {"count": 1001, "pins": {"qemu": "8"}}},
            "instructions",
            "warning",
        ),
    ],
)
def test_a_regression_between_runs_is_told(before: dict, after: dict, what: str, level: str) -> None:  # type: ignore[type-arg]
    spec = spec_of()
    page = page_of(store(entry_of(result_of(spec, **before), "a", 1), entry_of(result_of(spec, **after), "b", 2)))
    assert [(change.what, change.level) for change in page.changes] == [(what, level)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"bytes": 1000}, {"bytes": 1009}),
        ({"noise_ratio": 1.0}, {"noise_ratio": 1.9}),
        ({}, {"outcome": "unavailable"}),
        (
            {"instructions": {"count": 1000, "pins": {"qemu": "8"}}},
            {"instructions": {"count": 2000, "pins": {"qemu": "9"}}},
        ),
    ],
)
def test_what_is_no_change_of_the_cell_is_not_told(before: dict, after: dict) -> None:  # type: ignore[type-arg]
    spec = spec_of()
    page = page_of(store(entry_of(result_of(spec, **before), "a", 1), entry_of(result_of(spec, **after), "b", 2)))
    assert page.changes == []


@pytest.mark.parametrize("days", [(1, 2, 3), (1, 1, 1)], ids=["apart", "in one second"])
def test_the_newest_change_comes_first(days: tuple[int, int, int]) -> None:
    sizes = (1000, 2000, 1000)
    entries = [
        entry_of(result_of(spec_of(), bytes=size), str(run), day)
        for run, (size, day) in enumerate(zip(sizes, days, strict=True))
    ]
    assert [change.after for change in page_of(store(*entries)).changes] == [1000, 2000]


def test_a_reduced_precision_is_judged_by_its_snr() -> None:
    def change(before: float, after: float) -> list[str]:
        spec = spec_of(precision="fp16")
        results = [result_of(spec, snr_db=snr, noise_ratio=snr * 9) for snr in (before, after)]
        page = page_of(store(entry_of(results[0], "a", 1), entry_of(results[1], "b", 2)))
        return [each.message for each in page.changes]

    assert change(60, 56.5) == ["the SNR is 3.5 dB lower"]
    assert change(60, 58) == []


def test_latencies_of_different_runs_are_never_judged() -> None:
    result = result_of(spec_of())
    fast, slow = (measurement_of(record_of_cell(result), p50, started=day(n)) for n, p50 in ((1, 5.0), (2, 50.0)))
    page = page_of(store(entry_of(result, "a", 1, measurements=[fast]), entry_of(result, "b", 2, measurements=[slow])))
    assert page.changes == []
    (cell,) = page.cells
    assert [timing.p50_ms for timing in cell.timings] == [5.0, 50.0]
    assert [timing.p50_ms for timing in cell.current] == [50.0]


def test_a_failure_is_told_until_its_device_has_measured_the_cell() -> None:
    result = result_of(spec_of())
    failed = entry_of(result, "a", 1, failures={"adb:R5CT10": "it is gone"})

    def failures(*others: Source) -> dict[str, tuple[str, str | None]]:
        (cell,) = page_of(*others).cells
        return {device: (each.reason, each.run) for device, each in cell.failures.items()}

    def measured(number: int, **changes: Any) -> list[Measurement]:
        return [measurement_of(record_of_cell(result), started=day(number), **changes)]

    told = {"adb:R5CT10": ("it is gone", "a")}
    assert failures(store(failed)) == told
    assert failures(store(failed, entry_of(result, "b", 2, measurements=measured(2)))) == {}
    assert failures(store(failed), Source("m.json", "measurements", measurements=measured(2))) == {}
    assert failures(store(entry_of(result, "b", 0, measurements=measured(0)), failed)) == told
    for other in (measured(2, threads=4), measured(2, device=BOARD)):
        assert failures(store(failed, entry_of(result, "b", 2, measurements=other))) == told
    wrong = failed.model_copy(update={"measurements": measured(2, outputs="wrong")})
    assert failures(store(wrong)) == told
    again = entry_of(result, "b", 2, failures={"adb:R5CT10": "it is off"})
    for entries in ((failed, again), (again, failed)):
        assert failures(store(*entries)) == {"adb:R5CT10": ("it is off", "b")}
    threads = entry_of(result, "a", 1, failures={"adb:R5CT10, 4 threads": "too warm"})
    assert len(failures(store(threads, entry_of(result, "b", 2, measurements=measured(2))))) == 1
    assert failures(store(threads, entry_of(result, "b", 2, measurements=measured(2, threads=4)))) == {}


def test_a_measurement_finds_its_cell_by_the_file_whatever_the_model_is_called() -> None:
    spec = spec_of("my.models:net")
    result = result_of(spec, "f" * 64)
    measured = measurement_of(record_of_cell(result, "another_name"))
    page = page_of(store(entry_of(result)), Source("m.json", "measurements", measurements=[measured]))
    (cell,) = page.cells
    assert (cell.id, len(cell.timings)) == ("my.models.net/onnx/fp32", 1)
    assert not cell.stale(cell.timings[0])


def test_a_measurement_of_an_older_file_is_of_another_file() -> None:
    old, new = result_of(spec_of(), "a" * 64), result_of(spec_of(), "b" * 64)
    measured = measurement_of(record_of_cell(old))
    page = page_of(store(entry_of(new)), Source("m.json", "measurements", measurements=[measured]))
    (cell,) = page.cells
    assert cell.stale(cell.timings[0])


def test_a_measurement_alone_is_a_cell_of_which_nothing_else_is_said() -> None:
    measured = measurement_of(record_of_cell(result_of(spec_of(), bytes=123)))
    page = page_of(Source("m.json", "measurements", measurements=[measured]))
    (cell,) = page.cells
    assert (cell.now, cell.bytes, cell.manifest) == (None, 123, None)


def test_setups_are_of_devices_and_threads() -> None:
    record = record_of_cell(result_of(spec_of()))
    measured = [
        measurement_of(record, 5),
        measurement_of(record, 3, threads=4),
        measurement_of(record, 9, device=BOARD),
        measurement_of(record, 6, started=day(1)),
    ]
    page = page_of(Source("m.json", "measurements", measurements=measured))
    assert page.setups == ["adb:R5CT10, 1 thread", "adb:R5CT10, 4 threads", "ssh:pi@board, 1 thread"]
    assert {timing.setup: timing.p50_ms for timing in page.cells[0].current} == dict(zip(page.setups, (6, 3, 9)))


def test_the_same_measurement_in_two_sources_is_one() -> None:
    result = result_of(spec_of())
    measured = measurement_of(record_of_cell(result))
    page = page_of(
        store(entry_of(result, measurements=[measured])), Source("m.json", "measurements", measurements=[measured])
    )
    assert len(page.cells[0].timings) == 1


def test_a_check_that_the_store_has_too_is_one_run_and_keeps_its_findings() -> None:
    result = result_of(spec_of())
    finding = Finding(kind="size", level="error", cell=result.cell.id, message="larger", before=1.0, after=2.0)
    gone = Finding(kind="gone_cell", level="warning", cell="old/onnx/fp32", message="gone")
    check = Source("check.json", "check", checks=[check_of([result], [finding, gone])])
    page = page_of(store(entry_of(result, "run", 9, kind="check")), check)
    assert [run.id for run in page.runs] == ["run"]
    assert len(page.cells[0].exports) == 1
    assert [each.finding for each in page.cells[0].findings] == [finding]
    assert [each.finding.kind for each in page.findings] == ["size", "gone_cell"]
    alone = page_of(check)
    assert [(run.kind, run.cells, run.working) for run in alone.runs] == [("check", 1, 1)]


def test_findings_come_with_errors_first_and_by_the_name_that_the_cell_has_here() -> None:
    result = result_of(spec_of("package.mine:net"))
    findings = [
        Finding(kind="size", level="note", cell=result.cell.id, message="smaller"),
        Finding(kind="error", level="error", cell=result.cell.id, message="worse"),
    ]
    page = page_of(Source("check.json", "check", checks=[check_of([result], findings)]))
    assert [each.finding.level for each in page.findings] == ["error", "note"]
    assert {each.finding.cell for each in page.findings} == {page.cells[0].id}


def test_models_that_would_be_called_the_same_keep_all_of_what_they_were_given_as() -> None:
    results = [result_of(spec_of(name), sha_of(name)) for name in ("/a/net.pt2", "/b/net.pt2", "edgevit_s")]
    page = page_of(store(*map(entry_of, results)))
    assert {cell.model for cell in page.cells} == {"/a/net.pt2", "/b/net.pt2", "edgevit_s"}


def test_an_artifact_of_a_run_is_no_second_export_and_brings_its_manifest(tiny_onnx: Artifact) -> None:
    spec = spec_of(TINY)
    result = result_of(spec, record_of(tiny_onnx).sha256)
    page = page_of(
        store(entry_of(result)), Source("here", "artifacts", manifests=[(tiny_onnx.folder, tiny_onnx.manifest)])
    )
    (cell,) = page.cells
    assert len(cell.exports) == 1
    assert cell.manifest is not None
    assert cell.manifest.proof.verified_by.startswith("onnxruntime")


def test_the_folder_that_an_entry_names_is_read_where_it_has_the_same_file(tiny_onnx: Artifact) -> None:
    spec, folder = spec_of(TINY), str(tiny_onnx.folder)
    same = result_of(spec, record_of(tiny_onnx).sha256)
    assert page_of(store(entry_of(same, artifact=folder))).cells[0].manifest is not None
    other = result_of(spec, "0" * 64)
    assert page_of(store(entry_of(other, artifact=folder))).cells[0].manifest is None


def test_two_artifacts_of_one_cell_are_told_apart_by_their_folders(tiny_onnx: Artifact, tmp_path: Path) -> None:
    first = artifact_in(tmp_path / "a", tiny_onnx)
    files = [{**file.model_dump(), "sha256": "1" * 64} for file in tiny_onnx.manifest.files]
    second = artifact_in(tmp_path / "b", tiny_onnx, files=files)
    again = artifact_in(tmp_path / "c", tiny_onnx)
    found = [(folder, read_manifest(folder)) for folder in (first, second, again)]
    page = page_of(Source("here", "artifacts", manifests=found))
    assert [cell.variant for cell in page.cells] == ["", str(second)]
    assert len({cell.id for cell in page.cells}) == 2


def test_a_newer_artifact_in_a_folder_is_the_cells_next_export_and_no_variant(
    tiny_onnx: Artifact, tmp_path: Path
) -> None:
    files = [{**file.model_dump(), "sha256": "1" * 64} for file in tiny_onnx.manifest.files]
    newer = artifact_in(tmp_path / "new", tiny_onnx, TINY, files=files, created="2100-01-01T00:00:00+00:00")
    ran = entry_of(result_of(spec_of(TINY), record_of(tiny_onnx).sha256), artifact=str(tiny_onnx.folder))
    page = page_of(store(ran), Source("here", "artifacts", manifests=[(newer, read_manifest(newer))]))
    (cell,) = page.cells
    assert [export.sha256 for export in cell.exports] == [record_of(tiny_onnx).sha256, "1" * 64]
    assert cell.manifest is not None
    assert cell.manifest.folder == str(newer)


def test_counted_instructions_belong_to_the_file_that_they_were_counted_of() -> None:
    result = result_of(spec_of(), "a" * 64)
    counted = Counted(artifact=record_of_cell(result), counts=[5, 5], pins={"qemu": "8"})
    page = page_of(store(entry_of(result)), Source("c.json", "instructions", counted=[counted]))
    assert page.cells[0].now is not None
    assert page.cells[0].now.instructions is not None
    assert page.cells[0].now.instructions.count == 5


def test_numbers_that_json_has_not_are_not_known() -> None:
    result = result_of(spec_of(), noise_ratio=float("inf"), max_relative_error=float("nan"))
    now = page_of(store(entry_of(result))).cells[0].now
    assert now is not None
    assert (now.noise_ratio, now.max_relative_error, now.snr_db) == (None, None, 120.0)


def test_a_measurement_with_reasons_is_not_valid_whatever_it_says() -> None:
    measured = measurement_of(record_of_cell(result_of(spec_of())), reasons=["throttled"])
    lied = measured.model_copy(update={"valid": True})
    silent = measured.model_copy(update={"reasons": [], "started": day(2)})
    page = page_of(Source("m.json", "measurements", measurements=[lied, silent]))
    assert [timing.valid for timing in page.cells[0].timings] == [False, False]
    assert all(timing.reasons for timing in page.cells[0].timings)


def test_a_check_of_what_was_exported_before_is_a_check_of_its_own() -> None:
    """Made, changed, and changed back: the last check, as a file, took its cell from the cache."""
    first = result_of(spec_of(), "a" * 64, bytes=1000, created=day(1))
    changed = result_of(spec_of(), "b" * 64, bytes=2000, created=day(2))
    runs = [entry_of(first, "first", 1, kind="check"), entry_of(changed, "second", 2, kind="check")]
    last = check_of([first], created=day(3))
    page = page_of(store(*runs), Source("check.json", "check", checks=[last]))
    assert [export.bytes for export in page.cells[0].exports] == [1000, 2000, 1000]
    assert [run.created for run in page.runs] == [day(1), day(2), day(3)]
    stored = entry_of(first, "third", 3, kind="check")
    page = page_of(store(*runs, stored), Source("check.json", "check", checks=[last]))
    assert [run.id for run in page.runs] == ["first", "second", "third"]
