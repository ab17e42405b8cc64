"""A check as SARIF 2.1.0, which GitHub's code scanning and editors show."""

from __future__ import annotations

import hashlib
import json
import math
import re
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

from deploy_kit.check.findings import CheckReport, Finding, Kind, Level
from deploy_kit.check.formats.common import EXPLAINED, Places, one_line, places

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

DEFAULTS = dict.fromkeys(Kind, Level.ERROR) | {
    Kind.FAILS_OTHERWISE: Level.WARNING,
    Kind.NEW_CELL: Level.WARNING,
    Kind.GONE_CELL: Level.WARNING,
    Kind.NOT_COMPARED: Level.WARNING,
}
"""The level that findings of a kind have, where they have no better one."""


def write(report: CheckReport) -> str:
    """The document: a rule a kind of finding, and a result a finding, at the line of its cell in the baseline."""
    where = places(report)
    driver = {
        "name": "deploykit",
        "version": version("deploy-kit"),
        "rules": [_rule(kind) for kind in Kind],
    }
    run = {
        "tool": {"driver": driver},
        "automationDetails": {"id": "deploykit/check/"},
        "invocations": [{"executionSuccessful": True, "exitCode": 0 if report.passed else 1}],
        "columnKind": "unicodeCodePoints",
        "results": [_result(finding, where) for finding in report.all_findings],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, allow_nan=False) + "\n"


def _rule(kind: Kind) -> dict[str, Any]:
    name = "".join(word.capitalize() for word in kind.split("_"))
    return {
        "id": str(kind),
        "name": name,
        "shortDescription": {"text": EXPLAINED[kind]},
        "fullDescription": {"text": EXPLAINED[kind]},
        "help": {"text": "Mend it, or accept it where it is meant: deploykit check --update-baseline"},
        "defaultConfiguration": {"level": str(DEFAULTS[kind])},
    }


def _result(finding: Finding, where: Places) -> dict[str, Any]:
    fix = f" What to do: {finding.fix}." if finding.fix else ""
    same = hashlib.sha256(f"{finding.kind} {finding.cell}{_subject(finding)}".encode()).hexdigest()
    figures = {"before": finding.before, "after": finding.after}
    return {
        "ruleId": str(finding.kind),
        "ruleIndex": list(Kind).index(finding.kind),
        "level": str(finding.level),
        "message": {"text": escaped(f"{finding.cell}: {finding.message}.{fix}")},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": quote(where.file)},
                    "region": {"startLine": where.line(finding.cell)},
                },
                "logicalLocations": [{"fullyQualifiedName": one_line(finding.cell), "kind": "module"}],
            }
        ],
        "partialFingerprints": {"deploykitCell/v1": same},
        "properties": {name: _plain(value) for name, value in figures.items() if value is not None},
    }


def _subject(finding: Finding) -> str:
    """What a finding is of, beside its kind and cell: of what could not be compared, how it begins, without figures."""
    if finding.kind != Kind.NOT_COMPARED:
        return ""
    return " " + re.sub(r"\d[\d.,]*", "#", re.split("[:(]", finding.message, maxsplit=1)[0]).strip()


def _plain(value: float | str) -> float | str:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def escaped(text: str) -> str:
    """Words of a plain text message: single braces would be places for arguments, and ``[...](...)`` a link."""
    return one_line(text).replace("](", "] (").replace("{", "{{").replace("}", "}}")
