"""A workflow of GitHub, a job of GitLab and a hook of pre-commit, run here as they would be there.

Real are the commands, with their environment and files, the expressions and the conditions. In place of what is not
here stand:

- checkout: a clone of the repository, of what is committed alone.
- setup-python: this interpreter; before it there is no python.
- cache: folders that outlive a run, by their keys.
- upload-artifact: a copy of the files; none is a failure, but for ``if-no-files-found: ignore``.
- upload-sarif: a look at the file.
- pip: `tests.pip_stand_in`; ``deploykit`` is there once it was told to install it.
- sudo: nothing.
- deploykit's own action: its steps, by `tests.test_action.Job`, with the same stand-ins.

What a workflow has beyond what is here is refused, so that nothing is passed over in silence.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.test_action import ACTION, EXPRESSION, NAME, ROOT, Job, evaluate

LIMIT = 300
"""Seconds that a command may take."""


@dataclass
class Machine:
    """What outlives a run: the repository, what was kept by keys, and the machine's own HOME."""

    folder: Path
    repository: Path
    kept: Path = field(init=False)
    home: Path = field(init=False)
    runs: int = 0

    def __post_init__(self) -> None:
        self.kept, self.home = self.folder / "kept", self.folder / "home"
        for folder in (self.kept, self.home):
            folder.mkdir(parents=True, exist_ok=True)

    def new(self, name: str) -> Path:
        """An empty folder for this run."""
        folder = self.folder / f"run{self.runs}" / name
        folder.mkdir(parents=True)
        return folder

    def clone(self, workspace: Path) -> None:
        subprocess.run(["git", "clone", "--quiet", self.repository, workspace], check=True)


