"""The workflow examples, what ``deploykit init`` writes, and the hook that we offer, all run as they stand: on a
project that nothing has changed of, and on one with a regression. `tests.workflows` says how.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from deploy_kit.check.findings import CheckReport
from deploy_kit.init import PRE_COMMIT, WORKFLOW
from tests.support import once
from tests.test_action import EXAMPLES
from tests.workflows import Ended, Machine, Workflow, environment, run_gitlab, run_hook

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("bash") is None or shutil.which("git") is None, reason="needs bash, git"),
]

NET = """from torch import nn


def net():
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(392, 10))
"""
CELL = "net:net/onnx/fp32"
SKIPPED = "name: Nothing\n        uses: actions/setup-python@v6\n        if: ${{ failure() }}"


def _make(folder: Path) -> None:
    """A repository by the steps of the docs' start, with what its main branch has in the cache."""
    project, home, programs = (folder / name for name in ("project", "home", "programs"))
    project.mkdir()
    home.mkdir()
    (project / "net.py").write_text(NET)
    (project / "requirements.txt").write_text("torch\n")
    variables = environment(home, programs)
    variables["PATH"] = f"{Path(sys.executable).parent}:{variables['PATH']}"
    for command in (
        "deploykit init net:net --target onnx --input-size 1x3x16x16 --pre-commit",
        "deploykit check --update-baseline",
        "git init --quiet --initial-branch main .",
    ):
        subprocess.run(command.split(), cwd=project, env=variables, check=True)
    _commit(project)


def _commit(project: Path) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "add", "--all"], cwd=project, check=True)
    subprocess.run(["git", *who, "commit", "--quiet", "--message", "a change"], cwd=project, check=True)


@pytest.fixture
def machine(shared: Path, tmp_path: Path) -> Iterator[Machine]:
    """One that keeps what the main branch exported: GitHub's and GitLab's cache, and a developer's own."""
    made = once(shared, "workflows", _make)
    found = Machine(tmp_path, tmp_path / "project")
    shutil.copytree(made / "project", found.repository)
    cache = made / "home" / ".cache" / "deploykit"
    for place in (found.kept / "deploykit-Linux-X64-main-1" / "0", found.kept / "deploykit" / ".cache" / "deploykit"):
        shutil.copytree(cache, place)
    shutil.copytree(cache, found.home / ".cache" / "deploykit")
    yield found
    shutil.rmtree(tmp_path, ignore_errors=True)


def _break(machine: Machine, old: str = "    return", new: str = "    raise ValueError('broken')\n    return") -> None:
    """Commit a model that no longer exports, or another change."""
    path = machine.repository / "net.py"
    path.write_text(path.read_text().replace(old, new))
    _commit(machine.repository)


def _github(text: str, machine: Machine) -> Ended:
    """A workflow that checks; its report is there whatever it finds."""
    run = Workflow(text, machine).run()
    for report in run.uploaded.get("deploykit-report", []):
        found = CheckReport.model_validate_json(report.read_text())
        assert found.passed is not run.failed
        assert CELL in run.summary.replace("\\", "")  # Markdown's
        assert ("::error" in run.log) is run.failed
        assert list(machine.kept.glob(f"*-{machine.runs}-1/0/*"))  # what this run exported, too
    return Ended(run.failed, run.log, run.workspace)


def _gitlab(text: str, machine: Machine) -> Ended:
    ended = run_gitlab(text, machine)
    report = ended.workspace / "deploykit-junit.xml"
    if report.exists():
        failures = list(ElementTree.parse(report).getroot().iter("failure"))
        assert bool(failures) is ended.failed
    return ended


def _hook(text: str, machine: Machine) -> Ended:
    """The branch is pushed where the hook passes, and only there."""
    ended = run_hook(text, machine)
    branches = subprocess.run(["git", "branch"], cwd=machine.repository, capture_output=True, text=True, check=True)
    assert ("pushed-" not in branches.stdout) is ended.failed
    return ended


CHECKS: dict[str, tuple[Path, Callable[[str, Machine], Ended]]] = {
    "pull-request": (EXAMPLES / "pull-request.yml", _github),
    "gitlab": (EXAMPLES / "gitlab-ci.yml", _gitlab),
    "hook": (EXAMPLES / ".pre-commit-config.yaml", _hook),
    "workflow of init": (WORKFLOW, _github),
    "hook of init": (PRE_COMMIT, _hook),
}
"""What checks a change: its file, in the repository where that is no whole path, and how it is run."""


