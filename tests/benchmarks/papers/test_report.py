"""``results.json``, ``results.csv`` and the figure: what was measured and what was published are told apart."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.papers.figure import Point, draw, fronts, page
from deploy_kit.benchmarks.papers.published import PublishedPoint, Source, published
from deploy_kit.benchmarks.papers.report import ACCURACY, COLUMNS, Results, results_of, to_csv, to_json
from deploy_kit.benchmarks.papers.suite import Failure, Row, run_suite
from deploy_kit.benchmarks.protocol import Protocol
from tests.benchmarks.papers.support import fake_export, suite_in
from tests.benchmarks.test_protocol import SNAPDRAGON_888

SVG = "{http://www.w3.org/2000/svg}"
POINTS = sum(len(source.points) for source in published())


def row(model: str, latency_ms: float | None, top1: float | None = 75.0, **changes: object) -> Row:
    reasons = {"energy_mj": "no meter was asked for"}
    given = {"valid": True, "unavailable": reasons, **changes}
    return Row(model=model, target="onnx", top1=top1, top1_source="a paper", latency_ms=latency_ms, **given)  # type: ignore[arg-type]  # by name


def results(*rows: Row) -> Results:
    return results_of("deploykit papers", SNAPDRAGON_888, Protocol(), list(rows))


def shapes(svg: str, kind: str) -> list[ElementTree.Element]:
    return [group for group in ElementTree.fromstring(svg).iter(f"{SVG}g") if group.get("class") == kind]


def titles(svg: str, kind: str) -> list[str]:
    return [str(group.findtext(f"{SVG}title")) for group in shapes(svg, kind)]


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_onnx: Artifact) -> Results:
    fake_export(monkeypatch, tiny_onnx)
    suite = suite_in(tmp_path)
    return results_of("deploykit papers", suite.info, suite.protocol, run_suite(suite, ["edgevit_xxs"]))


def test_json_has_raw_samples_sources_and_can_be_read_again(measured: Results) -> None:
    document = json.loads(to_json(measured))
    assert (document["schema_version"], document["command"]) == (1, "deploykit papers")
    assert len(document["rows"][0]["measurement"]["rounds"][0]["result"]["samples_ns"]) == 50
    assert document["device"]["soc"] == "SM8350"
    assert document["accuracy"] == ACCURACY
    assert [source["key"] for source in document["published"]] == [source.key for source in published()]
    assert Results.model_validate_json(to_json(measured)) == measured


def test_csv_has_a_line_for_everything_and_says_which_is_published(measured: Results) -> None:
    failed = row("levit_128", None, valid=False, failure=Failure(message="no, never", fix=""), unavailable={})
    lines = list(csv.DictReader(io.StringIO(to_csv(measured.model_copy(update={"rows": [*measured.rows, failed]})))))
    assert [*lines[0]] == list(COLUMNS)
    assert [line["kind"] for line in lines] == ["measured"] * 2 + ["published"] * POINTS
    ours, lost, theirs = lines[:3]
    record = measured.rows[0].measurement
    assert record is not None
    assert (ours["sha256"], ours["valid"], ours["latency_is"]) == (record.artifact.sha256, "yes", "median of 50")
    assert float(ours["latency_ms"]) == record.summary.p50_ms
    assert ours["note"] == f"no energy: {record.unavailable['energy']}"
    assert (lost["latency_ms"], lost["valid"], lost["note"]) == ("", "no", "no, never")
    source = published()[0]
    assert (theirs["name"], theirs["device"], theirs["table"]) == (source.points[0].name, source.device, source.table)
    assert (theirs["url"], theirs["latency_is"], theirs["valid"]) == (source.url, "as published", "")


def test_measured_and_published_points_differ_in_shape_and_in_words() -> None:
    svg = draw(results(row("edgevit_xxs", 12.5)))
    ours, theirs = shapes(svg, "measured"), shapes(svg, "published")
    assert (len(ours), len(theirs)) == (1, POINTS)
    assert all(group.find(f"{SVG}circle") is not None and group.find(f"{SVG}polygon") is None for group in ours)
    assert all(group.find(f"{SVG}polygon") is not None and group.find(f"{SVG}circle") is None for group in theirs)
    assert titles(svg, "measured") == [
        "measured: edgevit_xxs, onnx; 12.5 ms (median); adb:1234, Phone, SM8350, Android 12, aarch64; "
        "top-1 75.0% as published"
    ]
    first = published()[0]
    assert titles(svg, "published")[0].startswith(f"published: {first.points[0].name}; ")
    for source, title in ((first, titles(svg, "published")[0]), (published()[-1], titles(svg, "published")[-1])):
        assert all(word in title for word in (source.device, source.runtime, source.table, source.url))
    legend = [str(group.findtext(f"{SVG}text[last()]")) for group in shapes(svg, "legend")]
    assert legend[0] == "measured here: onnx"
    assert sum(text.startswith("published: ") for text in legend) == len(published())
    assert "published top-1, %" in svg
    assert "random weights" in svg


def test_the_mark_is_where_its_values_are() -> None:
    svg = draw(results(row("a", 1.0, 70.0), row("b", 10.0, 75.0), row("c", 100.0, 80.0)))
    at = [group.find(f"{SVG}circle") for group in shapes(svg, "measured")]
    x, y = ([float(str(mark.get(name))) for mark in at if mark is not None] for name in ("cx", "cy"))
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)
    assert y[0] - y[1] == pytest.approx(y[1] - y[2], abs=0.2)
    assert x[0] < x[2]
    assert y[0] > y[2]


def test_what_is_not_valid_is_crossed_and_says_why() -> None:
    noisy = row("edgevit_xxs", 12.5, valid=False, unavailable={"energy_mj": "it was charging"})
    svg = draw(results(noisy))
    assert shapes(svg, "measured") == []
    assert titles(svg, "measured invalid")[0].endswith("NOT VALID: no energy: it was charging")
    assert "NOT VALID (point at it for why)" in svg
    assert "NOT VALID" not in draw(results(row("edgevit_xxs", 12.5), row("levit_128", None, valid=False)))


def test_rows_without_a_figure_or_an_accuracy_have_no_mark() -> None:
    svg = draw(results(row("edgevit_xxs", None, valid=False), row("efficientvit_b0", 5.0, None)))
    assert shapes(svg, "measured") == shapes(svg, "measured invalid") == []
    assert len(shapes(svg, "published")) == POINTS


def point(name: str, value: float, top1: float, **changes: object) -> Point:
    return Point(value, top1, name, "", **{"target": "onnx", **changes})  # type: ignore[arg-type]  # given by name


def test_the_front_is_of_valid_measured_models_of_one_target() -> None:
    points = [
        point("slow and poor", 30.0, 70.0),
        point("fast", 10.0, 70.0),
        point("good", 20.0, 75.0),
        point("as good and slower", 25.0, 75.0),
        point("best, not valid", 5.0, 90.0, valid=False),
        point("best, of another target", 1.0, 95.0, target="executorch"),
        point("best, published", 1.0, 99.0, target="", letter="a"),
    ]
    assert [[each.name for each in front] for front in fronts(points)] == [["fast", "good"]]
    assert fronts(points[:2]) == []


def test_a_front_is_drawn_and_explained_where_there_is_one() -> None:
    words = "no other one is faster and as good"
    two = draw(results(row("edgevit_xxs", 10.0, 74.4), row("edgevit_xs", 20.0, 77.5)))
    assert ('class="front"' in two, words in two) == (True, True)
    one = draw(results(row("edgevit_xxs", 10.0, 74.4)))
    assert ('class="front"' in one, words in one) == (False, False)


def test_energy_is_a_second_panel_or_absent_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    without = draw(results(row("edgevit_xxs", 10.0)))
    assert len(shapes(without, "panel")) == 1
    assert "No energy panel: measured here: no meter was asked for; published: no text that was read has one" in without
    measured = draw(results(row("edgevit_xxs", 10.0, energy_mj=40.0, unavailable={})))
    assert len(shapes(measured, "panel")) == 2
    assert "No published energy" in measured
    assert [title.split("; ")[1] for title in titles(measured, "measured")] == ["10 ms (median)", "40 mJ"]
    lost_in_noise = draw(results(row("edgevit_xxs", 10.0, energy_mj=-0.1, unavailable={})))
    assert len(shapes(lost_in_noise, "panel")) == 1
    source = published()[0].model_dump() | {"points": [PublishedPoint(name="x", top1=70, latency_ms=1, energy_mj=9)]}
    both = results(row("edgevit_xxs", 10.0)).model_copy(update={"published": [Source.model_validate(source)]})
    assert len(shapes(draw(both), "panel")) == 2
    assert "9 mJ" in titles(draw(both), "published")[1]


def test_a_long_reason_stays_in_the_picture() -> None:
    reason = "; ".join(f"meter {index} is not there" for index in range(30))
    svg = ElementTree.fromstring(draw(results(row("edgevit_xxs", 10.0, unavailable={"energy_mj": reason}))))
    lines = [text for text in svg.iter(f"{SVG}text") if text.get("class") == "note"]
    assert "meter 29 is not there" in " ".join(str(line.text) for line in lines)
    assert max(len(str(line.text)) for line in lines) < 200
    assert max(float(str(line.get("y"))) for line in lines) < float(str(svg.get("height")))


def test_labels_of_measured_models_are_all_there_and_do_not_cover_each_other() -> None:
    rows = [row(f"model_{index}", 20.0 + index / 10, 75.0 + index / 10) for index in range(8)]
    texts = list(ElementTree.fromstring(draw(results(*rows))).iter(f"{SVG}text"))
    ours = [text for text in texts if "measured" in str(text.get("class"))]
    assert sorted(str(text.text) for text in ours) == [f"model_{index}" for index in range(8)]
    places = [(text.get("x"), text.get("y")) for text in ours]
    assert len(set(places)) == 8


def test_the_page_needs_nothing_from_anywhere_and_runs_nothing() -> None:
    html = page(results(row("edgevit_xxs", 12.5), row("levit_128", None, valid=False)))
    assert re.search(r"<script|<link|<img|<iframe|@import|url\(|\bsrc=|\bhref=", html, re.IGNORECASE) is None
    assert html.count('<tr class="published">') == POINTS
    assert html.count('<tr class="measured">') == 2
    assert "<td>levit_128</td><td>onnx</td><td>75.0</td><td>-</td><td>-</td>" in html


@pytest.mark.parametrize("make", [draw, page])
def test_names_are_text_and_never_markup(make: Callable[[Results], str]) -> None:
    device = SNAPDRAGON_888.model_copy(update={"model": "<script>alert(1)</script>"})
    found = results(row("edgevit_xxs", 12.5)).model_copy(update={"device": device})
    assert "<script>" not in make(found)
    assert "&lt;script&gt;" in make(found)
