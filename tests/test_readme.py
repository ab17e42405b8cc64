"""Every command and every link of the README, tried."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def _commands() -> list[str]:
    lines = [line.split("#")[0].strip() for block in _blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line]


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.slow
def test_its_deploykit_commands_work_in_the_order_shown(tmp_path: Path) -> None:
    Image.fromarray(load_sample_image("china.jpg")).save(tmp_path / "photo.jpg")
    commands = [command for command in _commands() if command.startswith("deploykit")]
    assert {command.split()[1] for command in commands} >= {"export", "fuse", "verify", "inspect", "run", "doctor"}
    for command in commands:
        done = subprocess.run(command.split(), cwd=tmp_path, env=_environment(), capture_output=True, text=True)
        disturbed = command.startswith("deploykit bench") and done.returncode == 1 and "note: " in done.stderr
        assert done.returncode == 0 or disturbed, f"{command}\n{done.stdout}{done.stderr}"


@pytest.mark.xdist_group("readme")
def test_its_python_works(tmp_path: Path) -> None:
    (program,) = _blocks("python")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "rewrites" in done.stdout


def test_its_set_up_is_two_make_commands_that_exist() -> None:
    makes = [command for command in _commands() if command.startswith("make")]
    assert makes == ["make edgevit_s", "make test"]
    for command in [*makes, "make device-test", "make lab-test", "make docs", "make benchmark"]:
        done = subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_its_links_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *ROOT.glob("*/README.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            assert link.startswith("http") or (document.parent / link).exists(), f"{document.name}: {link}"


@pytest.mark.skipif(shutil.which("bash") is None, reason="the set-up is a bash script")
def test_the_set_up_scripts_parse() -> None:
    for script in (ROOT / "scripts").glob("*.sh"):
        subprocess.run(["bash", "-n", script], check=True)
