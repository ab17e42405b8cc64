from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from deploy_kit.sweep import drive
from deploy_kit.sweep.store import open_store
from deploy_kit.sweep.work import Work
from tests.cli.support import Ended, program
from tests.support import TINY, TINY_SIZE
from tests.sweep.fakes import measure
from tests.sweep.test_drive import Lab

RECIPE = """
models = ["nets:a", "nets:b"]
targets = ["onnx"]
[bench]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe, whose cells a simulated device measures."""
    (tmp_path / "deploykit.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    made = Lab()
    work = Work(made.export, measure, made.look, real=False)
    monkeypatch.setattr(drive, "sweep", partial(drive.sweep, work=work))
    monkeypatch.setattr(drive, "decides", lambda recipe: "x")
    return made


def test_results_are_kept_and_failures_are_told(deploykit: Callable[..., Ended], folder: Path, lab: Lab) -> None:
    ended = deploykit("sweep")
    assert ended.code == 0, ended.err
    assert "[4/4]" in ended.err
    assert ended.out.count(" onnx ") == 2
    assert "local: p50, ms" in ended.out
    assert "4 done now" in ended.out
    lab.broken = {"nets:b/onnx/fp32"}
    ended = deploykit("sweep", "--json")
    assert ended.code == 1
    assert ended.json["failed"] == {"nets:b/onnx/fp32": "crashed: boom"}
    assert len(ended.json["entries"]) == 2
    store = open_store("sqlite:///deploykit.db", must_exist=True)
    kept = [entry.model_dump(mode="json", by_alias=True) for entry in store.entries(ended.json["run"])]
    assert kept == ended.json["entries"]
    store.close()
    lab.broken = set()
    ended = deploykit("sweep", "--retry-failed")
    assert ended.code == 0
    assert "2 done now" in ended.out
    assert "2 before" not in ended.out


@pytest.mark.parametrize(
    ("words", "recipe", "told"),
    [
        ([], "models = ['edgevit_xxz']", "there is no model called 'edgevit_xxz'"),
        ([], "models = ['typo.pt2']", "there is no exported program"),
        ([], RECIPE + "devices = ['phone:1']", "no kind of device called 'phone'"),
        ([], RECIPE + "energy = 'sun'", "sun"),
        ([], RECIPE + "runner = '/no/such/program'", "no program '/no/such/program'"),
        ([], RECIPE + "threads = [100000]", "--threads 100000 cannot be"),
        (["--new", "--retry-failed"], RECIPE, "nothing has failed yet"),
        (["--workers", "2"], RECIPE, "add --on local"),
        (["--store", "results.db"], RECIPE, "no URL of a database"),
        (["other.toml"], RECIPE, "there is no recipe 'other.toml'"),
    ],
)
def test_a_mistake_is_told_before_anything_is_done(
    deploykit: Callable[..., Ended], folder: Path, lab: Lab, words: list[str], recipe: str, told: str
) -> None:
    (folder / "deploykit.toml").write_text(recipe)
    ended = deploykit("sweep", *words)
    assert ended.code == 2
    assert told in ended.err
    assert lab.done == []
    assert not (folder / "deploykit.db").exists()


@pytest.mark.slow
def test_a_real_cell_is_exported_and_measured(tmp_path: Path) -> None:
    (tmp_path / "deploykit.toml").write_text(
        f'models = ["{TINY}"]\ntargets = ["onnx"]\n[model."{TINY}"]\ninput_size = "{TINY_SIZE}"\n'
        "[bench]\niterations = 5\n"
    )
    ended = program("sweep", "--json", "--artifacts", "kept", cwd=tmp_path)
    assert ended.code == 0, ended.err
    (entry,) = ended.json["entries"]
    assert entry["result"]["outcome"] == "ok"
    assert entry["measurements"][0]["outputs"]["verdict"] == "right"
    again = program("inspect", entry["artifact"], "--json", cwd=tmp_path)
    assert again.code == 0, again.err
