from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy_kit.errors import UserError
from deploy_kit.exporters.base import POLICIES
from deploy_kit.fusion import PASSES
from deploy_kit.fusion.policy import Choice, Conditions, Measured, Policy, policy_of, read_policy

FILES = sorted(POLICIES.glob("*.json"))
CPUS = sorted(POLICIES.glob("*.cpu.json"))
POLICY = Policy((Choice("a", "", needed=True), Choice("b", ""), Choice("c", "", on=False)))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_packaged_policy_has_passes_that_exist_each_with_a_reason(file: Path) -> None:
    policy = read_policy(file)
    assert policy.passes
    for choice in policy.passes:
        assert choice.name in PASSES
        assert choice.why
        assert choice.on or not choice.needed


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_packaged_policy_names_the_conditions_of_its_measurements(file: Path) -> None:
    policy = read_policy(file)
    measured = [found for choice in policy.passes for found in choice.measured]
    assert bool(measured) == (policy.conditions is not None)
    assert all(found.lowest <= found.faster <= found.highest for found in measured)
    if policy.conditions is not None:
        assert policy.conditions.command.startswith("python -m deploy_kit.benchmarks.suites.policies")


@pytest.mark.parametrize("file", CPUS, ids=lambda file: file.stem)
def test_each_choice_for_a_cpu_was_measured(file: Path) -> None:
    choices = [choice for choice in read_policy(file).passes if not choice.needed]
    assert choices
    assert [choice.name for choice in choices if not choice.measured and not choice.unchanged] == []


@pytest.mark.parametrize("file", CPUS, ids=lambda file: file.stem)
def test_no_choice_costs_over_a_fiftieth_in_every_model_that_it_was_measured_on(file: Path) -> None:
    measured = [choice for choice in read_policy(file).passes if choice.measured and not choice.needed]
    gains = {
        choice.name: [found.faster if choice.on else 1 / found.faster for found in choice.measured]
        for choice in measured
    }
    assert {name: found for name, found in gains.items() if max(found) < 0.98} == {}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_policy_is_written_as_it_was_read(file: Path) -> None:
    assert read_policy(file).to_json() == file.read_text()


def test_measurements_come_back_from_a_file(tmp_path: Path) -> None:
    conditions = Conditions("x86_64", "2026-01-01", 1, {"torch": "2"}, "python")
    policy = Policy((Choice("a", "why", measured=(Measured("m", 1.5, 1.0, 2.0),)),), conditions)
    (tmp_path / "p.json").write_text(policy.to_json())
    assert read_policy(tmp_path / "p.json") == policy


def test_a_damaged_policy_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps({"passes": [{"name": "a"}], "conditions": None}))
    with pytest.raises(ValueError, match="why"):
        read_policy(tmp_path / "p.json")


def test_only_what_is_on_is_applied() -> None:
    assert POLICY.names == ["a", "b"]


def test_toggling_turns_what_is_on_off_and_what_is_off_on() -> None:
    assert POLICY.toggled("b").names == ["a"]
    assert POLICY.toggled("c").names == ["a", "b", "c"]
    assert POLICY.toggled("c").toggled("c") == POLICY


@pytest.mark.parametrize("name", ["a", "d"])
def test_what_is_needed_or_unknown_is_not_toggled(name: str) -> None:
    with pytest.raises(UserError, match=f"{name!r}"):
        POLICY.toggled(name)


def test_a_policy_of_names_applies_just_them_in_order() -> None:
    assert policy_of(["b", "a", "b"]).names == ["b", "a", "b"]
