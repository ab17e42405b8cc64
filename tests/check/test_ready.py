"""What a recipe names and there is not is told before anything is exported."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from deploy_kit.cells.recipe import make_recipe
from deploy_kit.check import engine
from deploy_kit.check.engine import Settings, check
from deploy_kit.check.ready import require
from deploy_kit.errors import DeployKitError

NET = {"models": ["net:net"], "targets": ["onnx", "executorch"]}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"models": ["edgevit_xxz"]}, "there is no model called 'edgevit_xxz'"),
        ({"models": ["typo.pt2"]}, "there is no exported program .*typo.pt2"),
        ({**NET, "model": {"net:net": {"weights": "typo.pth"}}}, "there is no checkpoint .*typo.pth"),
        ({**NET, "accuracy": {"data": "typo.safetensors"}}, "there is no file of labelled inputs .*typo.safetensors"),
        ({**NET, "latency": {"pairs": 0}}, "0 pairs can show no difference"),
        ({**NET, "latency": {"device": "adbb"}}, "no kind of device called 'adbb'"),
        ({**NET, "latency": {"device": "qemu"}}, "qemu"),
        ({**NET, "latency": {"runner": "typo"}}, "there is no program .*typo"),
        ({**NET, "latency": {"runner": "app"}}, "no benchmark app"),
        ({**NET, "latency": {"cores": "typo"}}, "typo"),
    ],
)
def test_what_is_not_there_is_told_before_anything_is_exported(
    document: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exported(*given: Any, **named: Any) -> None:
        raise AssertionError("a cell was exported")

    monkeypatch.setattr(engine, "run_cell", exported)
    recipe = make_recipe({"targets": ["onnx"], **document}, tmp_path)
    with pytest.raises(DeployKitError) as raised:
        check(recipe, None, Settings(cache_folder=tmp_path / "cache"))
    assert re.search(said, str(raised.value))


def test_what_is_there_is_accepted_and_nothing_of_the_user_s_is_imported(tmp_path: Path) -> None:
    for name in ("net.pt2", "best.pth", "labelled.safetensors"):
        (tmp_path / name).touch()
    program = tmp_path / "runner"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    document = {
        "models": ["edgevit_xxs", "smallest", "none:such", "timm/resnet18", "net.pt2"],
        "targets": ["onnx"],
        "model": {"edgevit_xxs": {"weights": "timm"}, "none:such": {"weights": "best.pth"}},
        "accuracy": {"data": "labelled.safetensors"},
        "latency": {"pairs": 8, "runner": str(program)},
    }
    require(make_recipe(document, tmp_path))
