from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from deploy_kit.benchmarks.summary import drift, modes, percentile, summarise


def normal(count: int, mean: float = 10e6, std: float = 0.2e6, seed: int = 0) -> list[int]:
    generator = random.Random(seed)
    return [round(generator.gauss(mean, std)) for _ in range(count)]


def test_statistics_are_numpys() -> None:
    samples = normal(137)
    found = summarise([samples[:50], samples[50:]])
    ms = np.array(samples) / 1e6
    assert found.samples == 137
    assert found.mean_ms == pytest.approx(ms.mean())
    assert found.std_ms == pytest.approx(ms.std(ddof=1))
    assert found.cov == pytest.approx(ms.std(ddof=1) / ms.mean())
    assert (found.min_ms, found.max_ms) == (ms.min(), ms.max())
    for percent, value in ((50, found.p50_ms), (90, found.p90_ms), (95, found.p95_ms), (99, found.p99_ms)):
        assert value == pytest.approx(np.percentile(ms, percent))
    assert found.trimmed_mean_ms == pytest.approx(np.sort(ms)[13:124].mean())


def test_what_few_samples_do_not_tell_is_none() -> None:
    assert summarise([normal(99)]).p99_ms is None
    assert summarise([normal(100)]).p99_ms is not None
    one = summarise([[5_000_000]])
    assert (one.p50_ms, one.std_ms, one.cov, one.modes_ms, one.drift) == (5.0, None, None, None, None)


@pytest.mark.parametrize("percent", [0, 1, 50, 99, 100])
def test_percentiles_of_one_value(percent: int) -> None:
    assert percentile([3.0], percent) == 3.0


def test_two_modes_are_found() -> None:
    values = [10 + index % 3 / 10 for index in range(40)] + [14 + index % 3 / 10 for index in range(10)]
    found = modes(sorted(values))
    assert found == (pytest.approx(10.1), pytest.approx(14.1))


@pytest.mark.parametrize(
    "draw",
    [
        lambda generator: generator.gauss(10, 0.5),
        lambda generator: generator.uniform(9, 11),
        lambda generator: 10 + generator.expovariate(2),
        lambda generator: 10.0,
    ],
    ids=["normal", "uniform", "skewed", "constant"],
)
@pytest.mark.parametrize("outliers", [0, 1])
def test_one_mode_is_one(draw: Callable[[random.Random], float], outliers: int) -> None:
    for seed in range(100):
        generator = random.Random(seed)
        values = [draw(generator) for _ in range(50 - outliers)] + [30.0] * outliers
        assert modes(sorted(values)) is None, seed


def test_a_drift_is_found_and_how_large_it_is() -> None:
    values = [value * (1 + 0.1 * index / 49) for index, value in enumerate(normal(50, std=0.05e6))]
    assert drift(values) == pytest.approx(0.1, abs=0.02)
    assert drift(values[::-1]) == pytest.approx(-0.1, abs=0.02)
    assert summarise([normal(50), [round(value) for value in values]]).drift == pytest.approx(0.1, abs=0.02)


def test_noise_is_no_drift() -> None:
    found = [drift(normal(50, std=1e6, seed=seed)) for seed in range(300)]
    assert sum(value is not None for value in found) <= 3


def test_one_disturbance_is_no_drift() -> None:
    values = normal(50, std=0.01e6)
    values[-5:] = [3 * value for value in values[-5:]]
    assert drift(values) is None
