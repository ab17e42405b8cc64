"""The page's text: whole, escaped, and of a size that opens."""

from __future__ import annotations

import json
import re
import tomllib
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from deploy_kit.artifact import Artifact
from deploy_kit.check.findings import Finding
from deploy_kit.report.gather import gather
from deploy_kit.report.page import HERE, render, script_json
from deploy_kit.report.read import Source
from tests.report.support import (
    HOSTILE,
    check_of,
    entry_of,
    lab,
    measurement_of,
    record_of_cell,
    result_of,
    spec_of,
)
from tests.support import TINY

LARGEST = 5_000_000


class Elements(HTMLParser):
    """The elements of a page, and the text that people read."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.quiet = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))
        self.quiet += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.quiet -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self.quiet:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def rendered(*sources: Source, command: str = "deploykit report") -> str:
    return render(gather(sources, command))


def view(page: str) -> Any:
    return json.loads(re.findall(r'<script type="application/json" id="view">(.*?)</script>', page, re.DOTALL)[0])


@pytest.fixture(scope="module")
def large() -> str:
    return rendered(*lab(40))


@pytest.fixture(scope="module")
def elements(large: str) -> Elements:
    return Elements(large)


def test_six_hundred_cells_in_three_runs_are_under_five_megabytes(large: str) -> None:
    assert len(view(large)["cells"]) == 600
    assert len(large.encode()) < LARGEST


def test_it_asks_nothing_of_a_network(large: str, elements: Elements) -> None:
    assert not any(name in attributes for _, attributes in elements.found for name in ("src", "srcset", "action"))
    assert {str(each["href"])[0] for each in elements.of("a")} == {"#"}
    assert elements.of("link") == []
    assert "@import" not in large
    assert "url(" not in large
    (policy,) = [each["content"] for each in elements.of("meta") if each.get("http-equiv")]
    assert str(policy).startswith("default-src 'none'; script-src 'sha256-")


def test_every_link_to_a_cell_leads_to_one_without_a_script_too(elements: Elements) -> None:
    links = {str(each["href"])[1:] for each in elements.of("a") if str(each["href"]).startswith("#cell=")}
    assert len(links) == 600
    assert links <= {str(each["id"]) for each in elements.of("article")}


def hostile() -> list[Source]:
    spec = spec_of(HOSTILE, target="onnx")
    failed = result_of(spec, outcome="export_failed", reason=HOSTILE)
    other = result_of(spec_of(f"other{HOSTILE}"), operators={HOSTILE: 1}, toolchain={HOSTILE: HOSTILE})
    finding = Finding(kind="size", level="error", cell=other.cell.id, message=HOSTILE, before=HOSTILE, fix=HOSTILE)
    measured = measurement_of(record_of_cell(other), reasons=[HOSTILE], command=HOSTILE)
    entries = [entry_of(failed, HOSTILE, host=HOSTILE, failures={HOSTILE: HOSTILE}), entry_of(other, HOSTILE)]
    return [
        Source(HOSTILE, "store", entries=entries, notes=[HOSTILE]),
        Source("c", "check", checks=[check_of([other], [finding], commit=HOSTILE)]),
        Source("m", "measurements", measurements=[measured]),
    ]


def test_what_others_wrote_is_text_and_never_markup() -> None:
    page = rendered(*hostile(), command=HOSTILE)
    elements = Elements(page)
    assert len(elements.of("script")) == 3
    assert elements.of("img") == []
    assert not any(name.startswith("on") for _, attributes in elements.found for name in attributes)
    assert any(HOSTILE in cell["text"] or HOSTILE.lower() in cell["text"] for cell in view(page)["cells"])


def test_json_in_a_script_can_not_end_it() -> None:
    text = script_json({"a": "</script><!--", "b": float("nan"), "c": ["\u2028", 1e400]})
    assert not re.search(r"[<>&\u2028]", text)
    assert json.loads(text) == {"a": "</script><!--", "b": None, "c": ["\u2028", None]}


def test_a_measurement_that_is_not_valid_says_so_wherever_its_figure_is() -> None:
    result = result_of(spec_of(), accuracy={"right": 9, "total": 10})
    measured = measurement_of(record_of_cell(result), 12.34, reasons=["throttled: the thermal status was severe"])
    page = rendered(Source("s", "store", entries=[entry_of(result, measurements=[measured])]))
    figures = re.findall(r'<span class="(figure[^"]*)">12[.]3</span> <span class="flag">(\w+)', page)
    assert len(figures) == len(re.findall('class="figure', page.split("<body>")[1])) == 3
    assert set(figures) == {("figure doubtful", "invalid")}
    text = Elements(page).text
    assert text.count("throttled: the thermal status was severe") == 2
    assert "No cell has both an accuracy and a valid latency here" in text
    assert view(page)["pareto"] == [{}]


def test_a_cell_has_its_proof_conditions_and_the_commands_that_repeat_it(tiny_onnx: Artifact) -> None:
    text = Elements(rendered(Source("here", "artifacts", manifests=[(tiny_onnx.folder, tiny_onnx.manifest)]))).text
    assert "Passed, by onnxruntime" in text
    assert "at most 20 times float32's own error" in text
    shape = "x".join(map(str, tiny_onnx.manifest.model.input_shapes[0]))
    assert f"deploykit export {TINY} --target onnx --input-size {shape}" in text
    assert f"deploykit verify {tiny_onnx.folder}" in text
    assert tiny_onnx.manifest.files[0].sha256 in text
    result = result_of(spec_of())
    measured = measurement_of(record_of_cell(result), command="deploykit bench it --iterations 50")
    text = Elements(rendered(Source("s", "store", entries=[entry_of(result, measurements=[measured])]))).text
    assert "hottest sensor 36 °C before, 36 °C after" in text
    assert "deploykit bench it --iterations 50" in text


def test_what_is_absent_is_said_to_be_absent() -> None:
    text = Elements(rendered(Source("s", "store", entries=[entry_of(result_of(spec_of()))]))).text
    assert "Nothing here was measured on a device" in text
    only = measurement_of(record_of_cell(result_of(spec_of())))
    text = Elements(rendered(Source("m", "measurements", measurements=[only]))).text
    assert "No run is among the sources" in text
    assert "only measured" in text
    assert "energy not known: no meter is attached to it" in text
    assert "accuracy of 1 cell: no labelled inputs were asked" in text


def test_the_wheel_has_the_files_of_the_page() -> None:
    root = Path(__file__).parents[2]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    files = [path.name for path in HERE.iterdir() if path.is_file() and path.suffix != ".py"]
    assert len(files) == 4
    assert all(any(fnmatch(name, pattern) for pattern in patterns["deploy_kit.report"]) for name in files)
