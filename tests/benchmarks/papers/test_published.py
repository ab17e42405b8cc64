"""The published figures: whole, sourced, and not at odds with what the models' own files say is published."""

from __future__ import annotations

import pytest

from deploy_kit.benchmarks.papers.published import PublishedPoint, Source, published
from deploy_kit.models import get_architecture, list_models

POINTS = [(source, point) for source in published() for point in source.points]


def test_every_source_can_be_found_and_says_what_was_read() -> None:
    assert len({source.key for source in published()}) == len(published())
    for source in published():
        assert source.url.startswith("https://")
        assert all((source.title, source.table, source.read, source.device, source.runtime))
        names = [point.name for point in source.points]
        assert len(set(names)) == len(names) > 0


@pytest.mark.parametrize(("source", "point"), POINTS, ids=[f"{source.key}-{point.name}" for source, point in POINTS])
def test_a_point_of_a_model_here_is_about_that_model(source: Source, point: PublishedPoint) -> None:
    """Top-1 is the source's: of another training, without distillation for example, it is up to two percent off."""
    if point.model is None:
        assert point.name.startswith("EfficientNet")
        return
    assert point.model in list_models()
    top1 = get_architecture(point.model).published.top1
    assert top1 is not None
    assert abs(point.top1 - top1) <= (2.01 if "without distillation" in source.table else 0.3)


def test_what_the_models_files_say_is_published_is_here() -> None:
    for name in list_models():
        published_here = get_architecture(name).published
        if published_here.latency is not None and published_here.top1 is not None:
            found = [point.latency_ms for _, point in POINTS if point.model == name]
            assert published_here.latency.ms in found, name


def test_the_figure_s_models_have_points_to_be_compared_with() -> None:
    models = {point.model for _, point in POINTS}
    assert {"edgevit_xxs", "edgevit_xs", "edgevit_s", "mobilevit_s", "mobilenet_v2", "mobilenet_v3_large"} <= models
