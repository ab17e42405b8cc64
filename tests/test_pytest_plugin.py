"""The pytest plug-in: cells as tests, with what a check finds of them as failures, and nothing without the option."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from deploy_kit.cells.recipe import CellSpec, Recipe
from deploy_kit.cells.result import CellResult
from deploy_kit.check import engine
from deploy_kit.check.baseline import Baseline, Known, write_baseline
from deploy_kit.check.findings import Checked, Finding, Kind, Level
from deploy_kit.errors import UserError
from deploy_kit.exporters import get_exporter
from deploy_kit.outcome import Outcome

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parent.parent
MODULE = "deploy_kit.pytest_plugin"

RECIPE = """
models = ["a:good", "a:worse", "a:odd", "a:absent"]
targets = ["onnx"]
precisions = ["fp32", "fp16"]
"""
ENDS = ("a:good/onnx/fp32 PASSED*", "a:worse/onnx/fp16 FAILED*", "a:absent/onnx/fp16 SKIPPED (no such runtime)*")
FOUND = {
    "a:worse": (Kind.SIZE, Level.ERROR, "20% larger than before", "shrink it"),
    "a:odd": (Kind.FAILS_OTHERWISE, Level.WARNING, "fails in another way", ""),
    "a:good": (Kind.SIZE, Level.NOTE, "5% smaller than before", ""),
}


@dataclass
class Project:
    """A folder with a test of its own and a recipe, whose cells end as their names say; and what was checked."""

    pytester: pytest.Pytester
    breaks: Exception | None = None
    checked: list[tuple[str, Baseline | None, bool]] = field(default_factory=list)
    shared: list[engine.Shared] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.pytester.path

    def check_cell(
        self,
        cell: CellSpec,
        recipe: Recipe,
        baseline: Baseline | None,
        settings: engine.Settings,
        shared: engine.Shared,
    ) -> Checked:
        self.shared.append(shared)
        self.checked.append((cell.id, baseline, settings.changed_only))
        if self.breaks is not None:
            raise self.breaks
        outcome, reason = (Outcome.UNAVAILABLE, "no such runtime") if cell.model == "a:absent" else (Outcome.OK, None)
        result = CellResult(cell=cell, outcome=outcome, reason=reason, seconds=0.1, created="2026-01-01T00:00:00+00:00")
        findings = []
        if cell.model in FOUND:
            kind, level, message, fix = FOUND[cell.model]
            findings = [Finding(kind=kind, level=level, cell=cell.id, message=message, fix=fix)]
        return Checked(result=result, findings=findings, key="0", cached=False)

    def run(self, *arguments: str) -> pytest.RunResult:
        """pytest in this process, with this plug-in alone: others take seconds to import."""
        return self.pytester.runpytest("-p", MODULE, *arguments)


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delitem(sys.modules, MODULE, raising=False)  # pytest warns of one that the run outside has loaded
    get_exporter("onnx")  # pytester forgets what is first imported in a run, and onnx is not for two imports
    pytester.makepyfile("def test_own(): pass")
    (pytester.path / "deploykit.toml").write_text(RECIPE)
    project = Project(pytester)
    monkeypatch.setattr(engine, "check_cell", project.check_cell)
    return project


def test_the_package_declares_it() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert declared == {"deploykit": MODULE}


def test_each_cell_is_a_test_that_says_what_is_wrong_and_how_to_mend_it(project: Project) -> None:
    result = project.run("--deploykit", "deploykit.toml", "-v")
    result.assert_outcomes(passed=5, failed=2, skipped=2, warnings=2)
    result.stdout.fnmatch_lines([f"deploykit.toml::{end}" for end in ENDS])
    result.stdout.fnmatch_lines(["size: 20% larger than before", "  fix: shrink it"])
    result.stdout.fnmatch_lines(["*fails_otherwise: fails in another way*"])
    result.stdout.no_fnmatch_line("*pytest_plugin.py*")
    result.stdout.no_fnmatch_line("*Traceback*")


def test_cells_are_chosen_as_tests_are(project: Project) -> None:
    result = project.run("--deploykit", "deploykit.toml", "-k", "good and fp16")
    result.assert_outcomes(passed=1, deselected=8)
    project.run("--deploykit", "deploykit.toml", "deploykit.toml::a:odd/onnx/fp32").assert_outcomes(
        passed=1, warnings=1
    )
    project.run("--deploykit", "deploykit.toml", "deploykit.toml").assert_outcomes(
        passed=4, failed=2, skipped=2, warnings=2
    )
    project.checked.clear()
    result = project.run("--deploykit", "deploykit.toml", "-x", "-k", "worse or odd")
    result.assert_outcomes(failed=1, deselected=5)
    assert project.checked == [("a:worse/onnx/fp32", None, False)]
    result = project.run("--deploykit", "deploykit.toml", "--lf")
    result.assert_outcomes(failed=2)


def test_warnings_are_failures_where_they_are_asked_to_be(project: Project) -> None:
    result = project.run("--deploykit", "deploykit.toml", "-W", "error", "-k", "odd and fp32")
    result.assert_outcomes(failed=1, deselected=8)
    result.stdout.fnmatch_lines(["fails_otherwise: fails in another way"])
    result.stdout.no_fnmatch_line("*pytest_plugin.py*")
    own = ("-W", "error", "-W", f"default::{MODULE}.DeployKitWarning")
    result = project.run("--deploykit", "deploykit.toml", *own, "-k", "odd and fp32")
    result.assert_outcomes(passed=1, deselected=8, warnings=1)


def test_a_cell_of_the_baseline_that_is_gone_is_told_once(project: Project) -> None:
    expected = Baseline(
        cells={name: Known(outcome=Outcome.OK, key="0") for name in ("a:good/onnx/fp32", "a:former/onnx/fp32")}
    )
    write_baseline(expected, project.path / "deploykit-baseline.json")
    result = project.run("--deploykit", "deploykit.toml", "-v", "-k", "good or former")
    result.assert_outcomes(passed=2, skipped=1, deselected=7, warnings=1)
    result.stdout.fnmatch_lines(["deploykit.toml::a:former/onnx/fp32 SKIPPED (no longer in the recipe)*"])
    result.stdout.fnmatch_lines(["*gone_cell: is in the baseline (ok), and no longer in the recipe*"])
    assert [name for name, *_ in project.checked] == ["a:good/onnx/fp32", "a:good/onnx/fp16"]


def test_the_cells_of_a_run_share_what_models_compute_and_it_goes_with_the_run(project: Project) -> None:
    project.run("--deploykit", "deploykit.toml", "-k", "good")
    first, second = project.shared
    assert first is second
    assert not first.references.exists()


def test_collecting_alone_checks_nothing(project: Project) -> None:
    result = project.run("--deploykit", "deploykit.toml", "--collect-only", "-q")
    result.stdout.fnmatch_lines(["deploykit.toml::a:good/onnx/fp32", "deploykit.toml::a:absent/onnx/fp16", "9 tests *"])
    assert project.checked == []


def test_each_cell_is_collected_once_wherever_the_recipe_is(project: Project) -> None:
    outside = project.path.parent / f"{project.path.name}-recipes"
    for folder in (outside, project.path / "build"):  # pytest looks into neither
        folder.mkdir()
        (folder / "other.toml").write_text(RECIPE)
    (own,) = (path.name for path in project.path.glob("test_*.py"))
    for recipe in ("deploykit.toml", "build/other.toml", str(outside / "other.toml")):
        for places in ([], [own], ["."]):
            result = project.run("--deploykit", recipe, "--collect-only", "-q", *places)
            result.stdout.fnmatch_lines(["9 tests *"])


def test_the_options_reach_the_check(project: Project) -> None:
    write_baseline(Baseline(cells={}), project.path / "mine.json")
    arguments = ("--deploykit", "deploykit.toml", "-k", "good and fp32", "--deploykit-changed-only")
    project.run(*arguments, "--deploykit-baseline", "mine.json").assert_outcomes(passed=1, deselected=8)
    assert project.checked == [("a:good/onnx/fp32", Baseline(cells={}), True)]


def test_the_baseline_beside_the_recipe_is_found(project: Project) -> None:
    write_baseline(Baseline(cells={}), project.path / "deploykit-baseline.json")
    project.run("--deploykit", "deploykit.toml", "-k", "good and fp32")
    assert project.checked == [("a:good/onnx/fp32", Baseline(cells={}), False)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--deploykit", "none.toml"), "there is no recipe"),
        (("--deploykit", "bad.toml"), "the recipe*has a mistake"),
        (("--deploykit", "wrong.toml"), "there is no target called 'onx'"),
        (("--deploykit", "typo.toml"), "there is no model called 'edgevit_xxz'"),
        (("--deploykit", "deploykit.toml", "--deploykit-baseline", "none.json"), "there is no baseline"),
        (("--deploykit-changed-only",), "means nothing without --deploykit RECIPE"),
    ],
)
def test_a_mistake_in_what_was_asked_for_is_one_of_usage(
    project: Project, arguments: tuple[str, ...], said: str
) -> None:
    (project.path / "bad.toml").write_text("models = []")
    (project.path / "wrong.toml").write_text('models = ["a"]\ntargets = ["onx"]')
    (project.path / "typo.toml").write_text('models = ["edgevit_xxz"]\ntargets = ["onnx"]')
    result = project.run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: *{said}*"])
    result.stderr.no_fnmatch_line("*Traceback*")


def test_an_error_of_deploykit_is_told_and_a_mistake_of_its_own_is_traced(project: Project) -> None:
    arguments = ("--deploykit", "deploykit.toml", "-k", "good and fp32")
    project.breaks = UserError("the disk is odd", fix="mend it")
    result = project.run(*arguments)
    result.assert_outcomes(failed=1, deselected=8)
    result.stdout.fnmatch_lines(["the disk is odd", "  fix: mend it"])
    result.stdout.no_fnmatch_line("*pytest_plugin.py*")
    project.breaks = RuntimeError("a mistake of ours")
    project.run(*arguments).stdout.fnmatch_lines(["*RuntimeError: a mistake of ours"])


def test_without_the_option_it_is_as_if_it_were_not_there(project: Project) -> None:
    project.run().assert_outcomes(passed=1)
    assert project.checked == []


def test_it_costs_nothing_where_it_is_not_asked_for() -> None:
    """Beside pytest it brings in nothing but this package's own empty one."""
    program = (
        f"import sys, pytest\nbefore = set(sys.modules)\nimport {MODULE}\nprint(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["deploy_kit", MODULE]


@pytest.mark.slow
def test_two_workers_share_one_cache(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real check, in two processes of pytest-xdist: first cold, then from the cache."""
    recipe = 'models = ["tests.support:tiny"]\ntargets = ["onnx"]\nprecisions = ["fp32", "fp16"]\n'
    recipe += '[model."tests.support:tiny"]\ninput_size = "1x3x32x32"\n'
    (pytester.path / "deploykit.toml").write_text(recipe)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XDG_CACHE_HOME", str(pytester.path / "cache"))
    installed = "deploykit" in entry_points(group="pytest11").names  # or deploykit was, before there was a plug-in
    arguments = [
        *([] if installed else ["-p", MODULE]),
        "-n",
        "2",
        "--deploykit",
        "deploykit.toml",
        "--deploykit-changed-only",
        "-v",
    ]
    pytester.runpytest_subprocess(*arguments).assert_outcomes(passed=2, warnings=2)
    kept = {path: path.read_bytes() for path in (pytester.path / "cache").rglob("*.json")}
    assert kept
    pytester.runpytest_subprocess(*arguments).assert_outcomes(passed=2, warnings=2)
    assert {path: path.read_bytes() for path in kept} == kept  # a cell that is exported again says when