def _check(name: str, machine: Machine, *changes: tuple[str, str]) -> Ended:
    path, run = CHECKS[name]
    text = (machine.repository / path).read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return run(text, machine)


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_passes_where_nothing_changed_and_takes_it_from_the_cache(name: str, machine: Machine) -> None:
    ended = _check(name, machine)
    assert not ended.failed, ended.log
    assert ended.cached


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_fails_where_the_model_no_longer_exports(name: str, machine: Machine) -> None:
    _break(machine)
    ended = _check(name, machine)
    assert ended.failed, ended.log
    assert "works_to_fails" in ended.log


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("pull-request", "recipe: deploykit.toml", "recipe: deploykit.tml", "there is no recipe"),
        ("pull-request", "targets: executorch,", "targets: executorsh,", "no extra"),
        ("gitlab", "--changed-only", "--changed-ony", "No such option"),
        ("gitlab", "deploy-kit[executorch,", "deploy-kit[executorsh,", "no extra"),
        ("hook", "# args: [lab.toml] ", "args: [lab.toml] ", "there is no recipe"),
        ("workflow of init", "--changed-only", "--changed-ony", "No such option"),
        (
            "workflow of init",
            "name: Set up Python\n        uses: actions/setup-python@v6",
            SKIPPED,
            "python: not set up",
        ),
        ("workflow of init", "deploy-kit", "no-kit", "No matching distribution"),
        ("hook of init", "--changed-only", "--changed-ony", "No such option"),
    ],
)
def test_a_step_that_is_wrong_is_seen(name: str, old: str, new: str, said: str, machine: Machine) -> None:
    """So that what passes above was run."""
    ended = _check(name, machine, (old, new))
    assert ended.failed, ended.log
    assert said in ended.log


@pytest.mark.parametrize("name", ["pull-request", "gitlab", "workflow of init"])
def test_what_a_run_exported_is_there_for_the_next_one_and_a_larger_model_fails(name: str, machine: Machine) -> None:
    shutil.rmtree(machine.kept)
    machine.kept.mkdir()
    first = _check(name, machine)
    assert not first.failed, first.log
    second = _check(name, machine)
    assert not second.failed, second.log
    assert [first.cached, second.cached] == [False, True]
    _break(machine, "nn.Linear(392, 10)", "nn.Linear(392, 64), nn.ReLU(), nn.Linear(64, 10)")
    third = _check(name, machine)
    assert third.failed, third.log
    assert re.search(r"over\s+the\s+tolerance", third.log), third.log


def test_every_night_the_report_has_one_night_more(machine: Machine) -> None:
    text = (EXAMPLES / "nightly-sweep.yml").read_text()
    for night in (1, 2):
        run = Workflow(text, machine).run()
        assert not run.failed, run.log
        (report,) = run.uploaded["deploykit-nightly"]
        assert CELL.split("/")[0] in report.read_text()
        with sqlite3.connect(run.workspace / "deploykit.db") as store:
            assert len(store.execute("select * from deploykit_runs").fetchall()) == night


def test_a_lab_checks_measures_and_keeps_the_reports(machine: Machine) -> None:
    """With this machine in the phone's place, and the lab's deploykit in the python that runs the tests."""
    recipe = (EXAMPLES / "lab.toml").read_text()
    for old, new in (
        (r"^models = .*", 'models = ["net:net"]'),
        (r"^targets = .*", 'targets = ["onnx"]'),
        (r'"adb"', '"local"'),
        (r"^(cores|cool_to|energy) = .*\n", ""),  # what only a phone has
    ):
        recipe, count = re.subn(old, new, recipe, flags=re.MULTILINE)
        assert count
    (machine.repository / "lab.toml").write_text(recipe + '\n[model."net:net"]\ninput_size = "1x3x16x16"\n')
    _commit(machine.repository)
    text = (EXAMPLES / "lab.yml").read_text().replace("/opt/deploykit/bin", str(Path(sys.executable).parent))
    secrets = {"secrets.DEPLOYKIT_STORE": f"sqlite:///{machine.folder}/lab.db"}
    run = Workflow(text, machine, secrets, hosted=False).run()
    assert not run.failed, run.log
    check, report = run.uploaded["deploykit-lab"]
    assert CheckReport.model_validate_json(check.read_text()).passed
    assert "net:net" in report.read_text()
    _break(machine)
    run = Workflow(text, machine, secrets, hosted=False).run()
    assert run.failed
    assert run.ran[-1] == "Keep the reports"
    assert not CheckReport.model_validate_json(run.uploaded["deploykit-lab"][0].read_text()).passed
