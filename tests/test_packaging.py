"""The wheel: one namespace, nothing beside it, and a program that works from it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _tracked_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("the wheel is built from a clone")
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in _tracked_files():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source]
    subprocess.run(build, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    target = wheel.parent / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", target, wheel]
    subprocess.run(pip, check=True, capture_output=True)
    return target


def test_it_holds_one_namespace(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"deploy_kit"}
    for part in ("models/edgevit.py", "exporters/onnx.py", "exporters/mobile/worker.py", "benchmarks/__init__.py"):
        assert f"deploy_kit/{part}" in names
    assert "deploy_kit/py.typed" in names


def test_every_python_file_of_the_package_is_in_it(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for tracked in _tracked_files():
        folder = tracked.split("/")[0]
        if tracked.endswith(".py") and folder in ("deploy_kit", "models", "exporters", "benchmarks"):
            assert (tracked if folder == "deploy_kit" else f"deploy_kit/{tracked}") in names


def test_an_artifact_can_be_made_from_it(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.GELU(), nn.Flatten(), "
        "nn.LazyLinear(10))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    where = [sys.executable, "-c", "import deploy_kit.models; print(deploy_kit.models.__file__)"]
    shown = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.startswith(str(installed))
    command = [sys.executable, installed / "bin" / "deploykit", "export", "mine:net", "--target", "onnx"]
    done = subprocess.run(
        [*command, "--input-size", "1x3x16x16"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "artifacts" / "mine.net" / "onnx" / "manifest.json").is_file()
