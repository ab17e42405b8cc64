"""``export --tune``, ``export --approximate`` and ``advise``, on a target and a device that cost nothing."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from deploy_kit import exporters
from deploy_kit.artifact import open_artifact
from deploy_kit.benchmarks import tuning
from deploy_kit.errors import UserError
from deploy_kit.fusion import Policy
from deploy_kit.fusion.policy import Choice
from deploy_kit.report.describe import described
from tests.benchmarks.support import Bench, Memory, install
from tests.cli.support import Ended
from tests.support import TINY, TINY_SIZE

Command = Callable[..., Ended]
MODEL = (TINY, "--input-size", TINY_SIZE, "-t", "memory")
TUNE = ("export", *MODEL, "--tune", "--device", "bench")
POLICY = Policy((Choice("identity_into_depthwise", "gains"), Choice("layer_norm_to_products", "costs", on=False)))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(Memory, "chosen", POLICY)
    bench = install(monkeypatch)
    bench.costs = {"layer_norm.default": 90.0}
    return bench


def test_tuning_prints_everything_that_was_tried(deploykit: Command, device: Bench, tmp_path: Path) -> None:
    ended = deploykit(*TUNE, "--out", tmp_path)
    assert ended.code == 0, ended.err
    for words in ("counts operators", "with layer_norm_to_products", "faster: kept", "without identity", "slower"):
        assert words in ended.out
    assert "memory: with layer_norm_to_products: " in ended.out
    assert "times faster than its own form" in ended.out
    artifact = open_artifact(tmp_path / "tests.support.tiny" / "memory")
    assert "layer_norm_to_products" in artifact.manifest.fusion.passes
    shown = deploykit("inspect", artifact.folder)
    assert "with layer_norm_to_products" in shown.out


def test_tuning_prints_the_same_for_programs(deploykit: Command, device: Bench, tmp_path: Path) -> None:
    (result,) = deploykit(*TUNE, "--out", tmp_path, "--json").json
    assert result["tuning"]["taken"] == ["with layer_norm_to_products"]
    assert result["tuning"]["faster"]["lowest"] > 1
    assert {trial["change"] for trial in result["tuning"]["trials"]} == {
        "with layer_norm_to_products",
        "without identity_into_depthwise",
    }


def test_where_nothing_was_tried_that_is_said(deploykit: Command, device: Bench, tmp_path: Path) -> None:
    ended = deploykit(*TUNE, "--out", tmp_path, "--tune-budget", "0.001s")
    assert ended.code == 0
    assert "none of 2 changes was tried within 0.001 s, and the target's own form was kept" in ended.out
    assert "better" not in ended.out
    assert re.search(
        r"2 of 2 changes were not tried; the same command with --force and a --tune-budget of more than [1-9]\d*s",
        ended.err,
    )
    again = deploykit(*TUNE, "--out", tmp_path, "--force")
    assert "with layer_norm_to_products: " in again.out
    assert "tried" not in again.err


def test_what_a_budget_left_untried_is_said(
    deploykit: Command, device: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(tuning, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    ended = deploykit(*TUNE, "--out", tmp_path, "--tune-budget", "1.5s")
    assert "with layer_norm_to_products: " in ended.out
    assert "than its own form; 1 of 2 changes was tried" in ended.out
    assert "1 of 2 changes was not tried; the same command with --force goes on with it" in ended.err
    device.costs = {}
    seconds = itertools.count()
    ended = deploykit(*TUNE, "--out", tmp_path / "other", "--tune-budget", "1.5s")
    assert "of the 1 of 2 changes that was tried none is better than the target's own form, which was kept" in ended.out
    folder = tmp_path / "other" / "tests.support.tiny" / "memory"
    assert "1 of 2 changes was not tried" in deploykit("inspect", folder).err
    assert "1 of 2 changes tried on bench" in (described(open_artifact(folder)).tuning or "")


def test_where_all_was_tried_nothing_else_is_said(deploykit: Command, device: Bench, tmp_path: Path) -> None:
    device.costs = {}
    ended = deploykit(*TUNE, "--out", tmp_path)
    assert "nothing is better than the target's own form, which was kept" in ended.out
    assert "not tried" not in ended.err


def test_what_disturbed_the_device_is_said(deploykit: Command, device: Bench, tmp_path: Path) -> None:
    device.disturbed = ["background load: 3 threads wanted to run when it began"]
    tuned = deploykit(*TUNE, "--out", tmp_path)
    assert f"note: memory: {device.disturbed[0]} (in {device.races} of {device.races} runs)" in tuned.err
    (condition,) = open_artifact(tmp_path / "tests.support.tiny" / "memory").manifest.tuning.conditions
    assert condition.startswith(device.disturbed[0])
    assert f"note: {device.disturbed[0]}" in deploykit("advise", *MODEL, "--device", "bench").err


@pytest.mark.parametrize(
    ("arguments", "words", "fix"),
    [
        (("--tune", "--tune-budget", "soon"), "'soon' is no time", "90s"),
        (("--tune", "--tune-budget", "-5s"), "is no time", "90s"),
        (("--tune", "--tune-budget", "0"), "'0' is no time", "90s"),
        (("--tune", "--tune-budget", "0s"), "'0s' is no time", "90s"),
        (("--tune", "--tune-budget", "0.0m"), "'0.0m' is no time", "90s"),
        (("--tune", "--tune-budget", f"{'9' * 400}s"), "is no time", "90s"),
        (("--tune-budget", "60s"), "--tune-budget means nothing without --tune", "add --tune"),
        (("--device", "bench"), "--device means nothing without --tune", "add --tune"),
        (("--tune", "--device", "bensh"), "no kind of device called 'bensh'", "did you mean ssh?"),
        (("--tune", "--device", "bench", "--allow-lossy"), "none is lossy", "leave out --allow-lossy"),
        (("--approximate", "gelu"), "no approximation called 'gelu'", "gelu_to_tanh"),
    ],
)
def test_a_mistake_is_one_clear_error(
    deploykit: Command, device: Bench, tmp_path: Path, arguments: tuple[str, ...], words: str, fix: str
) -> None:
    ended = deploykit("export", *MODEL, "--out", tmp_path, *arguments)
    assert ended.code == 2
    assert words in ended.err
    assert fix in ended.err
    assert list(tmp_path.iterdir()) == []


def test_an_approximation_is_said_wherever_the_artifact_is_shown(
    deploykit: Command, device: Bench, tmp_path: Path
) -> None:
    ended = deploykit("export", *MODEL, "--out", tmp_path, "--approximate", "gelu_to_tanh")
    assert ended.code == 0, ended.err
    assert "approximated, and proven against the approximation: 1 x gelu_to_tanh" in ended.err
    assert "gelu_to_tanh" in deploykit("inspect", tmp_path / "tests.support.tiny" / "memory").out


def test_advise_prints_what_each_variant_saves_and_takes(deploykit: Command, device: Bench) -> None:
    ended = deploykit("advise", *MODEL, "--device", "bench")
    assert ended.code == 0, ended.err
    for words in ("every LayerNorm as BatchNorm", "trained again", "nearly the same function", "no clear difference"):
        assert words in ended.out
    report = deploykit("advise", *MODEL, "--device", "bench", "--json").json
    assert report["threads"] == 1
    norm = next(advice for advice in report["advice"] if advice["variant"] == "every LayerNorm as BatchNorm")
    assert norm["saved_ms"] > 0
    assert norm["effect"] == "retrain"


def test_a_target_that_the_device_cannot_time_does_not_stop_the_others(
    deploykit: Command, device: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(Memory):
        name = "other"

    installed = exporters.entry_points(group="deploy_kit.exporters")
    installed["other"] = SimpleNamespace(load=lambda: Other)
    monkeypatch.setattr(exporters, "entry_points", lambda group: installed)
    monkeypatch.setattr(Bench, "require", _only_memory)
    ended = deploykit(*TUNE, "-t", "other", "--out", tmp_path)
    assert ended.code == 1
    assert "other cannot be timed" in ended.err
    assert open_artifact(tmp_path / "tests.support.tiny" / "memory").manifest.tuning is not None
    alone = deploykit(*(word if word != "memory" else "other" for word in TUNE), "--out", tmp_path)
    assert alone.code == 2
    assert "other cannot be timed" in alone.err


def _only_memory(self: Bench, target: str) -> None:
    if target != "memory":
        raise UserError(f"{target} cannot be timed")
