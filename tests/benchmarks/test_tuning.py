from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from deploy_kit import sources
from deploy_kit.api import verify
from deploy_kit.artifact import open_artifact
from deploy_kit.benchmarks import tuning
from deploy_kit.benchmarks.timing import Ratio
from deploy_kit.benchmarks.tuning import tune
from deploy_kit.errors import ExportError, UserError
from deploy_kit.fusion import PASSES, Pass, Policy
from deploy_kit.fusion.policy import Choice, Measured
from deploy_kit.graph import Graph, aten
from deploy_kit.outcome import Outcome
from deploy_kit.sources import LoadedModel, load_model
from tests.benchmarks.support import Bench, Memory, install
from tests.support import TINY, TINY_SIZE, load_tiny, random

LITTLE = 1e-9
"""Seconds that are over before anything is tried."""

POLICY = Policy(
    (
        Choice("affine_into_neighbours", "needed", needed=True),
        Choice("identity_into_depthwise", "gains"),
        Choice("decompose_rms_norm", "nothing to do", on=False),
        Choice("layer_norm_to_products", "costs", on=False),
    )
)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(Memory, "chosen", POLICY)
    return install(monkeypatch)


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    return load_tiny()


def run(model: LoadedModel, folder: Path, **options: Any) -> Any:
    return tune(model, "memory", device="bench", out=folder, **options)


def results(artifact: Any) -> dict[str, str]:
    return {trial.change: trial.result for trial in artifact.manifest.tuning.trials}


def test_what_is_faster_is_taken_and_what_is_slower_is_not(tiny: LoadedModel, device: Bench, tmp_path: Path) -> None:
    artifact = run(tiny, tmp_path)
    tuned = artifact.manifest.tuning
    assert results(artifact) == {
        "with decompose_rms_norm": "changes nothing here",
        "with layer_norm_to_products": "slower",
        "without identity_into_depthwise": "slower",
    }
    assert (tuned.taken, tuned.faster, tuned.complete) == ([], None, True)
    assert artifact.manifest.fusion.passes == POLICY.names
    device.costs = {"layer_norm.default": 90.0}
    artifact = run(tiny, tmp_path, force=True)
    tuned = artifact.manifest.tuning
    assert tuned.taken == ["with layer_norm_to_products"]
    assert tuned.faster.lowest > 1
    assert "layer_norm_to_products" in artifact.manifest.fusion.passes
    assert artifact.manifest.outcome == Outcome.OK
    assert open_artifact(artifact.folder).manifest == artifact.manifest


def test_a_pass_that_costs_time_on_the_device_is_left_out(tiny: LoadedModel, device: Bench, tmp_path: Path) -> None:
    device.costs = {"conv2d.default": 5.0, "add.Tensor": -2.0}
    artifact = run(tiny, tmp_path)
    assert artifact.manifest.tuning.taken == ["without identity_into_depthwise"]
    assert artifact.manifest.fusion.passes == ["affine_into_neighbours"]
    second = next(trial for trial in artifact.manifest.tuning.trials if trial.change == "with layer_norm_to_products")
    assert second.over in ([], ["without identity_into_depthwise"])


def test_a_tuned_artifact_is_proven_again_from_its_manifest(device: Bench, tmp_path: Path) -> None:

    artifact = run(load_model(TINY, input_size=TINY_SIZE), tmp_path)
    assert verify(artifact.folder).passed


