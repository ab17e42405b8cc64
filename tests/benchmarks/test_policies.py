from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deploy_kit.benchmarks.instructions import Instructions
from deploy_kit.benchmarks.suites import policies as suite
from deploy_kit.benchmarks.suites.policies import Found
from deploy_kit.errors import UserError
from deploy_kit.exporters.base import POLICIES
from deploy_kit.fusion.policy import Choice, Conditions, Measured, Policy, read_policy

CONDITIONS = Conditions("x86_64", "2026-01-01", 1, {}, "python -m deploy_kit.benchmarks.suites.policies")


def test_new_figures_take_the_place_of_those_of_the_same_models() -> None:
    old = (Measured("a", 1.0, 0.9, 1.1), Measured("b", 2.0, 1.9, 2.1))
    policy = Policy((Choice("first", "why", measured=old), Choice("second", "why", measured=old[:1])))
    new = Measured("a", 1.5, 1.4, 1.6)
    policy = replace(policy, conditions=CONDITIONS)
    updated = suite.updated(policy, "a", [Found("onnx", "first", True, new)], CONDITIONS)
    assert updated.passes[0].measured == (old[1], new)
    assert updated.passes[1].measured == ()  # it does nothing to this model any more
    assert updated.conditions == CONDITIONS
    elsewhere = replace(CONDITIONS, machine="another")
    assert suite.updated(policy, "a", [Found("onnx", "first", True, new)], elsewhere).passes[0].measured == (new,)


def test_a_pass_that_changes_nothing_in_a_model_is_kept_as_that() -> None:
    choice = Choice("first", "why", measured=(Measured("a", 1.0, 0.9, 1.1),), unchanged=("b", "c"))
    policy = Policy((choice,), CONDITIONS)
    changed = Measured("b", 1.5, 1.4, 1.6)
    updated = suite.updated(policy, "b", [Found("onnx", "first", True, changed)], CONDITIONS).passes[0]
    assert (updated.measured, updated.unchanged) == ((*choice.measured, changed), ("c",))
    updated = suite.updated(policy, "a", [Found("onnx", "first", True, None)], CONDITIONS).passes[0]
    assert (updated.measured, updated.unchanged) == ((), ("b", "c", "a"))


def test_figures_of_some_passes_are_not_kept() -> None:
    with pytest.raises(UserError, match="whole policies"):
        suite.main(["--passes", "constant_folding", "--write"])


def test_a_pass_is_measured_with_against_without_whichever_the_policy_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "build", lambda graph, exporter, options, folder: folder)
    monkeypatch.setattr(
        suite,
        "time_files",
        lambda target, files, inputs, folder, **protocol: [
            {name: [0.001 if name == suite.OWN else 0.002] for name in files}
        ],
    )
    found = {
        item.choice: item
        for item in suite.measure("edgevit_digits", "openvino", None, tmp_path, processes=1, iterations=1)
    }
    assert found["identity_into_depthwise"].on
    assert found["identity_into_depthwise"].measured is not None
    assert found["pad_into_convolution"].measured is None  # the model has nothing for it
    assert {item.measured.faster == (2 if item.on else 0.5) for item in found.values() if item.measured} == {True}


def test_a_pass_that_is_not_in_the_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no optional pass of the policy called 'identity'"):
        suite.measure("edgevit_digits", "onnx", ["identity"], tmp_path, processes=1, iterations=1)


@pytest.mark.parametrize("target", suite.TIMED)
def test_each_target_that_is_timed_has_a_policy_to_write_into(target: str) -> None:
    assert read_policy(POLICIES / f"{target}.cpu.json").passes
    command = suite.conditions(target, ["a", "b"], suite.SECONDS, "--processes 3").command
    assert command.endswith(f"--targets {target} --models a b --processes 3 --write")


def test_the_command_that_is_kept_names_every_model_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "onnx.cpu.json"
    old = suite.conditions("onnx", ["b", "c"], suite.SECONDS, "--processes 5")
    choice = Choice("first", "why", measured=(Measured("c", 1.0, 0.9, 1.1),), unchanged=("b",))
    file.write_text(Policy((choice,), old).to_json())
    monkeypatch.setattr(suite, "POLICIES", tmp_path)
    suite.write("onnx", "a", [Found("onnx", "first", True, None)], suite.SECONDS, "--processes 3")
    policy = read_policy(file)
    assert policy.models == ["a", "b", "c"]
    assert policy.conditions is not None
    assert "--models a b c --processes 3 --write" in policy.conditions.command


def test_instructions_are_counted_for_phones_alone() -> None:
    with pytest.raises(UserError, match="the instructions of onnx cannot be counted"):
        suite.main(["--targets", "onnx", "--models", "edgevit_digits", "--count"])


def test_times_and_instructions_are_not_kept_beside_each_other() -> None:
    old = (Measured("a", 1.0, 0.9, 1.1),)
    policy = Policy((Choice("first", "why", measured=old),), CONDITIONS)
    counted = replace(CONDITIONS, unit=suite.INSTRUCTIONS)
    new = Measured("b", 1.5, 1.5, 1.5)
    updated = suite.updated(policy, "b", [Found("executorch", "first", True, new)], counted)
    assert updated.passes[0].measured == (new,)
    assert updated.conditions is not None
    assert updated.conditions.unit == "instructions"


def test_instructions_of_each_form_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "build", lambda graph, exporter, options, folder: folder)
    monkeypatch.setattr(suite, "build_runner", lambda target, abi: None)
    monkeypatch.setattr(
        suite,
        "count_instructions",
        lambda bundle, file, inputs, iterations: Instructions((100 if file.name == "own" else 110,) * iterations, {}),
    )
    arguments = ("edgevit_digits", "executorch", ["identity_into_depthwise"], tmp_path)
    (found,) = suite.measure(*arguments, processes=1, iterations=1, unit=suite.INSTRUCTIONS)
    assert found.measured == Measured("edgevit_digits", 1.1, 1.1, 1.1)