def environment(home: Path, programs: Path) -> dict[str, str]:
    """One without the python that runs the tests; ``programs`` is what setup-python and pip fill."""
    own = str(Path(sys.executable).parent)
    _program(
        programs / "python",
        f'[ "$1 $2" != "-m pip" ] || {{ shift 2; exec {programs}/pip "$@"; }}\nexec {sys.executable} "$@"',
    )
    _program(programs / "pip", f'exec {sys.executable} {ROOT}/tests/pip_stand_in.py {programs} "$@"')
    system = programs.parent / "system"
    _program(system / "sudo", "")
    for name in ("python", "python3", "pip"):  # so that none of this machine's is taken
        _program(system / name, f"echo {name}: not set up >&2; exit 127")
    kept = {name: value for name, value in os.environ.items() if not re.match("GITHUB_|XDG_|CI_|PYTHON|GIT_", name)}
    rest = [part for part in os.environ["PATH"].split(os.pathsep) if part != own]
    path = os.pathsep.join([str(system), *rest])
    offline = {"PIP_NO_INDEX": "1", "PIP_DRY_RUN": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return {**kept, **offline, "HOME": str(home), "PATH": path, "OMP_NUM_THREADS": "1"}


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def _before(environment: dict[str, str], folder: Path | str) -> None:
    environment["PATH"] = f"{folder}{os.pathsep}{environment['PATH']}"


class Workflow:
    """A run of a workflow that has one job: what it did, and what became of it.

    ``known`` is what the names of expressions mean, beyond GitHub's own. ``hosted`` is a machine of GitHub's, which has
    an empty HOME.
    """

    def __init__(self, text: str, machine: Machine, known: dict[str, str] | None = None, *, hosted: bool = True):
        machine.runs += 1
        self.machine, self.document = machine, yaml.safe_load(text)
        self.workspace, self.temporary, self.programs = (machine.new(name) for name in ("work", "temp", "programs"))
        self.home = machine.new("home") if hosted else machine.home
        self.environment = environment(self.home, self.programs)
        runner = {"runner.os": "Linux", "runner.arch": "X64", "runner.temp": str(self.temporary)}
        github = {"ref": "refs/pull/1/merge", "event_name": "pull_request", "run_id": str(machine.runs)}
        github |= {"run_attempt": "1"}
        self.known = runner | {f"github.{name}": value for name, value in github.items()} | (known or {})
        self.uploaded: dict[str, list[Path]] = {}
        self.ran: list[str] = []
        self.summary, self.log, self.failed = "", "", False
        self._last: list[Callable[[], None]] = []

    def run(self) -> Workflow:
        assert set(self.document) <= {"name", True, "permissions", "concurrency", "jobs"}  # True is YAML's `on`
        for value in self.document.get("concurrency", {}).values():
            self._fill(str(value))
        ((name, job),) = self.document["jobs"].items()
        assert set(job) <= {"runs-on", "timeout-minutes", "steps"}
        self.known["github.job"] = name
        for step in job["steps"]:
            assert set(step) <= {"name", "id", "if", "uses", "with", "run", "env"}, step
            condition = step.get("if", "success()")
            found = EXPRESSION.fullmatch(condition)
            asks = re.search(r"\b(always|failure)\(\)", condition)
            if (self.failed and not asks) or self._value(found[1] if found else condition) != "true":
                continue
            self.ran.append(step["name"])
            self._uses(step) if "uses" in step else self._command(step)
            self.known[f"steps.{step.get('id')}"] = ""
        return self

    def _value(self, expression: str) -> str:
        for name in NAME.findall(expression):
            step = re.match(r"steps\.[\w-]+", name)
            known = name in self.known or (step and step[0] in self.known) or name.startswith("github.event.")
            assert known, f"{name} is of nothing that is here"
        return evaluate(expression, self.known, failed=self.failed)

    def _fill(self, text: str) -> str:
        return EXPRESSION.sub(lambda match: self._value(match[1]), text)

    def _command(self, step: dict[str, Any]) -> None:
        script = self.temporary / "script.sh"
        script.write_text(step["run"])
        names = ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH", "GITHUB_STEP_SUMMARY")
        files = {name: self.temporary / name for name in names}
        for path in files.values():
            path.write_text("")
        github = {**files, "GITHUB_WORKSPACE": self.workspace, "RUNNER_TEMP": self.temporary, "GITHUB_ACTIONS": "true"}
        given = {name: self._fill(str(value)) for name, value in step.get("env", {}).items()}
        variables = {**self.environment, **{name: str(value) for name, value in github.items()}, **given}
        code, said = _run(["bash", "-e", script], self.workspace, variables)
        self.log += f"# {step['name']}\n{said}"
        self.failed |= code != 0
        self.environment |= _pairs(files["GITHUB_ENV"])
        for folder in files["GITHUB_PATH"].read_text().splitlines():
            _before(self.environment, folder)
        self.summary += files["GITHUB_STEP_SUMMARY"].read_text()
        for name, value in _pairs(files["GITHUB_OUTPUT"]).items():
            self.known[f"steps.{step.get('id')}.outputs.{name}"] = value

    def _uses(self, step: dict[str, Any]) -> None:
        given = {name: self._fill(str(value)) for name, value in step.get("with", {}).items()}
        name = step["uses"].split("@")[0]
        if name != "OWNER/deploykit":
            self.act(name, given)
            return
        job = Job(self.workspace, given, self.environment, apart=True, act=self.act, run_id=str(self.machine.runs))
        job.run()
        self.log += job.log
        self.failed |= job.failed
        summary = self.workspace / "temp" / "summary"
        self.summary += summary.read_text() if summary.exists() else ""
        for output in ACTION["outputs"]:
            self.known[f"steps.{step.get('id')}.outputs.{output}"] = job.output(output)

    def act(self, name: str, given: dict[str, str]) -> None:
        """What stands in for an action."""
        stands_in = {
            "actions/checkout": self._checkout,
            "actions/setup-python": self._python,
            "actions/cache/restore": self._restore,
            "actions/cache/save": self._save,
            "actions/upload-artifact": self._upload,
            "github/codeql-action/upload-sarif": self._sarif,
        }
        stands_in[name](given)

    def _checkout(self, given: dict[str, str]) -> None:
        assert not given
        self.machine.clone(self.workspace)

    def _python(self, given: dict[str, str]) -> None:
        assert set(given) == {"python-version"}
        assert re.fullmatch(r"3\.\d+", given["python-version"])
        _before(self.environment, self.programs)

    def _places(self, given: dict[str, str]) -> list[Path]:
        places = [path.strip().replace("~", str(self.home), 1) for path in given["path"].splitlines()]
        assert not any(re.search(r"[*?!]", path) for path in places)
        return [self.workspace / path for path in places]

    def _restore(self, given: dict[str, str]) -> None:
        assert set(given) <= {"path", "key", "restore-keys"}
        there = sorted(self.machine.kept.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for start in (given["key"], *given.get("restore-keys", "").split()):
            for kept in there:
                if kept.name == start or (kept.name.startswith(start) and start != given["key"]):
                    for number, place in enumerate(self._places(given)):
                        _copy(kept / str(number), place)
                    return

    def _save(self, given: dict[str, str]) -> None:
        assert set(given) <= {"path", "key"}
        kept = self.machine.kept / given["key"]
        if not kept.exists():  # a key is never written twice
            kept.mkdir()
            for number, place in enumerate(self._places(given)):
                _copy(place, kept / str(number))

    def _upload(self, given: dict[str, str]) -> None:
        assert set(given) <= {"name", "path", "if-no-files-found"}
        assert given["name"] not in self.uploaded, "an artifact of this name is there"
        found = [path for path in self._places(given) if path.is_file()]
        if not found and given.get("if-no-files-found") != "ignore":
            self.failed = True
            self.log += f"no file is to be uploaded as {given['name']}\n"
        self.uploaded[given["name"]] = found

    def _sarif(self, given: dict[str, str]) -> None:
        assert set(given) <= {"sarif_file", "category"}
        assert self.document["permissions"]["security-events"] == "write"
        assert json.loads(Path(given["sarif_file"]).read_text())["version"] == "2.1.0"


def _pairs(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


def _copy(source: Path, place: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, place, dirs_exist_ok=True)
    elif source.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, place)


def _run(command: list[str | Path], where: Path, variables: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run(
        command,
        cwd=where,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    return done.returncode, done.stdout


@dataclass
class Ended:
    """What a job of GitLab or a hook did: whether it failed, what it said, and where."""

    failed: bool
    log: str
    workspace: Path

    @property
    def cached(self) -> bool:
        """Whether the check of one cell found it in the cache."""
        return "1 of them unchanged" in self.log


def run_gitlab(text: str, machine: Machine) -> Ended:
    """Run the one job of a ``.gitlab-ci.yml``, in its image, which has python and pip."""
    (job,) = yaml.safe_load(text).values()
    parts = {"image", "timeout", "variables", "cache", "before_script", "script", "artifacts", "rules"}
    assert set(job) <= parts
    machine.runs += 1
    workspace, programs, home = (machine.new(name) for name in ("work", "programs", "home"))
    machine.clone(workspace)
    variables = environment(home, programs) | {"CI_PROJECT_DIR": str(workspace), "GITLAB_CI": "true", "CI": "true"}
    _before(variables, programs)
    for name, value in job["variables"].items():
        variables[name] = re.sub(r"\$(\w+)", lambda match: variables[match[1]], value)
    kept = machine.kept / job["cache"]["key"]
    for path in job["cache"]["paths"]:
        _copy(kept / path, workspace / path)
    lines = "\n".join([*job["before_script"], *job["script"]])
    code, said = _run(["bash", "-eo", "pipefail", "-c", lines], workspace, variables)
    for path in job["cache"]["paths"] if code == 0 or job["cache"]["when"] == "always" else []:
        _copy(workspace / path, kept / path)
    return Ended(code != 0, said, workspace)


def run_hook(config: str, machine: Machine) -> Ended:
    """Push a branch of the repository through the one hook of a ``.pre-commit-config.yaml``, as pre-commit has it run:
    from the root, in the environment of who pushes, with its arguments."""
    (repository,) = yaml.safe_load(config)["repos"]
    (hook,) = repository["hooks"]
    if repository["repo"] != "local":
        offered = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
        (described,) = (each for each in offered if each["id"] == hook["id"])
        assert set(hook.get("stages", [])) <= set(described["stages"])
        hook = described | hook
    parts = {"id", "name", "description", "entry", "args", "language", "pass_filenames", "require_serial", "stages"}
    assert set(hook) <= parts
    assert hook["language"] == "system"
    assert hook["pass_filenames"] is False
    assert "pre-push" in hook["stages"]
    machine.runs += 1
    workspace, programs = machine.new("work"), machine.new("programs")
    machine.clone(workspace)
    command = shlex.join([*shlex.split(hook["entry"]), *hook.get("args", [])])
    _program(workspace / ".git" / "hooks" / "pre-push", f'cd "$(git rev-parse --show-toplevel)" && exec {command}')
    variables = environment(machine.home, programs)
    _before(variables, Path(sys.executable).parent)
    code, said = _run(["git", "push", "origin", f"HEAD:refs/heads/pushed-{machine.runs}"], workspace, variables)
    return Ended(code != 0, said, workspace)