def test_a_form_that_is_wrong_is_never_timed(
    tiny: LoadedModel, device: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def doubles(graph: Graph) -> list[tuple[fx.Node, str]]:
        (output,) = [node for node in graph.nodes if node.op == "output"]
        old = output.all_input_nodes[0]
        new = graph.call(aten.mul.Scalar, old, 2.0, before=output)
        output.replace_input_with(old, new)
        return [(new, "wrong")]

    monkeypatch.setitem(PASSES, "doubles", Pass("doubles", doubles))
    policy = Policy((Choice("affine_into_neighbours", "", needed=True), Choice("doubles", "", on=False)))
    monkeypatch.setattr(Memory, "chosen", policy)
    device.costs = {"mul.Scalar": -3.0}
    artifact = run(tiny, tmp_path)
    (trial,) = artifact.manifest.tuning.trials
    assert trial.result.startswith("mismatch")
    assert trial.faster is None
    assert artifact.manifest.tuning.taken == []
    assert device.races == 2  # of the file with itself


def test_with_too_little_budget_the_own_form_is_kept_and_nothing_is_tried(
    tiny: LoadedModel, device: Bench, tmp_path: Path
) -> None:
    artifact = run(tiny, tmp_path, budget=LITTLE)
    assert set(results(artifact).values()) == {"not tried"}
    assert not artifact.manifest.tuning.complete
    assert artifact.manifest.fusion.passes == POLICY.names
    assert artifact.manifest.tuning.faster is None


@pytest.mark.parametrize("budget", [0, -1.0, float("nan"), float("inf")])
def test_a_budget_that_is_no_time_is_refused_before_anything_is_done(
    device: Bench, tmp_path: Path, budget: float
) -> None:
    with pytest.raises(UserError, match="no time to search in") as error:
        tune("there is no such model", "memory", device="bench", out=tmp_path, budget=budget)
    assert "budget=120" in error.value.fix


def test_a_search_goes_on_where_it_stopped(tiny: LoadedModel, device: Bench, tmp_path: Path) -> None:
    run(tiny, tmp_path, budget=LITTLE)
    notes = tmp_path / tiny.name / "memory.tuning.json"
    assert notes.is_file()
    assert device.races == 2  # of the file with itself
    artifact = run(tiny, tmp_path, force=True)
    assert artifact.manifest.tuning.complete
    assert not notes.exists()  # everything was tried
    rest = device.races - 2
    device.races = 0
    run(tiny, tmp_path, force=True)
    assert device.races == 2 + rest


def test_what_disturbed_the_first_part_of_a_search_is_said_at_its_end(
    tiny: LoadedModel, device: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.disturbed = ["background load: 3 threads"]
    run(tiny, tmp_path, budget=LITTLE)
    install(monkeypatch)
    conditions = run(tiny, tmp_path, force=True).manifest.tuning.conditions
    assert conditions == ["background load: 3 threads (in 2 of 2 runs)"]


def test_what_was_tried_is_not_tried_again(
    tiny: LoadedModel, device: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning.Notes, "forget", lambda self: None)
    first = run(tiny, tmp_path)
    races = device.races
    again = run(tiny, tmp_path, force=True)
    assert again.manifest.tuning.trials == first.manifest.tuning.trials
    assert device.races == races


def test_notes_on_another_search_are_not_used(
    tiny: LoadedModel, device: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tiny, tmp_path, budget=LITTLE)
    notes = tmp_path / tiny.name / "memory.tuning.json"
    document = json.loads(notes.read_text())
    document["trials"].append({"change": "with layer_norm_to_products", "over": [], "result": "lies", "taken": False})
    notes.write_text(json.dumps(document))
    assert "lies" in results(run(tiny, tmp_path, force=True, budget=LITTLE)).values()
    device.about = "another device"
    assert "lies" not in results(run(tiny, tmp_path, force=True, budget=LITTLE)).values()


class Activated(nn.Module):
    """A model whose code can be edited: neither its weights nor its name tell."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.conv, self.activation, self.head = nn.Conv2d(3, 8, 3), activation, nn.Linear(8, 4)
        self.register_buffer("gain", torch.ones(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gain * self.activation(self.conv(x)).mean((2, 3)))


def test_notes_are_void_where_the_model_s_code_was_changed(device: Bench, tmp_path: Path) -> None:
    model = random(Activated(nn.GELU()))

    def noted() -> int:
        run(load_model(model, input_size="1x3x16x16"), tmp_path, force=True, budget=LITTLE)
        return device.races

    assert (noted(), noted()) == (2, 2)  # the noise is known the second time
    model.activation = nn.ReLU()
    assert (noted(), noted()) == (4, 4)
    model.gain.mul_(2)  # no part of the state
    assert noted() == 6


def test_damaged_notes_are_one_error_that_says_what_to_do(tiny: LoadedModel, device: Bench, tmp_path: Path) -> None:
    (tmp_path / tiny.name).mkdir()
    (tmp_path / tiny.name / "memory.tuning.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read") as error:
        run(tiny, tmp_path)
    assert "delete it" in error.value.fix
    assert not (tmp_path / tiny.name / "memory").exists()


def test_a_gain_within_the_noise_is_not_taken(tiny: LoadedModel, device: Bench, tmp_path: Path) -> None:
    device.noise = lambda: 0.5  # whatever comes second seems twice as fast, a copy of the same file too
    device.costs = {"conv2d.default": 1.1}
    artifact = run(tiny, tmp_path)
    assert artifact.manifest.tuning.noise == 2
    assert artifact.manifest.tuning.taken == []


def test_a_gain_that_not_every_process_sees_is_not_taken(tiny: LoadedModel, device: Bench, tmp_path: Path) -> None:
    device.costs = {"layer_norm.default": 90.0}
    turns = itertools.count()
    device.noise = lambda: 9.0 if next(turns) % 3 == 2 else 1.0
    assert run(tiny, tmp_path).manifest.tuning.taken == []


def test_a_model_whose_own_form_is_wrong_is_not_searched(
    tiny: LoadedModel, device: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "GOOD", ())
    with pytest.raises(ExportError, match="only forms that are proven") as error:
        run(tiny, tmp_path)
    assert "without --tune" in error.value.fix
    assert list(tmp_path.iterdir()) == []


def test_those_that_gained_elsewhere_come_first_and_options_before_the_others(
    tiny: LoadedModel, device: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = (Measured("m", 1.2, 1.1, 1.3),)
    slight = (Measured("m", 1.0, 0.9, 1.1), Measured("n", 1.01, 1.0, 1.02))
    policy = Policy(
        (
            Choice("affine_into_neighbours", "gains", measured=measured),
            Choice("identity_into_depthwise", "costs", measured=(Measured("m", 0.7, 0.6, 0.8),)),
            Choice("mean_before_linear", "gains", on=False, measured=measured),
            Choice("decompose_attention", "unknown", on=False),
            Choice("compose_views", "gains little", on=False, measured=slight),
        )
    )
    monkeypatch.setattr(Memory, "chosen", policy)
    monkeypatch.setattr(Memory, "others", {"slow": [True]})
    assert list(results(run(tiny, tmp_path, budget=LITTLE))) == [
        "without identity_into_depthwise",
        "with mean_before_linear",
        "slow = True",
        "with compose_views",
        "with decompose_attention",
        "without affine_into_neighbours",
    ]


def test_options_are_tried_as_well(
    tiny: LoadedModel, device: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Memory, "others", {"slow": [False]})
    artifact = tune(tiny, "memory", device="bench", out=tmp_path, options={"slow": True})
    assert "slow = False" in artifact.manifest.tuning.taken
    assert artifact.manifest.options["slow"] is False


def test_options_that_leave_the_file_as_it_is_are_not_timed(
    tiny: LoadedModel, device: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Memory, "others", {"unused": [("a",), ("a", "b")]})
    monkeypatch.setattr(Memory, "chosen", Policy(()))
    artifact = run(tiny, tmp_path)
    assert results(artifact) == {"unused = a": "changes nothing here", "unused = a, b": "changes nothing here"}
    assert device.races == 2  # of the file with itself


def test_a_model_is_captured_once(
    tiny: LoadedModel, device: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured: list[object] = []
    capture = sources.capture
    monkeypatch.setattr(sources, "capture", lambda *args, **options: captured.append(args) or capture(*args, **options))
    device.costs = {"layer_norm.default": 90.0}
    artifact = run(tiny, tmp_path)
    assert len(artifact.manifest.tuning.trials) == 3
    assert len(captured) == 1


def test_a_device_times_artifacts_of_its_runtimes_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="coreml cannot be timed here"):
        tune("edgevit_digits", "coreml", out=tmp_path)
    with pytest.raises(UserError, match="no kind of device called 'phone'"):
        tune("edgevit_digits", "onnx", device="phone", out=tmp_path)


def test_a_change_that_was_taken_and_is_wrong_by_now_is_not_published(
    tiny: LoadedModel, device: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning.Notes, "forget", lambda self: None)
    device.costs = {"layer_norm.default": 90.0}
    assert run(tiny, tmp_path).manifest.tuning.taken == ["with layer_norm_to_products"]
    ran = Memory.run

    def wrong(self: Memory, file: Path, *rest: Any) -> Any:
        found = ran(self, file, *rest)
        if "layer_norm.default" not in file.read_text():
            found.outputs[0][0] *= 2  # type: ignore[index]  # has outputs
        return found

    monkeypatch.setattr(Memory, "run", wrong)
    artifact = run(tiny, tmp_path, force=True)
    assert artifact.manifest.outcome == Outcome.OK
    assert artifact.manifest.fusion.passes == POLICY.names
    assert "no longer: mismatch" in results(artifact)["with layer_norm_to_products"]


def test_gains_that_do_not_add_up_are_not_kept(
    tiny: LoadedModel, device: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.costs = {"layer_norm.default": 90.0}
    race = tuning.Search._race
    monkeypatch.setattr(
        tuning.Search,
        "_race",
        lambda self, first, second: (
            Ratio(0.98, 0.97, 0.99)
            if not first.form.toggled and second.form.toggled and self.codes.get("last")
            else race(self, first, second)
        ),
    )
    again = tuning.Search._try

    def attempt(self: Any, *args: Any) -> Any:
        self.codes.pop("last", None)
        found = again(self, *args)
        self.codes["last"] = "the final race"
        return found

    monkeypatch.setattr(tuning.Search, "_try", attempt)
    artifact = run(tiny, tmp_path)
    assert (artifact.manifest.tuning.taken, artifact.manifest.tuning.faster) == ([], None)
    assert artifact.manifest.fusion.passes == POLICY.names
