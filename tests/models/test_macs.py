"""Multiply-accumulates: the counts that come with the package, what the authors publish, and the page of the docs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy_kit.benchmarks import markdown
from deploy_kit.benchmarks.suites import model_table
from deploy_kit.errors import UserError
from deploy_kit.models import get_architecture, list_models
from deploy_kit.models.efficientvit import ENLARGED, SEGMENTATIONS
from deploy_kit.models.registry import ROUNDED, counted_macs

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"

OTHERS_COUNT = {
    "efficientvit_b0": 0.10e9,
    "efficientvit_b3": 3.95e9,
    "efficientvit_l3": 27.6e9,
    "mobilenet_v3_large": 217e6,
    "mobilevit_xxs": 407e6,
    "mobilevit_xs": 1_026e6,
    "mobilevit_s": 2_001e6,
}
"""What is counted on the authors' or torchvision's code, where the paper has no figure or one over 1% off."""

TO_THE_DIGIT = [name for name in list_models() if name.startswith(("vit_", "deit_", "efficientformerv2_"))]
"""Papers that round as one would, whatever share of the figure that is."""


def published(name: str) -> float | None:
    return get_architecture(name).published.macs


def note(name: str) -> str | None:
    return get_architecture(name).published.macs_note


def of_enlargement(name: str) -> int:
    """The products with bicubic matrices, which the authors do not count: columns, then rows, of 1/32 and 1/16."""
    height, width = (side // 8 for side in get_architecture(name).input_size)
    pixels = [height // f * width * (width // f) + width * height * (height // f) for f in (2, 4)]
    return SEGMENTATIONS[name].width * sum(pixels)


def test_every_model_is_counted() -> None:
    assert list(counted_macs()) == list_models()


@pytest.mark.parametrize("name", list_models())
def test_counts_are_the_published_ones_or_a_note_says_why_not(name: str) -> None:
    figure = published(name)
    differs = figure is not None and counted_macs()[name] != pytest.approx(figure, rel=0.01)
    assert differs == (note(name) is not None)


def rounded_like(name: str, figure: float) -> float:
    """The count in the unit and with the digits after the point of a published figure."""
    digits = len(f"{figure / 1e9:g}".partition(".")[2])
    return round(counted_macs()[name] / 1e9, digits)


@pytest.mark.parametrize("name", sorted({*TO_THE_DIGIT, *(name for name in list_models() if note(name) == ROUNDED)}))
def test_rounded_counts_are_the_figure_of_a_paper_that_rounds(name: str) -> None:
    figure = published(name)
    assert figure is not None
    assert rounded_like(name, figure) == figure / 1e9


@pytest.mark.parametrize("name", SEGMENTATIONS)
def test_without_the_enlargements_a_segmenter_has_the_published_count(name: str) -> None:
    assert counted_macs()[name] - of_enlargement(name) == pytest.approx(published(name), rel=0.01)


def test_only_segmenters_are_said_to_enlarge() -> None:
    assert {name for name in list_models() if note(name) == ENLARGED} <= set(SEGMENTATIONS)


@pytest.mark.parametrize("name", OTHERS_COUNT)
def test_counts_are_those_of_other_implementations(name: str) -> None:
    assert counted_macs()[name] == pytest.approx(OTHERS_COUNT[name], rel=0.01)


def test_models_that_are_counted_fast_still_have_their_count() -> None:
    names = ["edgevit_xxs", "flatformer", "levit_128s", "mobilenet_v3_small"]
    assert {name: model_table.count_macs(name) for name in names} == {name: counted_macs()[name] for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_every_model_still_has_its_count(name: str) -> None:
    assert model_table.count_macs(name) == counted_macs()[name]


def test_the_page_is_what_the_command_writes() -> None:
    assert model_table.page_text(PAGE) == PAGE.read_text(encoding="utf-8"), "run the command that the page names"


def test_counting_one_model_again_keeps_the_others_and_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, counts = dict(counted_macs()), tmp_path / "macs.json"
    counts.write_text(json.dumps({**before, "levit_128s": 1, "removed": 2}))
    monkeypatch.setattr("deploy_kit.models.registry.COUNTS", counts)
    monkeypatch.setattr(model_table, "COUNTS", counts)
    counted_macs.cache_clear()
    try:
        assert model_table.main(["--models", "levit_128s", "--docs", str(tmp_path)]) == 0
    finally:
        counted_macs.cache_clear()
    assert json.loads(counts.read_text()) == before
    assert (tmp_path / "models.md").read_text() == PAGE.read_text()


def test_a_page_without_a_place_for_the_table_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "models.md"
    page.write_text("my own page")
    with pytest.raises(UserError, match="has no line <!-- models: begin -->"):
        markdown.filled(page, "models", "new", "table")
    with pytest.raises(UserError, match="there is no folder"):
        model_table.main(["--docs", str(tmp_path / "nowhere")])
