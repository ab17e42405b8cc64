from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from deploy_kit.benchmarks.comparison import Ratio
from deploy_kit.check import formats
from deploy_kit.check.baseline import updated, write_baseline
from deploy_kit.check.findings import CheckReport, Finding, Kind, Level
from deploy_kit.check.formats import github, markdown, table
from deploy_kit.errors import UserError
from deploy_kit.outcome import Outcome
from tests.check.fakes import cell, checked, failing, report, working

ONNX = "net/onnx/fp32"

HOSTILE = (
    "boom\x1b[31m \x00\r\n::error file=x::owned\n##[add-path]/evil ]]><b>&amp; <script>alert(1)</script> `x` | *y* "
    "@everyone #12 [a](http://evil) www.evil.org {0} 100%, \u202egnp ${{ secrets.X }}"
)


def finding(kind: Kind, level: Level, name: str = "net/executorch/fp32", message: str = "it differs") -> Finding:
    return Finding(kind=kind, level=level, cell=name, message=message, before=1.0, after="two", fix="mend it")


@pytest.fixture
def mixed() -> CheckReport:
    return report(
        checked(working(), finding(Kind.SIZE, Level.NOTE), ratio=Ratio(estimate=1.0123, low=1.0, high=1.02)),
        checked(working(cell("net", "onnx")), *(finding(kind, Level.ERROR, ONNX) for kind in (Kind.SIZE, Kind.ERROR))),
        checked(failing(Outcome.UNAVAILABLE, "coremltools is not installed", cell("net", "coreml"))),
        checked(failing(spec=cell("bad", "onnx"))),
        findings=(finding(Kind.GONE_CELL, Level.WARNING, "old/onnx/fp32"),),
    )


@pytest.fixture
def hostile() -> CheckReport:
    error = Finding(kind=Kind.WORKS_TO_FAILS, level=Level.ERROR, cell=HOSTILE, message=HOSTILE, fix=HOSTILE)
    return report(checked(failing(reason=HOSTILE, spec=cell(HOSTILE)), error), findings=(error,))


def test_an_unknown_format_is_named(mixed: CheckReport) -> None:
    with pytest.raises(UserError, match="no format called 'yaml'"):
        formats.write(mixed, "yaml")


def test_json_is_the_report(mixed: CheckReport, hostile: CheckReport) -> None:
    for each in (mixed, hostile):
        assert CheckReport.model_validate_json(formats.write(each, "json")) == each
    assert json.loads(formats.write(mixed, "json"))["schema_version"] == 1


