from __future__ import annotations

import pytest

from deploy_kit.advise import advise, installed
from deploy_kit.advise.variant import Effect
from deploy_kit.benchmarks.timers import get_timer
from deploy_kit.cli.advise import row
from deploy_kit.errors import UserError
from deploy_kit.sources import LoadedModel
from tests.benchmarks.support import Bench, install
from tests.support import load_tiny


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    return load_tiny()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return install(monkeypatch)


def test_each_variant_is_measured_beside_the_model_as_it_is(tiny: LoadedModel, device: Bench) -> None:
    device.costs = {"gelu.default": 50.0, "layer_norm.default": 30.0}
    report = advise(tiny, ["memory"], device="bench")
    found = {advice.variant: advice for advice in report.advice}
    relu, norm = found["every activation as ReLU"], found["every LayerNorm as BatchNorm"]
    assert (relu.places, relu.effect, relu.clear) == (1, Effect.RETRAIN, True)
    assert relu.saved_ms == pytest.approx(1000 * 49)
    assert norm.saved_ms == pytest.approx(1000 * 28)
    assert relu.faster is not None
    assert relu.faster.median == pytest.approx(
        report.as_it_is["memory"].median_ms / (report.as_it_is["memory"].median_ms - 49000)
    )
    same = found["GELU in its form with tanh"]
    assert (same.saved_ms, same.clear, same.effect) == (0, False, Effect.APPROXIMATE)
    assert row(same)[3] == "no clear difference"
    assert "every activation as GELU" in found  # of its ReLU
    assert "every GroupNorm as BatchNorm" not in found
    assert device.races == 1  # all in turn


def test_a_variant_that_cannot_be_exported_says_why_and_the_others_are_measured(
    tiny: LoadedModel, device: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.benchmarks.support import Memory

    run = Memory.run

    def wrong(self: Memory, file: object, inputs: object, options: object, details: object) -> object:
        ran = run(self, file, inputs, options, details)  # type: ignore[arg-type]  # passed through
        text = file.read_text()  # type: ignore[attr-defined]  # a path
        if "silu" in text:
            ran.outputs[0][0] *= 2  # type: ignore[index]  # has outputs
        return ran

    monkeypatch.setattr(Memory, "run", wrong)
    report = advise(tiny, ["memory"], device="bench")
    found = {advice.variant: advice for advice in report.advice}
    silu = found["every activation as SiLU"]
    assert (silu.timing, silu.faster, silu.saved_ms) == (None, None, None)
    assert "does not compute" in (silu.problem or "")
    assert row(silu)[4] == "not measured"
    assert found["every activation as ReLU"].timing is not None


def test_unknown_names_are_refused_before_anything_is_built(device: Bench) -> None:
    with pytest.raises(UserError, match="no target called 'onx'"):
        advise("edgevit_digits", ["onx"])
    with pytest.raises(UserError, match="no kind of device called 'phone'"):
        advise("edgevit_digits", device="phone")


def test_without_a_target_all_that_are_installed_and_timed_are_measured() -> None:
    names = installed(get_timer("local"))
    assert "onnx" in names
    assert not {"coreml", "tensorrt"} & set(names)
