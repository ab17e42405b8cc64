from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from deploy_kit.artifact import Artifact
from deploy_kit.check.baseline import (
    Baseline,
    artifact_sha256,
    baseline_of,
    known_of,
    read_baseline,
    steady,
    updated,
    write_baseline,
)
from deploy_kit.check.findings import Finding, Kind, Level
from deploy_kit.errors import DeployKitError, UserError
from deploy_kit.outcome import Outcome
from tests.check.fakes import cell, checked, failing, working

NOTE = Finding(kind=Kind.SIZE, level=Level.NOTE, cell="net/executorch/fp32", message="smaller")


def test_a_baseline_is_named_after_its_recipe() -> None:
    assert baseline_of(Path("ci/deploykit.toml")) == Path("ci/deploykit-baseline.json")
    assert baseline_of(Path("/lab.toml")) == Path("/lab-baseline.json")
    assert baseline_of(Path("nets.v2.toml")) == Path("nets.v2-baseline.json")
    assert baseline_of(Path("nets.v2")) == Path("nets.v2-baseline.json")


def of(*models: str) -> Baseline:
    return updated(None, [checked(working(cell(model))) for model in models], whole=True)


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    baseline = updated(None, [checked(working()), checked(failing(spec=cell("other")))], whole=True)
    write_baseline(baseline, tmp_path / "b.json")
    assert read_baseline(tmp_path / "b.json") == baseline
    assert [file.name for file in tmp_path.iterdir()] == ["b.json"]


def test_the_file_is_made_to_be_reviewed() -> None:
    text = of("b", "a").to_json()
    document = json.loads(text)
    assert list(document["cells"]) == ["a/executorch/fp32", "b/executorch/fp32"]
    assert text.splitlines()[4:8] == [
        '   "outcome": "ok",',
        '   "bytes": 1000000,',
        '   "noise_ratio": 1.23,',
        '   "snr_db": 130.0,',
    ]
    assert "null" not in text
    assert "2026" not in text
    assert "seconds" not in text


def test_an_error_of_none_is_a_number(tmp_path: Path) -> None:
    """JSON has no infinity, which an SNR without noise is."""
    for given, kept in ((math.inf, 999.0), (math.nan, None), (-math.inf, None), (130.04, 130.0)):
        baseline = updated(None, [checked(working(snr_db=given))], whole=True)
        write_baseline(baseline, tmp_path / "b.json")
        (known,) = read_baseline(tmp_path / "b.json").cells.values()
        assert known.snr_db == kept


def test_a_failure_is_kept_without_what_differs_from_run_to_run() -> None:
    reason = "/home/me/.venv/lib/torch/x.py failed in /tmp/deploykit-a1b2c3d4/graph (object at 0x7f3a5b6c7d80)"
    known = known_of(checked(failing(reason=reason)))
    assert known.reason == "x.py failed in graph (object at 0x*)"
    assert (known.bytes, known.sha256) == (None, None)
    assert steady("see https://pytorch.org/docs/stable/export.html, and/or ask") == (
        "see https://pytorch.org/docs/stable/export.html, and/or ask"
    )
    assert len(steady("x" * 9999)) == 500


def test_cells_that_were_not_checked_stay_and_those_that_are_gone_go() -> None:
    part = [checked(failing(spec=cell("b")))]
    assert set(updated(of("a", "b"), part, whole=False).cells) == {"a/executorch/fp32", "b/executorch/fp32"}
    whole = updated(of("a", "b"), part, whole=True).cells
    assert set(whole) == {"b/executorch/fp32"}
    assert whole["b/executorch/fp32"].outcome == Outcome.EXPORT_FAILED


def test_a_cell_that_could_not_be_tried_stays_as_it_is_expected() -> None:
    missing = [checked(failing(Outcome.UNAVAILABLE, spec=cell(name))) for name in ("a", "new")]
    for whole in (True, False):
        assert updated(of("a"), missing, whole=whole) == of("a")


