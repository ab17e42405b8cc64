"""Sources are told apart by what is in them; what is none is one clear error."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.comparison import Comparison, Ratio
from deploy_kit.benchmarks.papers.report import results_of
from deploy_kit.benchmarks.papers.suite import Failure, Row
from deploy_kit.benchmarks.protocol import Protocol
from deploy_kit.cells.recipe import Recipe
from deploy_kit.errors import UserError
from deploy_kit.manifest import MANIFEST
from deploy_kit.report.read import default_sources, read_source
from deploy_kit.sweep.store import Store, open_store
from tests.report.support import (
    PHONE,
    check_of,
    entry_of,
    measurement_of,
    record_of_cell,
    result_of,
    spec_of,
)

RESULT = result_of(spec_of())
MEASURED = measurement_of(record_of_cell(RESULT))


def comparison() -> Comparison:
    pair = (MEASURED.rounds[0], MEASURED.rounds[0])
    ratio = Ratio(estimate=1.1, low=1.05, high=1.2)
    return Comparison(
        a=MEASURED.artifact,
        b=MEASURED.artifact,
        device=PHONE,
        protocol=Protocol(),
        started=MEASURED.started,
        pairs=[pair] * 8,
        a_first=[True] * 8,
        ratio=ratio,
        verdict=ratio.verdict,
        outputs={"A": None, "B": None},
        notes=[],
        command="deploykit compare A B",
    )


def papers() -> dict[str, Any]:
    rows = [
        Row(model="edgevit_xxs", target="onnx", top1=74.4, top1_source="a paper", measurement=MEASURED, valid=True),
        Row(model="edgevit_s", target="onnx", top1=81.0, top1_source="a", failure=Failure(message="too big", fix="")),
    ]
    return results_of("deploykit papers", PHONE, Protocol(), rows).model_dump(mode="json", by_alias=True)


def dumped(record: Any) -> Any:
    return record.model_dump(mode="json", by_alias=True)


DOCUMENTS: dict[str, Any] = {
    "check": dumped(check_of([RESULT])),
    "measurements": [dumped(MEASURED)],
    "comparison": dumped(comparison()),
    "papers": papers(),
    "instructions": [{"artifact": dumped(MEASURED.artifact), "counts": [7, 7], "pins": {"qemu": "8"}}],
}


def written(folder: Path, document: Any, name: str = "results.json") -> str:
    file = folder / name
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return str(file)


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_what_a_command_wrote_is_known_by_what_is_in_it(kind: str, tmp_path: Path) -> None:
    source = read_source(written(tmp_path, DOCUMENTS[kind]))
    assert source.kind == kind
    assert source.holds != "nothing"


def test_published_figures_are_not_taken(tmp_path: Path) -> None:
    source = read_source(written(tmp_path, DOCUMENTS["papers"]))
    assert (len(source.measurements), source.failed) == (1, [("edgevit_s", "onnx", PHONE.spec, "too big")])
    assert "published figures" in source.notes[0]


@pytest.mark.parametrize("place", ["lab.db", "a?b/x.db", "we#ird%41 ä.db"])
def test_a_store_is_read_by_its_url_or_its_file_whatever_its_name(place: str, tmp_path: Path) -> None:
    file = tmp_path / place
    file.parent.mkdir(exist_ok=True)
    store = open_store(file)
    run = store.begin("sweep", None, "here", Recipe(models=("edgevit_xxs",)))
    store.add(entry_of(RESULT, run, measurements=[MEASURED]))
    store.close()
    for name, called in ((str(file), str(file)), (f"sqlite:///{quote(str(file))}", store.url)):
        source = read_source(name)
        assert (source.name, source.kind, [entry.run for entry in source.entries]) == (called, "store", [run])
        assert source.entries[0].measurements[0].summary.p50_ms == MEASURED.summary.p50_ms


def test_a_store_on_a_server_is_called_by_its_url_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg", reason="needs psycopg: pip install 'deploy-kit[postgres]'")
    monkeypatch.setattr(Store, "prepare", lambda self: None)
    monkeypatch.setattr(Store, "entries", lambda self: [entry_of(RESULT, "run")])
    for url in ("postgresql://lab:sekret@h/x", "postgresql://h/x?user=lab&password=sekret"):
        source = read_source(url)
        assert "sekret" not in source.name
        assert "lab" in source.name


def test_artifacts_are_found_below_a_folder_but_not_in_hidden_ones(tiny_onnx: Artifact, tmp_path: Path) -> None:
    for name in ("a/onnx", "b/onnx", ".half-written"):
        shutil.copytree(tiny_onnx.folder, tmp_path / name)
    source = read_source(str(tmp_path))
    assert [folder.relative_to(tmp_path).as_posix() for folder, _ in source.manifests] == ["a/onnx", "b/onnx"]
    assert len(read_source(str(tmp_path / "a" / "onnx" / MANIFEST)).manifests) == 1


def test_a_damaged_artifact_among_others_is_left_out_with_a_note_and_alone_is_an_error(
    tiny_onnx: Artifact, tmp_path: Path
) -> None:
    shutil.copytree(tiny_onnx.folder, tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / MANIFEST).write_text("{")
    source = read_source(str(tmp_path))
    assert len(source.manifests) == 1
    assert "bad is left out" in source.notes[0]
    with pytest.raises(UserError, match="cannot be read"):
        read_source(str(tmp_path / "bad"))


NEWER = {**DOCUMENTS["check"], "schema_version": 2}
CUT = json.dumps(DOCUMENTS["check"])[:-20]
DAMAGED = [{**DOCUMENTS["measurements"][0], "summary": {"p50_ms": "soon"}}]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("", "is empty"),
        ("[]", "no measurement"),
        ("{}", "nothing that a report is made from"),
        ("[1, 2]", "nothing that a report is made from"),
        ('"text"', "nothing that a report is made from"),
        ("not json", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        (CUT, "is no JSON, or is cut off"),
        (NEWER, "schema version 2; this deploykit reads version 1"),
        ([{**DOCUMENTS["measurements"][0], "schema_version": 9}], "schema version 9"),
        (DAMAGED, "is damaged: summary"),
        (json.dumps(DOCUMENTS["comparison"]).replace("1.05", "NaN"), "is damaged: ratio.low"),
        (json.dumps(DOCUMENTS["comparison"]).replace("1.05", "1e999"), "is damaged: ratio.low"),
    ],
)
def test_what_is_no_source_is_a_clear_error(document: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said) as caught:
        read_source(written(tmp_path, document))
    assert caught.value.fix


def test_what_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, said in (
        (tmp_path / "none.json", "there is no file or folder"),
        (tmp_path / "empty", "there is no artifact"),
        (f"sqlite:///{tmp_path}/none.db", "there is no store"),
        ("nonsense://x", "SQLite or PostgreSQL"),
    ):
        with pytest.raises(UserError, match=said):
            read_source(str(name))
    assert list(tmp_path.iterdir()) == [tmp_path / "empty"]


def test_a_database_of_somebody_else_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "theirs.db"
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE theirs (x)")
    database.close()
    before = file.read_bytes()
    with pytest.raises(UserError, match="no store of deploykit's"):
        read_source(str(file))
    assert file.read_bytes() == before


def test_an_empty_store_is_a_clear_error(tmp_path: Path) -> None:
    open_store(f"sqlite:///{tmp_path}/new.db").close()
    with pytest.raises(UserError, match="is empty"):
        read_source(f"{tmp_path}/new.db")


def test_the_store_is_taken_before_the_artifacts_where_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither"):
        default_sources(tmp_path)
    (tmp_path / "artifacts").mkdir()
    assert default_sources(tmp_path) == [str(tmp_path / "artifacts")]
    (tmp_path / "deploykit.db").touch()
    assert default_sources(tmp_path) == [str(tmp_path / "deploykit.db")]
