from __future__ import annotations

import json

import pytest

from deploy_kit.benchmarks.suites import edgevit_torchscript_lite as suite
from deploy_kit.errors import UserError
from deploy_kit.exporters.mobile import interpreter
from deploy_kit.exporters.mobile.interpreter import find_interpreter


@pytest.mark.slow
def test_it_times_the_three_files_of_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    if not find_interpreter().xnnpack:
        pytest.skip("no Python here has a torch with XNNPACK")
    assert suite.main(["--models", "edgevit_xxs", "--processes", "1", "--iterations", "3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["conditions"]["threads"] == 1
    assert "XNNPACK" in result["conditions"]["runtime"]
    timings = {timing["contestant"]: timing for timing in result["timings"]}
    assert list(timings) == ["plain", "optimize_for_mobile", "deploykit"]
    for timing in timings.values():
        assert 0 < timing["p10_ms"] <= timing["median_ms"] <= timing["p90_ms"]
        assert timing["samples"] == 3
    for speedup in result["speedups"]:
        expected = timings[speedup["over"]]["median_ms"] / timings["deploykit"]["median_ms"]
        assert speedup["ratio"] == pytest.approx(expected)


def test_figures_are_medians_over_processes_and_their_range() -> None:
    rounds = [
        {"plain": [0.020, 0.022, 0.024], "deploykit": [0.010, 0.011, 0.012]},
        {"plain": [0.030, 0.033, 0.036], "deploykit": [0.010, 0.011, 0.012]},
        {"plain": [0.040, 0.044, 0.048], "deploykit": [0.010, 0.011, 0.012]},
    ]
    timing = suite._timing("m", "deploykit", rounds)
    assert (timing.median_ms, timing.samples) == (pytest.approx(11), 9)
    speedup = suite._speedup("m", "plain", rounds)
    assert (speedup.ratio, speedup.lowest, speedup.highest) == (
        pytest.approx(3),
        pytest.approx(2),
        pytest.approx(4),
    )


def test_without_a_mobile_interpreter_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(interpreter.VARIABLE, raising=False)
    monkeypatch.setattr(interpreter, "_system_pythons", lambda: iter(()))
    with pytest.raises(UserError, match="needs a mobile interpreter") as caught:
        suite.main([])
    assert "apt-get install" in caught.value.fix
