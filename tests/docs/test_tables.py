"""Tables that pages have by hand say what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from deploy_kit.benchmarks import comparison, validity
from deploy_kit.benchmarks.protocol import Protocol
from deploy_kit.cells.recipe import Accuracy, Latency, ModelOptions, Recipe, Tolerances
from deploy_kit.check.findings import Kind
from deploy_kit.outcome import Outcome
from deploy_kit.parity.compare import LIMITS
from tests.docs.support import DOCS


def _rows(page: str) -> list[list[str]]:
    """The rows of all tables of a page, a list of cells each."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def _named(rows: list[list[str]]) -> set[str]:
    """What is in code in the first cells of rows."""
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row[0])}


def test_the_proof_page_has_the_limits() -> None:
    found = {row[0].split("`")[1]: row[1:] for row in _rows("proof.md") if row[0].startswith("`") and len(row) == 4}
    assert set(found) == set(LIMITS)
    for precision, limits in LIMITS.items():
        ratio = "" if limits.noise_ratio is None else f"{limits.noise_ratio:g}"
        share = "in all cases" if limits.top1 == 1 else f"in {limits.top1:.0%}"
        assert found[precision] == [ratio, f"{limits.snr_db:g} dB", share]


def test_the_proof_page_has_every_outcome() -> None:
    assert set(map(str, Outcome)) <= _named([row for row in _rows("proof.md") if len(row) == 3])


def test_the_measuring_page_has_every_reason() -> None:
    code = Path(str(validity.__file__)).read_text(encoding="utf-8")
    reasons = set(re.findall(r'f?"([a-z ]+): ', code))
    listed = _named([row for row in _rows("measuring.md") if len(row) == 3])
    assert reasons <= listed
    assert all(f'"{reason}: ' in code for reason in listed)


def test_the_measuring_page_has_the_numbers() -> None:
    text = " ".join((DOCS / "measuring.md").read_text(encoding="utf-8").split())
    usual = Protocol()
    assert f"{usual.warmup} inferences of warm-up, {usual.iterations} that count, one thread" in text
    assert f"more than {validity.WARMER_C:.0f} degrees" in text
    assert f"more than {validity.CLOCKS_MOVED:.0%} among" in text
    assert f"over {validity.NOISY:.0%} of the mean" in text
    assert f"runs {comparison.PAIRS}, and more on a noisy device, up to {comparison.MOST_PAIRS}" in text
    assert f"at {comparison.CONFIDENCE:.1%} confidence" in text
    assert f"is {comparison.PRECISION:.0%} to either side" in text
    assert f"Fewer than {comparison.FEWEST_ROUNDS} pairs" in text
    assert f"{comparison.UNDISTURBED:.0%} quantile" in text


def test_the_check_page_has_every_kind_and_key() -> None:
    rows = _rows("check.md")
    assert set(map(str, Kind)) <= _named(rows)
    text = (DOCS / "check.md").read_text(encoding="utf-8")
    for name in {*Recipe.model_fields, *Tolerances.model_fields, *Accuracy.model_fields} - {
        "options",
        "model",
        "bench",
    }:
        assert re.search(rf"`\[?{name}\]?`", text), name
    assert all(f"`{name}`" in text for name in {*Latency.model_fields, *ModelOptions.model_fields})