def test_a_cell_that_is_only_tried_elsewhere_stays_as_it_is_expected() -> None:
    found = [checked(failing(spec=cell("b")))]
    cells = updated(of("a", "b", "old"), found, whole=True, elsewhere=[cell("a"), cell("new")]).cells
    assert list(cells) == ["a/executorch/fp32", "b/executorch/fp32"]
    assert cells["a/executorch/fp32"] == of("a").cells["a/executorch/fp32"]


def test_nothing_changes_where_no_cell_does() -> None:
    other = working(sha256="b" * 64, noise_ratio=1.3, seconds=99.0)
    assert updated(of("net"), [checked(other)], whole=True) == of("net")
    changed = updated(of("net"), [checked(other, key="k2")], whole=True).cells["net/executorch/fp32"]
    assert (changed.sha256, changed.key, changed.noise_ratio) == ("b" * 64, "k2", 1.3)
    smaller = checked(working(bytes=1), NOTE)
    assert updated(of("net"), [smaller], whole=True).cells["net/executorch/fp32"].bytes == 1


def test_the_runner_is_kept_where_latency_is_compared() -> None:
    timed = updated(of("net"), [checked(working())], whole=True, runners={"net/executorch/fp32": "python 1"})
    assert timed.cells["net/executorch/fp32"].runner == "python 1"
    assert updated(timed, [checked(working())], whole=True) == of("net")


def test_an_artifact_is_known_by_all_of_its_files(tiny_onnx: Artifact, tmp_path: Path) -> None:
    (file,) = tiny_onnx.manifest.files
    assert artifact_sha256(tiny_onnx.folder) == file.sha256
    weights = [file.model_copy(update={"path": "model.bin", "sha256": letter * 64}) for letter in "ab"]
    found = []
    for each in weights:
        manifest = tiny_onnx.manifest.model_copy(update={"files": [file, each]})
        (tmp_path / "manifest.json").write_text(manifest.to_json())
        found.append(artifact_sha256(tmp_path))
    assert found[0] != found[1]
    kept = checked(working()).model_copy(update={"artifact": tmp_path})
    assert known_of(kept).sha256 == found[1]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("{", "is damaged"),
        ("[]", "schema version None"),
        ('{"schema_version": 1}', "is damaged: cells"),
        ('{"schema_version": 1, "cells": {"a/b/c": {"outcome": "fine", "key": "k"}}}', r"cells\.a/b/c\.outcome"),
        ('{"schema_version": 1, "cells": {"a": {"outcome": "ok", "key": "k"}, "a": {}}}', "'a' is in it twice"),
        ('<<<<<<< ours\n{"schema_version": 1}', "is damaged"),
        ("[" * 99_999, "is damaged"),
    ],
)
def test_a_damaged_file_is_one_clear_error(text: str, wrong: str, tmp_path: Path) -> None:
    file = tmp_path / "b.json"
    file.write_text(text)
    with pytest.raises(UserError, match=wrong) as found:
        read_baseline(file)
    assert "deploykit check --update-baseline" in found.value.fix


def test_a_newer_file_asks_for_a_newer_deploykit(tmp_path: Path) -> None:
    file = tmp_path / "b.json"
    file.write_text('{"schema_version": 2, "cells": {}, "more": 1}')
    with pytest.raises(UserError, match="schema version 2; this deploykit reads version 1") as found:
        read_baseline(file)
    assert "install" in found.value.fix


def test_no_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no baseline") as found:
        read_baseline(tmp_path / "none.json")
    assert "--update-baseline" in found.value.fix
    (tmp_path / "latin.json").write_bytes(b'{"\xff"}')
    with pytest.raises(UserError, match="is damaged"):
        read_baseline(tmp_path / "latin.json")


def test_a_file_that_cannot_be_written_is_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "b.json").mkdir()
    with pytest.raises(DeployKitError, match="cannot be written"):
        write_baseline(of("a"), tmp_path / "b.json")
    assert [file.name for file in tmp_path.iterdir()] == ["b.json"]


def test_the_file_is_sorted_however_it_was_made() -> None:
    cells = of("a", "b").cells
    assert Baseline(cells=dict(reversed(cells.items()))).to_json() == of("a", "b").to_json()
