"""The GitHub Action: what it declares, and its commands, run here in the order and the way in which GitHub runs them;
and workflows, ours and the examples.

What has ``uses:`` is not run but noted, with its values. ``python -m pip install`` and ``sudo`` are programs of the
test that note what they are told; all else is real, but for ``deploykit check`` where a test says so.
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

import pytest
import typer
import yaml

from deploy_kit.cells.recipe import CellSpec, read_recipe
from deploy_kit.cells.result import CellResult
from deploy_kit.check.findings import Checked, CheckReport, Finding, Kind, Level
from deploy_kit.cli.app import app
from deploy_kit.cli.sweep import check as check_sweep
from deploy_kit.init import PRE_COMMIT, WORKFLOW, Start, render
from deploy_kit.outcome import Outcome

ROOT = Path(__file__).resolve().parent.parent
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
NAME = re.compile(r"\b(?:inputs|steps|runner|github|env|secrets|vars|matrix)(?:\.[\w-]+)+")

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the steps are of bash")


def evaluate(expression: str, known: dict[str, str], *, failed: bool) -> str:
    """An expression as GitHub has it: names, strings, ``true``, ``==``, ``!=``, ``&&``, ``||``, ``always()``."""
    python = NAME.sub(lambda match: f"known.get({match[0]!r}, '')", expression)
    python = python.replace("&&", " and ").replace("||", " or ")
    names = {
        "known": known,
        "true": "true",
        "false": "false",
        "always": lambda: True,
        "failure": lambda: failed,
        "success": lambda: not failed,
    }
    value = eval(python, {"__builtins__": {}}, names)
    return {True: "true", False: "false"}.get(value, value)


@dataclass
class Job:
    """A run of the action: what its steps did, and what became of it.

    Python runs in this process, where torch is imported already, or ``apart``, as GitHub does it. ``act`` gets the name
    and the values of what has ``uses:``.
    """

    folder: Path
    inputs: dict[str, str]
    environment: dict[str, str]
    apart: bool = False
    act: Callable[[str, dict[str, str]], None] = lambda name, values: None
    run_id: str = "7"
    known: dict[str, str] = field(default_factory=dict)
    used: dict[str, dict[str, str]] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    log: str = ""
    failed: bool = False

    def run(self) -> Job:
        defaults = {name: str(described.get("default", "")) for name, described in ACTION["inputs"].items()}
        assert set(self.inputs) <= set(defaults)
        self.known = {f"inputs.{name}": value for name, value in (defaults | self.inputs).items()}
        self.known |= {
            "runner.os": "Linux",
            "runner.arch": "X64",
            "github.run_id": self.run_id,
            "github.run_attempt": "1",
        }
        self.known["github.job"] = "models"
        for step in STEPS:
            condition = step.get("if", "${{ success() }}")
            asks = "always()" in condition or "failure()" in condition
            if (self.failed and not asks) or self._fill(condition) != "true":
                continue
            self.ran.append(step["name"])
            if "uses" in step:
                name, values = step["uses"].split("@")[0], {n: self._fill(v) for n, v in step["with"].items()}
                self.used[name] = values
                self.act(name, values)
            else:
                self._command(step)
        return self

    def output(self, name: str) -> str:
        return self._fill(ACTION["outputs"][name]["value"])

    def _fill(self, text: str) -> str:
        return EXPRESSION.sub(lambda match: evaluate(match[1], self.known, failed=self.failed), text)

    def _command(self, step: dict[str, Any]) -> None:
        temporary = self.folder / "temp"
        temporary.mkdir(exist_ok=True)
        script, output, summary = (temporary / name for name in ("script", "output", "summary"))
        script.write_text(step["run"], encoding="utf-8")
        output.write_text("", encoding="utf-8")
        shells = {"bash": ["bash", "--noprofile", "--norc", "-eo", "pipefail", script], "python": ["python", script]}
        github = {"GITHUB_OUTPUT": output, "GITHUB_STEP_SUMMARY": summary, "RUNNER_TEMP": temporary}
        github |= {"GITHUB_ACTION_PATH": ROOT, "GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": self.folder}
        values = {name: self._fill(value) for name, value in step.get("env", {}).items()}
        where = self.folder / self._fill(step.get("working-directory", "."))
        environment = {**self.environment, **{name: str(value) for name, value in github.items()}, **values}
        if step["shell"] == "python" and not self.apart:
            with pytest.MonkeyPatch.context() as patch:
                for name, value in environment.items():
                    patch.setenv(name, str(value))
                patch.chdir(where)
                exec(step["run"], {})
        else:
            done = subprocess.run(
                shells[step["shell"]], cwd=where, env=environment, capture_output=True, text=True, check=False
            )
            self.log += f"# {step['name']}\n{done.stdout}{done.stderr}"
            self.failed |= done.returncode != 0
        for line in output.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition("=")
            self.known[f"steps.{step['id']}.outputs.{name}"] = value


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with a model of its own."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "net.py").write_text(
        "from torch import nn\n\n\n"
        "def net():\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))\n"
    )
    (folder / "deploykit.toml").write_text(
        'models = ["net:net"]\ntargets = ["onnx"]\n\n[model."net:net"]\ninput_size = "1x3x16x16"\n'
    )
    return folder


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One where pip and sudo do nothing but note what they are told, in ``calls``."""
    programs, calls = tmp_path / "programs", tmp_path / "calls"
    note = f'[ "$1 $2" != "-m pip" ] || {{ printf "%s\\n" "$@" >> {calls}; exit 0; }}\n'
    _program(programs / "python", f'{note}exec {sys.executable} "$@"')
    _program(programs / "sudo", f'printf "%s\\n" "$@" >> {calls}')
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")}
    return {**kept, "PATH": path, "XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def _report(*found: Finding) -> CheckReport:
    cell = CellSpec(model="net:net", target="onnx", precision="fp32")
    result = CellResult(cell=cell, outcome=Outcome.OK, seconds=1.0, created="2026-01-01T00:00:00+00:00")
    checked = Checked(result=result, findings=list(found), key="0", cached=False)
    return CheckReport(created="2026-01-01T00:00:00+00:00", commit=None, baseline=None, seconds=1.0, cells=[checked])


def _pretend(environment: dict[str, str], report: CheckReport | None, code: int) -> None:
    """``deploykit`` as a program that notes what it is told, writes this report and ends with this code."""
    programs = Path(environment["PATH"].split(os.pathsep)[0])
    (programs / "report.json").write_text("" if report is None else report.model_dump_json())
    copy = "" if report is None else f'cp {programs}/report.json "$5"\n'  # what --out names
    _program(programs / "deploykit", f'printf "%s\\n" "$@" > {programs.parent}/checked\n{copy}exit {code}')


def _told(environment: dict[str, str], name: str) -> list[str]:
    path = Path(environment["PATH"].split(os.pathsep)[0]).parent / name
    return path.read_text().splitlines() if path.exists() else []


WORSE = Finding(kind=Kind.SIZE, level=Level.ERROR, cell="net:net/onnx/fp32", message="20% larger", fix="look at it")
ODD = Finding(kind=Kind.GONE_CELL, level=Level.WARNING, cell="net:net/onnx/fp32", message="gone")


# What it declares.


def test_every_step_is_named_and_is_either_an_action_of_a_major_version_or_a_command() -> None:
    for step in STEPS:
        assert step["name"]
        assert ("uses" in step) != ("run" in step)
        assert re.fullmatch(r"[\w-]+(/[\w-]+)+@v\d+", step["uses"]) if "uses" in step else step["shell"]


def test_expressions_name_what_there_is_and_never_stand_in_a_command() -> None:
    before: set[str] = {f"inputs.{name}" for name in ACTION["inputs"]}
    before |= {"runner.os", "runner.arch", "github.job", "github.run_id", "github.run_attempt"}
    for step in STEPS:
        assert not EXPRESSION.search(step.get("run", "")), step["name"]
        asked = NAME.findall(json.dumps({name: value for name, value in step.items() if name != "run"}))
        assert set(asked) <= before, step["name"]
        before |= {f"steps.{step.get('id')}.outputs.{name}" for name in re.findall(r"(\w+)=", step.get("run", ""))}
    for output in ACTION["outputs"].values():
        assert set(NAME.findall(output["value"])) <= before
    used = json.dumps([{name: value for name, value in step.items() if name != "run"} for step in STEPS])
    assert {f"inputs.{name}" for name in ACTION["inputs"]} <= set(NAME.findall(used))


def test_every_variable_of_a_command_is_given_to_it() -> None:
    always = {"GITHUB_OUTPUT", "GITHUB_ACTION_PATH", "RUNNER_TEMP", "HOME", "XDG_CACHE_HOME"}
    for step in STEPS:
        named = set(re.findall(r"""\$\{?([A-Z_]{2,})|environ\["([A-Z_]+)"\]""", step.get("run", "")))
        assert {first or second for first, second in named} <= always | set(step.get("env", {})), step["name"]


# Its commands.


def test_it_installs_torch_first_then_itself_with_the_targets_that_are_asked_for(
    project: Path, environment: dict[str, str]
) -> None:
    _pretend(environment, _report(), 0)
    (project / "requirements.txt").touch()
    inputs = {"targets": "coreml, executorch", "requirements": "requirements.txt", "system-packages": "python3-torch b"}
    job = Job(project, inputs, environment).run()
    assert not job.failed, job.log
    told = _told(environment, "calls")
    assert told[told.index("--") :][:3] == ["--", "python3-torch", "b"]
    (torch,) = (word for word in told if word.startswith("torch=="))
    assert f'"{torch}"' in (ROOT / "pyproject.toml").read_text()
    assert told[told.index("--index-url") + 1] == "https://download.pytorch.org/whl/cpu"
    assert told.index(torch) < told.index(f"{ROOT}[coreml,executorch]") < told.index("requirements.txt")


def test_the_check_gets_the_inputs(project: Path, environment: dict[str, str]) -> None:
    _pretend(environment, _report(), 0)
    job = Job(project, {"recipe": "a.toml", "baseline": "b.json"}, environment).run()
    told = _told(environment, "checked")
    assert told[0] == "check"
    assert "--baseline=b.json" in told
    assert "--changed-only" in told
    assert told[-2:] == ["--", "a.toml"]
    assert job.used["actions/cache/restore"]["path"] == f"{environment['XDG_CACHE_HOME']}/deploykit"
    assert job.used["actions/cache/restore"]["key"] == job.used["actions/cache/save"]["key"]
    for prefix in job.used["actions/cache/restore"]["restore-keys"].split():
        assert job.used["actions/cache/save"]["key"].startswith(prefix)
    Job(project, {"changed-only": "false"}, environment).run()
    assert "--changed-only" not in _told(environment, "checked")
    assert not [word for word in _told(environment, "checked") if word.startswith("--baseline")]


@pytest.mark.parametrize(
    ("found", "fail_on", "passed", "failed"),
    [
        ([], "error", "true", False),
        ([WORSE], "error", "false", True),
        ([ODD], "error", "true", False),
        ([ODD], "warning", "false", True),
        ([WORSE], "never", "false", False),
        ([ODD], "never", "true", False),
    ],
)
def test_what_is_found_decides_as_fail_on_says(
    project: Path, environment: dict[str, str], found: list[Finding], fail_on: str, passed: str, failed: bool
) -> None:
    report = _report(*found)
    _pretend(environment, report, 0 if report.passed else 1)
    job = Job(project, {"fail-on": fail_on, "sarif": "true"}, environment).run()
    assert (job.output("passed"), job.failed) == (passed, failed), job.log
    assert CheckReport.model_validate_json(Path(job.output("report")).read_text()) == report
    assert job.used["actions/upload-artifact"]["path"] == job.output("report")
    sarif = json.loads(Path(job.used["github/codeql-action/upload-sarif"]["sarif_file"]).read_text())
    assert len(sarif["runs"][0]["results"]) == len(found)


def test_a_mistake_of_the_user_always_fails(project: Path, environment: dict[str, str]) -> None:
    _pretend(environment, None, 2)
    job = Job(project, {"fail-on": "never"}, environment).run()
    assert job.failed
    assert job.output("passed") == "false"
    assert job.output("report") == ""
    assert "Upload the report" not in job.ran
    assert "actions/cache/save" in job.used  # what was done before it was cut off, too


@pytest.mark.parametrize(("format", "ending"), [("junit", "xml"), ("markdown", "md"), ("sarif", "sarif")])
def test_the_report_has_the_format_that_is_asked_for(
    project: Path, environment: dict[str, str], format: str, ending: str
) -> None:
    _pretend(environment, _report(WORSE), 1)
    job = Job(project, {"format": format}, environment).run()
    assert job.output("report").endswith(f".{ending}")
    assert "20% larger" in Path(job.output("report")).read_text()


def test_findings_are_where_the_file_is_in_the_repository(project: Path, environment: dict[str, str]) -> None:
    folder = project / "mobile"
    folder.mkdir()
    (folder / "deploykit-baseline.json").write_text('{\n "net:net/onnx/fp32": {\n }\n}\n')
    report = _report(WORSE).model_copy(update={"baseline": "deploykit-baseline.json"})
    _pretend(environment, report, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GITHUB_WORKSPACE", str(project))
        job = Job(project, {"working-directory": "mobile", "format": "sarif"}, environment).run()
    (result,) = json.loads(Path(job.output("report")).read_text())["runs"][0]["results"]
    place = result["locations"][0]["physicalLocation"]
    assert (place["artifactLocation"]["uri"], place["region"]["startLine"]) == ("mobile/deploykit-baseline.json", 2)


def test_uses_in_one_job_and_jobs_of_a_matrix_do_not_meet(project: Path, environment: dict[str, str]) -> None:
    _pretend(environment, _report(), 0)
    first, second = (Job(project, {"artifact-name": name}, environment).run() for name in ("a, b", "c"))
    assert first.output("report") != second.output("report")
    assert all(CheckReport.model_validate_json(Path(job.output("report")).read_text()) for job in (first, second))
    keys = [job.used["actions/cache/save"]["key"] for job in (first, second)]
    assert keys == ["deploykit-Linux-X64-models-a--b-7-1", "deploykit-Linux-X64-models-c-7-1"]
    own, anybodys = second.used["actions/cache/restore"]["restore-keys"].split()
    assert (own, anybodys) == ("deploykit-Linux-X64-models-c-", "deploykit-Linux-X64-")


def test_what_is_switched_off_is_not_done(project: Path, environment: dict[str, str]) -> None:
    _pretend(environment, _report(), 0)
    job = Job(project, {"cache": "false", "upload": "false", "python-version": ""}, environment).run()
    assert job.used == {}
    assert not job.failed
    assert "Install system packages" not in job.ran


HOSTILE = """"; touch x; " $(touch x) `touch x` '; touch x; '"""
LOOKED_AT = ("targets", "format", "fail-on")


@pytest.mark.parametrize("value", [HOSTILE, f"a\n::error::x\n{HOSTILE}", "--help"])
def test_a_value_is_never_a_command(project: Path, environment: dict[str, str], value: str) -> None:
    _pretend(environment, _report(), 0)
    given = {name: value for name in ACTION["inputs"] if name not in (*LOOKED_AT, "working-directory")}
    job = Job(project, given, environment).run()
    assert not job.failed, job.log
    assert _told(environment, "checked")[-1] == value.splitlines()[-1]
    for name in LOOKED_AT:
        job = Job(project, {name: value}, environment).run()
        assert (job.failed, job.output("passed")) == (True, "false")
        assert f"the input {name} is not" in job.log
        assert "::error::x" not in job.log
    assert not list(project.parent.rglob("x"))


@pytest.mark.slow
def test_it_passes_and_fails_as_deploykit_check_does(project: Path, environment: dict[str, str]) -> None:
    """With the real check: unchanged, with a value that is hostile, and with a model that no longer exports."""
    update = ["deploykit", "check", "--update-baseline"]
    done = subprocess.run(update, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    job = Job(project, {}, environment, apart=True).run()
    assert (job.output("passed"), job.failed) == ("true", False), job.log
    assert "deploykit check passed" in (project / "temp" / "summary").read_text()

    hostile = Job(project, {"recipe": '"; touch x; "'}, environment).run()
    assert hostile.failed
    assert not (project / "x").exists()

    model = project / "net.py"
    model.write_text(model.read_text().replace("nn.ReLU()", "Broken()") + "\n\nclass Broken(nn.Module):\n    pass\n")
    job = Job(project, {}, environment, apart=True).run()
    assert (job.output("passed"), job.failed) == ("false", True), job.log
    (cell,) = CheckReport.model_validate_json(Path(job.output("report")).read_text()).cells
    assert Kind.WORKS_TO_FAILS in {finding.kind for finding in cell.findings}
    assert "::error" in job.log


# Workflows: the examples, this repository's own, and those that `deploykit init` writes.

EXAMPLES = ROOT / "examples" / "ci"
WRITTEN = render(Start("timm/x", ["executorch", "torchscript-lite"], weights="timm"), ROOT, pre_commit=True)
WORKFLOWS = {
    **{path.name: path.read_text(encoding="utf-8") for path in EXAMPLES.glob("*.yml") if path.name != "gitlab-ci.yml"},
    "ci.yml": (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"),
    "of init": WRITTEN[WORKFLOW],
}


def _steps(name: str) -> list[dict[str, Any]]:
    return [step for job in yaml.safe_load(WORKFLOWS[name])["jobs"].values() for step in job["steps"]]


def _understood(command: str) -> None:
    """Let the command line take a command of deploykit's apart; nothing is run."""
    group = typer.main.get_command(app)
    context = typer.Context(group, info_name="deploykit")
    name, *words = shlex.split(command)[1:]
    group.commands[name].make_context(name, words, parent=context)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_has_steps_that_github_takes_and_may_only_read(name: str) -> None:
    document = yaml.safe_load(WORKFLOWS[name])
    assert document["permissions"]["contents"] == "read"
    assert {"name", True, "jobs"} <= set(document)  # True is what YAML makes of `on`
    for job in document["jobs"].values():
        assert job["timeout-minutes"]
    for step in _steps(name):
        assert step["name"]
        assert ("uses" in step) != ("run" in step)
        if step.get("uses", "").startswith("OWNER/"):
            assert set(step["with"]) <= set(ACTION["inputs"])
        elif "uses" in step:
            assert re.fullmatch(r"[\w-]+(/[\w-]+)+@v\d+", step["uses"])


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_commands_of_a_workflow_can_be_run(name: str) -> None:
    for step in _steps(name):
        command = step.get("run", "")
        assert not EXPRESSION.search(command), step["name"]
        subprocess.run(["bash", "-n", "-c", command], check=True)
        for line in command.splitlines():
            if line.startswith("deploykit "):
                _understood(line)


def test_outputs_that_an_example_reads_are_there() -> None:
    asked = re.findall(r"steps\.deploykit\.outputs\.(\w+)", WORKFLOWS["pull-request.yml"])
    assert set(asked) == set(ACTION["outputs"])


def test_the_example_for_gitlab_checks_and_shows_the_findings() -> None:
    job = yaml.safe_load((EXAMPLES / "gitlab-ci.yml").read_text())["deploykit"]
    (check,) = job["script"]
    _understood(check)
    assert job["artifacts"]["reports"]["junit"] in check
    assert job["artifacts"]["when"] == "always"


def test_examples_install_the_torch_that_deploykit_is_made_for() -> None:
    found = set()
    for path in EXAMPLES.iterdir():
        found |= set(re.findall(r"torch==[\d.]+", path.read_text(encoding="utf-8")))
    (torch,) = found
    assert f'"{torch}"' in (ROOT / "pyproject.toml").read_text()
    assert torch in WORKFLOWS["of init"]


def test_the_example_of_a_lab_is_a_recipe() -> None:
    recipe = read_recipe(EXAMPLES / "lab.toml")
    assert recipe.latency is not None
    assert recipe.bench is not None
    check_sweep(recipe)


def test_hooks_run_the_check_of_what_changed() -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    (example,) = yaml.safe_load((EXAMPLES / ".pre-commit-config.yaml").read_text())["repos"]
    (written,) = yaml.safe_load(WRITTEN[PRE_COMMIT])["repos"]
    assert example["hooks"][0]["id"] == hook["id"] == written["hooks"][0]["id"]
    assert set(example["hooks"][0]["stages"]) <= set(hook["stages"])
    for each in (hook, written["hooks"][0]):
        _understood(each["entry"])
        assert "--changed-only" in each["entry"]
        assert each["pass_filenames"] is False


def test_this_repository_runs_what_a_developer_runs() -> None:
    assert [step["run"] for step in _steps("ci.yml") if "run" in step][-1] == ".ci/run"
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_the_page_on_ci_has_every_input_and_output() -> None:
    page = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    for name in (*ACTION["inputs"], *ACTION["outputs"]):
        assert f"`{name}`" in page