def test_the_table_has_every_cell_and_says_what_to_do(mixed: CheckReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = formats.write(mixed, "table")
    assert "1,000,000" in text
    assert "1.012" in text
    assert "error: net/onnx/fp32: size: it differs\n  fix: mend it\n" in text
    assert (
        text.index("error: net/onnx/fp32: size") < text.index("warning: old/onnx/fp32") < text.index("note: net/exec")
    )
    assert text.endswith("failed: 2 errors, 1 warning, 1 note in 4 cells, without a baseline, 12.5 s\n")
    assert formats.write(report(checked(working()), baseline="b.json"), "table").endswith(
        "passed: no differences in 1 cell, against b.json, 12.5 s\n"
    )


def test_the_table_moves_no_cursor_and_commands_no_ci(hostile: CheckReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    text = formats.write(hostile, "table")
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", text)
    assert not any(line.lstrip().startswith("::") for line in text.splitlines())
    assert "##[" not in text


def test_show_prints_the_table(mixed: CheckReport, capsys: pytest.CaptureFixture[str]) -> None:
    table.show(mixed)
    assert capsys.readouterr().out == formats.write(mixed, "table")


def test_the_package_of_checks_imports_no_command() -> None:
    program = (
        "import sys, deploy_kit.check.formats, deploy_kit.check.engine\n"
        "print(*(name for name in sys.modules if name.startswith('deploy_kit.cli')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def junit(of: CheckReport) -> ET.Element:
    """JUnit's XML, checked by the rules of Ant's and Jenkins's schemas."""
    root = ET.fromstring(formats.write(of, "junit"))
    assert (root.tag, root.attrib) == ("testsuites", {})
    (suite,) = root
    assert [child.tag for child in suite if child.tag != "testcase"] == ["properties", "system-out", "system-err"]
    assert next(child.tag for child in suite) == "properties"
    assert [child.tag for child in suite][-2:] == ["system-out", "system-err"]
    assert set(suite.attrib) == {
        *("name", "package", "id", "hostname", "timestamp", "tests", "failures", "errors", "skipped", "time")
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.attrib["timestamp"])
    for test in suite.iter("testcase"):
        assert set(test.attrib) == {"name", "classname", "time"}
        assert float(test.attrib["time"]) >= 0
        assert len(test) <= 1
        assert all(child.tag in ("failure", "skipped") for child in test)
    for failure in suite.iter("failure"):
        assert set(failure.attrib) == {"type", "message"}
    assert int(suite.attrib["tests"]) == len(suite.findall("testcase"))
    assert int(suite.attrib["failures"]) == len(list(suite.iter("failure")))
    assert int(suite.attrib["skipped"]) == len(list(suite.iter("skipped")))
    return suite


def test_junit_has_a_test_a_cell(mixed: CheckReport) -> None:
    suite = junit(mixed)
    tests = {test.attrib["name"]: test for test in suite.iter("testcase")}
    assert set(tests) == {"net/executorch/fp32", "net/onnx/fp32", "net/coreml/fp32", "bad/onnx/fp32"}
    failure = tests["net/onnx/fp32"].find("failure")
    assert failure is not None
    assert failure.attrib == {"type": "size", "message": "it differs (and 1 more)"}
    assert failure.text is not None
    assert failure.text.count("fix: mend it") == 2
    skipped = tests["net/coreml/fp32"].find("skipped")
    assert skipped is not None
    assert skipped.attrib["message"] == "coremltools is not installed"
    assert len(tests["net/executorch/fp32"]) == 0
    assert len(tests["bad/onnx/fp32"]) == 0  # an expected failure is no failure
    assert tests["bad/onnx/fp32"].attrib["time"] == "1.500"
    told = suite.findtext("system-out") or ""
    assert "warning: old/onnx/fp32: gone_cell" in told


def test_junit_takes_any_words(hostile: CheckReport) -> None:
    suite = junit(hostile)
    assert len(suite.findall("testcase")) == 2  # an error of no cell that was tried is one too
    failure = next(suite.iter("failure"))
    assert "<script>alert(1)</script>" in failure.attrib["message"]
    assert len(failure) == 0


def test_markdown_has_what_failed_first(mixed: CheckReport) -> None:
    text = formats.write(mixed, "markdown")
    assert text.startswith("## deploykit check failed\n\n2 errors, 1 warning, 1 note in 4 cells")
    assert text.index("### Errors") < text.index("### Warnings") < text.index("<summary>1 note</summary>")
    assert "| net/onnx/fp32 | size | it differs | mend it |" in text
    assert "<summary>all 4 cells</summary>" in text


def test_markdown_shows_hostile_words_as_they_are(hostile: CheckReport) -> None:
    text = formats.write(hostile, "markdown")
    rows = [line for line in text.splitlines() if line.startswith("| boom")]
    assert len(rows) == 3
    for row in rows[:2]:
        assert len(re.findall(r"(?<!\\)\|", row)) == 5
    assert "<script" not in text
    assert "<b>" not in text
    assert not re.search(r"(?<!\\)[`*]|@\w|(?<!&)#\d|(?<!\\)\]\(|(?<!\\)://|www\.", text)
    assert "&lt;script&gt;" in text
    assert markdown.escaped("a_b: 1.5 x, `q`") == r"a\_b\: 1.5 x, \`q\`"


def test_markdown_fits_into_a_comment() -> None:
    cells = [
        checked(working(cell(f"net{index}")), finding(Kind.SIZE, Level.ERROR, f"net{index}/executorch/fp32", "x" * 300))
        for index in range(600)
    ]
    text = formats.write(report(*cells), "markdown")
    assert len(text) < 65_536
    assert re.search(r"\n\d+ findings more: see the log", text)
    assert "600 errors in 600 cells" in text
    many = [checked(working(cell(f"net{index}"))) for index in range(1500)]
    assert len(formats.write(report(*many), "markdown")) < 65_536


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckReport:
    """A failing check whose baseline is in a folder of the repository."""
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    folder = tmp_path / "ci, all"
    folder.mkdir()
    cells = [checked(working(cell(name))) for name in ("a", "b")]
    write_baseline(updated(None, cells, whole=True), folder / "b.json")
    monkeypatch.chdir(folder)
    error = finding(Kind.SIZE, Level.ERROR, "b/executorch/fp32")
    return report(checked(working(cell("b")), error), baseline="b.json")


def line_of(of: str, file: Path) -> int:
    return 1 + next(index for index, line in enumerate(file.read_text().splitlines()) if f'"{of}"' in line)


def sarif(of: CheckReport) -> dict[str, Any]:
    """The run of a SARIF document, checked by the rules of the specification."""
    document = json.loads(formats.write(of, "sarif"))
    assert document["version"] == "2.1.0"
    assert document["$schema"].endswith("sarif-schema-2.1.0.json")
    (run,) = document["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "deploykit"
    rules = [rule["id"] for rule in driver["rules"]]
    assert len(set(rules)) == len(rules)
    for rule in driver["rules"]:
        assert rule["shortDescription"]["text"].endswith(".")
        assert rule["defaultConfiguration"]["level"] in ("none", "note", "warning", "error")
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
        assert result["level"] in ("none", "note", "warning", "error")
        text = result["message"]["text"]
        assert text
        assert "\n" not in text
        assert not re.search(r"\{|\}", text.replace("{{", "").replace("}}", ""))
        assert "](" not in text
        (location,) = result["locations"]
        place = location["physicalLocation"]
        assert re.fullmatch(r"[A-Za-z0-9._~%/-]+", place["artifactLocation"]["uri"])
        assert place["region"]["startLine"] >= 1
        (logical,) = location["logicalLocations"]
        assert logical["fullyQualifiedName"]
        assert all(isinstance(value, str) for value in result["partialFingerprints"].values())
    assert run["invocations"] == [{"executionSuccessful": True, "exitCode": 0 if of.passed else 1}]
    return run  # type: ignore[no-any-return]


def test_sarif_has_a_result_a_finding(mixed: CheckReport, hostile: CheckReport, known: CheckReport) -> None:
    run = sarif(mixed)
    assert [(each["ruleId"], each["level"]) for each in run["results"]] == [
        ("size", "note"),
        ("size", "error"),
        ("error", "error"),
        ("gone_cell", "warning"),
    ]
    assert {rule["id"] for rule in run["tool"]["driver"]["rules"]} == set(Kind)
    assert sarif(hostile)["results"][0]["level"] == "error"
    assert sarif(report())["results"] == []


def test_sarif_says_where_a_cell_is(known: CheckReport) -> None:
    (result,) = sarif(known)["results"]
    (location,) = result["locations"]
    place = location["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "ci%2C%20all/b.json"
    assert place["region"]["startLine"] == line_of("b/executorch/fp32", Path("b.json"))
    assert location["logicalLocations"][0]["fullyQualifiedName"] == "b/executorch/fp32"


def test_sarif_knows_a_finding_again(known: CheckReport) -> None:
    (first,) = sarif(known)["results"]
    worse = known.cells[0].findings[0].model_copy(update={"message": "it differs more"})
    cells = [known.cells[0].model_copy(update={"findings": [worse]})]
    (second,) = sarif(known.model_copy(update={"cells": cells}))["results"]
    assert first["partialFingerprints"] == second["partialFingerprints"]
    assert first["message"] != second["message"]


def test_sarif_tells_what_could_not_be_compared_apart() -> None:
    def prints(*messages: str) -> list[str]:
        several = [finding(Kind.NOT_COMPARED, Level.WARNING, message=message) for message in messages]
        results = sarif(report(checked(working(), *several)))["results"]
        return [each["partialFingerprints"]["deploykitCell/v1"] for each in results]

    accuracy, latency = "its accuracy is not known now", "its latency could not be compared"
    first = prints(f"{accuracy}: no file", f"{latency}: no phone", "was 10 of 20")
    again = prints(f"{accuracy}: no disk", f"{latency}: no time", "was 9 of 15")
    assert len(set(first)) == 3
    assert first == again


def test_annotations_name_the_file_and_its_line(known: CheckReport) -> None:
    line = line_of("b/executorch/fp32", Path("b.json"))
    assert github.annotations(known) == (
        f"::error file=ci%2C all/b.json,line={line},title=size%3A b/executorch/fp32::it differs What to do: mend it\n"
    )


def test_annotations_are_one_command_a_line(mixed: CheckReport, hostile: CheckReport) -> None:
    lines = github.annotations(mixed).splitlines()
    assert [line.split()[0] for line in lines] == ["::error", "::error", "::warning", "::notice"]
    for line in github.annotations(hostile).splitlines():
        match = re.fullmatch(r"::error file=([^,:]*),line=1,title=([^,:]*)::(.*)", line)
        assert match
        assert "100%25" in match[3]
        assert "\x1b" not in line
    assert github.data("50%\r\na:b,c") == "50%25%0D%0Aa:b,c"
    assert github.value("50%\na:b,c") == "50%25%0Aa%3Ab%2Cc"
    assert github.annotations(report(checked(working()))) == ""


def test_no_more_annotations_than_github_shows() -> None:
    cells = [checked(working(cell(f"n{index}")), finding(Kind.SIZE, Level.ERROR)) for index in range(25)]
    lines = github.annotations(report(*cells)).splitlines()
    assert len(lines) == 10
    assert "16 more of level error" in lines[-1]
