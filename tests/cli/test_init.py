"""``deploykit init``: files that the other commands and GitHub accept, and no surprise where there are some already."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from deploy_kit import init
from deploy_kit.cells import recipe
from deploy_kit.cells.recipe import ModelOptions, read_recipe
from deploy_kit.cli import sweep
from deploy_kit.errors import UserError
from deploy_kit.sources import load_model
from deploy_kit.sweep.work import tasks_of
from tests.cli.support import ROOT, Ended
from tests.support import TINY, TINY_SIZE, tiny

Command = Callable[..., Ended]
MODEL = (TINY, "--input-size", TINY_SIZE)
WORKFLOW = ".github/workflows/deploykit.yml"


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "installed_targets", lambda: ["onnx", "openvino"])


def _commands(folder: Path) -> str:
    workflow = yaml.safe_load((folder / WORKFLOW).read_text())
    return "\n".join(step.get("run", "") for step in workflow["jobs"]["check"]["steps"])


def test_it_writes_a_recipe_of_the_model_and_of_the_targets_that_are_installed(
    deploykit: Command, tmp_path: Path
) -> None:
    ended = deploykit("init", *MODEL, "--dir", tmp_path)
    assert ended.code == 0, ended.err
    found = read_recipe(tmp_path / "deploykit.toml")
    assert [cell.id for cell in found.cells()] == [f"{TINY}/onnx/fp32", f"{TINY}/openvino/fp32"]
    assert found.cells()[0].of_model == ModelOptions(input_size=TINY_SIZE)
    assert not (tmp_path / ".pre-commit-config.yaml").exists()
    for said in (f"wrote {tmp_path}/deploykit.toml", "deploykit check --update-baseline", "git commit"):
        assert said in ended.out


def test_what_the_recipe_has_as_comments_can_be_switched_on(deploykit: Command, tmp_path: Path) -> None:
    deploykit("init", *MODEL, "--dir", tmp_path)
    path = tmp_path / "deploykit.toml"
    path.write_text(re.sub(r"^# (?=\[|\w+ = )", "", path.read_text(), flags=re.MULTILINE))
    found = read_recipe(path)
    assert found.latency is not None
    assert found.bench is not None
    assert found.accuracy is not None
    assert found.precisions == ("fp32", "fp16", "int8")


def test_a_sweep_of_the_recipe_measures_once_bench_is_switched_on(deploykit: Command, tmp_path: Path) -> None:
    deploykit("init", *MODEL, "--dir", tmp_path)
    path = tmp_path / "deploykit.toml"
    before, header, section = path.read_text().partition("# [bench]\n")
    assert header
    path.write_text(before + re.sub("^# ", "", header + section, flags=re.MULTILINE))
    found = read_recipe(path)
    sweep.check(found)
    measured = [task.key for cell in found.cells() for task in tasks_of(found, cell)[1]]
    assert [(key.cell, key.device) for key in measured] == [(cell.id, "local") for cell in found.cells()]


def test_the_nightly_example_says_what_its_recipe_needs_to_be_timed() -> None:
    text = (ROOT / "examples/ci/nightly-sweep.yml").read_text()
    assert re.search(r"deploykit[.]toml needs .*\[bench\]", text)


def test_the_workflow_installs_what_the_targets_need_and_runs_the_check(deploykit: Command, tmp_path: Path) -> None:
    deploykit("init", *MODEL, "--dir", tmp_path, "-t", "torchscript-lite", "-t", "executorch")
    commands = _commands(tmp_path)
    assert "deploy-kit[executorch]" in commands
    assert "apt-get install --yes --no-install-recommends python3-torch" in commands
    assert commands.index("torch==") < commands.index("deploy-kit[")
    assert "deploykit check --changed-only" in commands
    assert "<<" not in commands
    workflow = yaml.safe_load((tmp_path / WORKFLOW).read_text())
    assert workflow["permissions"] == {"contents": "read"}
    deploykit("init", *MODEL, "--dir", tmp_path, "-t", "onnx", "--force")
    assert "apt-get" not in _commands(tmp_path)
    assert "deploy-kit==" in _commands(tmp_path)


def test_the_workflow_installs_what_the_models_own_code_imports(deploykit: Command, tmp_path: Path) -> None:
    deploykit("init", *MODEL, "--dir", tmp_path)
    assert "pip install --" not in _commands(tmp_path).replace("pip install --index-url", "")
    (tmp_path / "requirements.txt").write_text("einops\n")
    deploykit("init", *MODEL, "--dir", tmp_path, "--force")
    assert "pip install --requirement requirements.txt" in _commands(tmp_path)


def test_the_workflow_installs_a_deploykit_of_a_repository_from_there(
    deploykit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = {"url": "https://example.org/kit.git", "vcs_info": {"vcs": "git", "commit_id": "0123abc"}}
    monkeypatch.setattr(init, "_origin", lambda: origin)
    ended = deploykit("init", *MODEL, "--dir", tmp_path, "-t", "onnx", "--json")
    assert "'deploy-kit @ git+https://example.org/kit.git@0123abc'" in _commands(tmp_path)
    assert ended.json["notes"] == []
    monkeypatch.setattr(init, "_origin", lambda: {"url": "file:///kit", "dir_info": {"editable": True}})
    ended = deploykit("init", *MODEL, "--dir", tmp_path, "-t", "onnx", "--json", "--force")
    assert "say there where CI gets it" in ended.json["notes"][0]


def test_files_are_named_as_the_recipe_sees_them(
    deploykit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(tiny().state_dict(), tmp_path / "best.pth")
    torch.export.save(torch.export.export(tiny(), (torch.zeros(1, 3, 32, 32),)), tmp_path / "net.pt2")
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path)
    assert deploykit("init", *MODEL, "--weights", "best.pth", "--dir", "project").code == 0
    assert 'weights = "../best.pth"' in Path("project/deploykit.toml").read_text()
    found = read_recipe(Path("project/deploykit.toml"))
    load_model(TINY, **found.model[TINY].model_dump())
    assert deploykit("init", "net.pt2", "--dir", "project", "--force").code == 0
    assert 'models = ["../net.pt2"]' in Path("project/deploykit.toml").read_text()
    load_model(read_recipe(Path("project/deploykit.toml")).cells()[0].model)


def test_a_wrong_name_fails_at_once_and_nothing_is_written(deploykit: Command, tmp_path: Path) -> None:
    for arguments, said in (
        (("edgevit_z",), "there is no model called 'edgevit_z'"),
        ((*MODEL, "-t", "onx"), "there is no target called 'onx'"),
        ((TINY,), "--input-size"),
        ((*MODEL, "--weights", tmp_path / "none.pth"), "none.pth"),
        ((*MODEL, "--dir", tmp_path / "none"), "there is no folder"),
    ):
        ended = deploykit("init", "--dir", tmp_path, *arguments)
        assert ended.code == 2
        assert said in ended.err
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_there_are_replaced_only_with_force(deploykit: Command, tmp_path: Path) -> None:
    (tmp_path / "deploykit.toml").write_text("mine")
    ended = deploykit("init", *MODEL, "--dir", tmp_path)
    assert ended.code == 2
    assert "already" in ended.err
    assert "--force" in ended.err
    assert (tmp_path / "deploykit.toml").read_text() == "mine"
    assert not (tmp_path / ".github").exists()
    (tmp_path / "deploykit.toml").rename(tmp_path / "real.toml")
    (tmp_path / "deploykit.toml").symlink_to("real.toml")
    assert deploykit("init", *MODEL, "--dir", tmp_path, "--force").code == 0
    assert read_recipe(tmp_path / "deploykit.toml").models == (TINY,)
    assert (tmp_path / "deploykit.toml").is_symlink()


@pytest.mark.parametrize("blocked", [".github", ".github/workflows", ".github/workflows/deploykit.yml"])
def test_all_files_are_written_or_none(deploykit: Command, tmp_path: Path, blocked: str) -> None:
    (tmp_path / "deploykit.toml").write_text("mine")
    path = tmp_path / blocked
    if path.suffix:
        path.mkdir(parents=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    before = sorted(tmp_path.rglob("*"))
    ended = deploykit("init", *MODEL, "--dir", tmp_path, "--force")
    assert ended.code == 2
    assert "deploykit.yml' cannot be written" in ended.err
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "deploykit.toml").read_text() == "mine"


def test_a_folder_that_was_made_goes_where_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    files = {Path("a/b/one"): "1", Path("taken/two"): "2"}
    with pytest.raises(UserError, match="taken/two' cannot be written"):
        init.write(files, tmp_path, force=False)
    assert list(tmp_path.iterdir()) == [tmp_path / "taken"]


def test_the_next_commands_can_be_pasted_and_add_what_the_recipe_names(
    deploykit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my models"
    folder.mkdir()
    torch.save(tiny().state_dict(), folder / "best one.pth")
    torch.export.save(torch.export.export(tiny(), (torch.zeros(1, 3, 32, 32),)), tmp_path / "net.pt2")
    monkeypatch.chdir(tmp_path)
    weights = ("--weights", "my models/best one.pth")
    ended = deploykit("init", *MODEL, *weights, "--dir", "my models", "--json")
    go, _, add, _ = map(shlex.split, ended.json["next"])
    assert go == ["cd", "my models"]
    assert add[:3] == ["git", "add", "--"]
    assert {"best one.pth", "deploykit.toml", WORKFLOW, "deploykit-baseline.json"} == set(add[3:])
    ended = deploykit("init", "net.pt2", "--dir", "my models", "--force", "--json")
    assert "net.pt2 is not in" in " ".join(ended.json["notes"])
    (tmp_path / ".git").mkdir()
    ended = deploykit("init", "net.pt2", "--dir", "my models", "--force", "--json")
    assert "../net.pt2" in shlex.split(ended.json["next"][2])
    assert "net.pt2 is not in" not in " ".join(ended.json["notes"])


def test_a_hook_is_written_where_it_is_wanted_and_others_hooks_are_never_lost(
    deploykit: Command, tmp_path: Path
) -> None:
    ended = deploykit("init", *MODEL, "--dir", tmp_path, "--pre-commit", "--json")
    assert [Path(path).name for path in ended.json["written"]] == [
        "deploykit.toml",
        "deploykit.yml",
        ".pre-commit-config.yaml",
    ]
    path = tmp_path / ".pre-commit-config.yaml"
    (hook,) = yaml.safe_load(path.read_text())["repos"][0]["hooks"]
    assert hook["entry"] == "deploykit check --changed-only"
    path.write_text("repos: []\n")
    ended = deploykit("init", *MODEL, "--dir", tmp_path, "--pre-commit", "--force")
    assert ended.code == 2
    assert "- id: deploykit-check" in ended.err
    assert path.read_text() == "repos: []\n"


def test_it_says_what_github_would_not_find_and_what_is_not_installed(deploykit: Command, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "model").mkdir()
    notes = " ".join(deploykit("init", *MODEL, "--dir", tmp_path / "model", "-t", "coreml", "--json").json["notes"])
    assert f"--dir {tmp_path}" in notes
    assert "coreml is not installed here" in notes
