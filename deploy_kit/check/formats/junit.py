"""A check as JUnit's XML, which CI systems show as tests: a test a cell.

It keeps to what both Jenkins's schema and the stricter one of Ant's task allow: one failure a test, no output in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.etree import ElementTree as ET

from deploy_kit.check.findings import Checked, CheckReport, Finding, Level
from deploy_kit.check.formats.common import by_level, headline, one_line
from deploy_kit.outcome import Outcome

NO_CELL = "recipe"
"""The class of the tests that stand for errors of no cell that was tried."""


def write(report: CheckReport) -> str:
    """The document."""
    suites = ET.Element("testsuites")
    suite = ET.SubElement(suites, "testsuite")
    ET.SubElement(suite, "properties")
    for checked in report.cells:
        _add_cell(suite, checked)
    for finding in report.findings:
        if finding.level == Level.ERROR:
            test = _add_test(suite, NO_CELL, finding.cell, 0.0)
            _add_failure(test, [finding])
    counts = {name: len(suite.findall(f"testcase/{name}")) for name in ("failure", "skipped")}
    attributes = {
        "name": "deploykit check",
        "package": "deploykit",
        "id": "0",
        "hostname": "localhost",
        "timestamp": report.created[:19],
        "tests": str(len(suite.findall("testcase"))),
        "failures": str(counts["failure"]),
        "errors": "0",
        "skipped": str(counts["skipped"]),
        "time": f"{report.seconds:.3f}",
    }
    suite.attrib.update(attributes)
    told = [finding for finding in report.all_findings if finding.level != Level.ERROR]
    ET.SubElement(suite, "system-out").text = _allowed("\n".join([headline(report), *_lines(told)]))
    ET.SubElement(suite, "system-err").text = ""
    ET.indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(suites, encoding="unicode")}\n'


def _add_cell(suite: ET.Element, checked: Checked) -> None:
    result = checked.result
    test = _add_test(suite, f"{result.cell.target}.{result.cell.precision}", result.cell.id, result.seconds)
    errors = [finding for finding in checked.findings if finding.level == Level.ERROR]
    if errors:
        _add_failure(test, errors)
    elif result.outcome == Outcome.UNAVAILABLE:
        ET.SubElement(test, "skipped", message=_allowed(result.reason or "its target is not installed here"))


def _add_test(suite: ET.Element, of: str, name: str, seconds: float) -> ET.Element:
    return ET.SubElement(suite, "testcase", classname=_allowed(of), name=_allowed(name), time=f"{seconds:.3f}")


def _add_failure(test: ET.Element, errors: list[Finding]) -> None:
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    message = _allowed(one_line(f"{errors[0].message}{more}"))
    ET.SubElement(test, "failure", type=str(errors[0].kind), message=message).text = _allowed("\n".join(_lines(errors)))


def _lines(findings: Iterable[Finding]) -> list[str]:
    return [
        one_line(f"{finding.level}: {finding.cell}: {finding.kind}: {finding.message}")
        + (f"\n  fix: {one_line(finding.fix)}" if finding.fix else "")
        for finding in by_level(findings)
    ]


def _allowed(text: str) -> str:
    """A text without the characters that XML cannot have."""
    return re.sub("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)
