from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy_kit.artifact import Artifact
from deploy_kit.cells.recipe import CellSpec, Recipe, make_recipe
from deploy_kit.cells.result import CellResult
from deploy_kit.check import engine
from deploy_kit.check.baseline import Baseline
from deploy_kit.check.cache import size_of
from deploy_kit.check.engine import Settings, check, check_cell, new_baseline, open_cache, tidy
from deploy_kit.check.findings import Finding, Kind, Level
from deploy_kit.check.latency import Timing
from deploy_kit.errors import DeployKitError
from deploy_kit.outcome import Outcome
from tests.check.fakes import failing, working
from tests.check.test_latency import SLOWER, Compared, other

Make = Callable[[CellSpec], CellResult]


class Exports:
    """Stands for exports: makes results, with an artifact where they work, and counts what was asked for."""

    def __init__(self, artifact: Artifact):
        self.artifact = artifact
        self.asked: list[str] = []
        self.how: list[dict[str, Any]] = []
        self.folders: set[Path] = set()
        self.make: Make = lambda cell: working(cell)

    def __call__(self, cell: CellSpec, folder: Path, **how: Any) -> CellResult:
        self.asked.append(cell.id)
        self.how.append(how)
        self.folders.add(folder)
        result = self.make(cell)
        if result.works:
            shutil.copytree(self.artifact.folder, folder)
        return result


@pytest.fixture
def exports(tiny_onnx: Artifact, monkeypatch: pytest.MonkeyPatch) -> Exports:
    stands = Exports(tiny_onnx)
    monkeypatch.setattr(engine, "run_cell", stands)
    return stands


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache_folder=tmp_path / "cache", changed_only=True)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        Path(f"net_{name}.py").write_text("x = 1\n")
    return make_recipe({"models": ["net_a:net", "net_b:net"], "targets": ["onnx"]}, tmp_path)


A, B = "net_a:net/onnx/fp32", "net_b:net/onnx/fp32"


def test_what_has_not_changed_is_not_exported_again(recipe: Recipe, settings: Settings, exports: Exports) -> None:
    cold = check(recipe, None, settings)
    assert sorted(exports.asked) == [A, B]
    baseline = new_baseline(cold, recipe, None, settings)
    exports.asked.clear()
    warm = check(recipe, baseline, settings)
    assert exports.asked == []
    assert [(each.result.cell.id, each.cached, each.findings) for each in warm.cells] == [(A, True, []), (B, True, [])]
    assert all(each.artifact is not None and each.artifact.is_dir() for each in warm.cells)
    Path("net_a.py").write_text("x = 2\n")
    after = check(recipe, baseline, settings)
    assert exports.asked == [A]
    assert [each.cached for each in after.cells] == [False, True]


def test_without_changed_only_everything_is_exported_again(
    recipe: Recipe, settings: Settings, exports: Exports
) -> None:
    check(recipe, None, settings)
    check(recipe, None, Settings(cache_folder=settings.cache_folder))
    assert sorted(exports.asked) == [A, A, B, B]


def saves_while_exporting(exports: Exports, text: str, file: str = "net_a.py") -> None:
    """The next export has read its files when one of them is saved with another text."""

    def make(cell: CellSpec) -> CellResult:
        if cell.id == A:
            Path(file).write_text(text)
        return working(cell)

    exports.make = make


@pytest.mark.parametrize("changed_only", [True, False])
def test_a_cell_whose_files_change_while_it_is_exported_is_of_no_state(
    changed_only: bool, recipe: Recipe, settings: Settings, exports: Exports
) -> None:
    baseline = new_baseline(check(recipe, None, settings), recipe, None, settings)
    shutil.rmtree(settings.cache_folder)
    saves_while_exporting(exports, "x = 2\n")
    asked = Settings(settings.cache_folder, changed_only=changed_only)
    report = check(recipe, baseline, asked)
    (finding,) = report.all_findings
    assert (finding.kind, finding.level, finding.cell) == (Kind.NOT_COMPARED, Level.ERROR, A)
    assert "changed while it was exported" in finding.message
    assert "--changed-only" in finding.fix
    assert not report.passed
    first = report.cells[0]
    assert (first.result.works, first.artifact) == (False, None)
    with pytest.raises(DeployKitError, match="changed while") as raised:
        new_baseline(report, recipe, baseline, settings)
    assert raised.value.fix
    # Neither state has it in the cache, and the next check tries the cell again.
    exports.make = lambda cell: working(cell, bytes=9_000_000 if cell.id == A else 1_000_000)
    for text in ("x = 1\n", "x = 2\n"):
        Path("net_a.py").write_text(text)
        exports.asked.clear()
        (finding,) = check(recipe, baseline, settings).all_findings
        assert (finding.kind, finding.cell) == (Kind.SIZE, A)
        assert exports.asked == [A]


def test_a_cell_that_waits_is_kept_by_what_its_files_are_when_it_is_exported(
    recipe: Recipe, settings: Settings, exports: Exports
) -> None:
    saves_while_exporting(exports, "x = 2\n", "net_b.py")
    one = Settings(settings.cache_folder, changed_only=True, jobs=1)
    assert [each.artifact is not None for each in check(recipe, None, one).cells] == [True, True]
    exports.asked.clear()
    check(recipe, None, settings)
    assert exports.asked == []
    Path("net_b.py").write_text("x = 1\n")
    check(recipe, None, settings)
    assert exports.asked == [B]


def test_what_a_model_computes_is_of_the_files_that_it_has_then(
    settings: Settings, exports: Exports, recipe: Recipe
) -> None:
    two = make_recipe({"models": ["net_a:net"], "targets": ["onnx", "openvino"], "jobs": 1}, Path.cwd())
    check(two, None, settings)
    first, second = (how["references"] for how in exports.how)
    assert first == second
    shutil.rmtree(settings.cache_folder)
    exports.how.clear()

    def make(cell: CellSpec) -> CellResult:
        exports.how[-1]["references"].touch()
        if cell.target == "onnx":
            Path("net_a.py").write_text("x = 2\n")
        return working(cell)

    exports.make = make
    check(two, None, settings)
    first, second = (how["references"] for how in exports.how)
    assert first != second


def test_pytest_s_cells_are_told_the_same(recipe: Recipe, settings: Settings, exports: Exports) -> None:
    shared = engine.Shared(recipe)
    first, second = recipe.cells()
    check_cell(second, recipe, None, settings, shared)
    saves_while_exporting(exports, "x = 2\n")
    (finding,) = check_cell(first, recipe, None, settings, shared).findings
    assert finding.level == Level.ERROR
    exports.asked.clear()
    assert check_cell(second, recipe, None, settings, shared).cached
    check_cell(first, recipe, None, settings, engine.Shared(recipe))
    assert exports.asked == [A]
    shared.close()


def test_cells_from_the_cache_share_what_was_read(
    recipe: Recipe, settings: Settings, exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(recipe, None, settings)
    made: list[object] = []

    class Counted(engine.Keys):
        def __init__(self, recipe: Recipe):
            made.append(self)
            super().__init__(recipe)

    monkeypatch.setattr(engine, "Keys", Counted)
    assert all(each.cached for each in check(recipe, None, settings).cells)
    assert len(made) == 1


def test_a_cell_is_compared_with_what_is_expected_of_it(recipe: Recipe, settings: Settings, exports: Exports) -> None:
    baseline = new_baseline(check(recipe, None, settings), recipe, None, settings)
    Path("net_b.py").write_text("x = 2\n")
    exports.make = failing_of = lambda cell: failing(spec=cell)
    report = check(recipe, baseline, settings, called="b.json")
    assert (report.passed, report.baseline) == (False, "b.json")
    assert [[finding.kind for finding in each.findings] for each in report.cells] == [[], [Kind.WORKS_TO_FAILS]]
    assert report.cells[1].artifact is None
    # A failure that is not expected gets another try; one that is expected does not.
    exports.asked.clear()
    check(recipe, baseline, settings)
    assert exports.asked == [B]
    expected = new_baseline(report, recipe, baseline, settings)
    assert check(recipe, expected, settings).passed
    assert exports.asked == [B]
    assert failing_of is exports.make


def test_what_the_recipe_no_longer_has_is_found_where_it_is_whole(
    recipe: Recipe, settings: Settings, exports: Exports
) -> None:
    baseline = new_baseline(check(recipe, None, settings), recipe, None, settings)
    part = recipe.model_copy(update={"models": ("net_a:net",)})
    assert [each.kind for each in check(part, baseline, settings).findings] == [Kind.GONE_CELL]
    report = check(part, baseline, settings, whole=False)
    assert report.findings == []
    assert set(new_baseline(report, part, baseline, settings, whole=False).cells) == {A, B}
    assert set(new_baseline(report, part, baseline, settings).cells) == {A}


def test_progress_has_counts_times_and_what_is_left(recipe: Recipe, settings: Settings, exports: Exports) -> None:
    said: list[str] = []
    check(recipe, None, settings, said.append)
    assert said[0] == "0 of 2 cells are unchanged"
    assert re.fullmatch(rf"\[1/2\] {re.escape(A)}: ok, 3\.0 s; about \d+ s left", said[1])
    assert said[2] == f"[2/2] {B}: ok, 3.0 s"


def test_a_recipe_decides_how_cells_are_run(recipe: Recipe, settings: Settings, exports: Exports) -> None:
    document = {
        "models": recipe.models,
        "targets": ["onnx"],
        "limit": 77,
        "instructions": True,
        "accuracy": {"data": "d.safetensors", "models": ["net_b:net"]},
    }
    Path("d.safetensors").touch()
    check(make_recipe(document, Path.cwd()), None, settings)
    how = dict(zip(exports.asked, exports.how, strict=True))
    assert [how[each]["limit"] for each in (A, B)] == [77, 77]
    assert [how[each]["accuracy"] for each in (A, B)] == [None, Path.cwd() / "d.safetensors"]
    assert how[A]["instructions"]
    assert how[A]["references"] != how[B]["references"]
    assert how[A]["scratch"].parent == settings.cache_folder / "work"  # what a killed run leaves there, the next sweeps


def test_what_is_done_is_kept_when_the_rest_is_ended(recipe: Recipe, settings: Settings, exports: Exports) -> None:
    def make(cell: CellSpec) -> CellResult:
        if cell.id == B:
            raise OSError(28, "No space left on device")
        return working(cell)

    exports.make = make
    with pytest.raises(OSError, match="No space"):
        check(recipe, None, settings)
    exports.make = lambda cell: working(cell)
    exports.asked.clear()
    check(recipe, None, settings)
    assert exports.asked == [B]
    assert list((settings.cache_folder / "work").iterdir()) == []


def test_ctrl_c_ends_what_is_at_work(
    recipe: Recipe, settings: Settings, exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()
    monkeypatch.setattr(engine.Stop, "ask", lambda self: asked.set())

    def make(cell: CellSpec) -> CellResult:
        if cell.id == A:
            return working(cell)
        assert asked.wait(300)
        return working(cell)

    exports.make = make

    def announce(text: str) -> None:
        if text.startswith("[1/2]"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(recipe, None, Settings(settings.cache_folder, jobs=2), announce)
    assert asked.is_set()
    exports.asked.clear()
    check(recipe, None, settings)
    assert exports.asked == [B]


def test_latency_is_compared_after_all_exports(
    recipe: Recipe, settings: Settings, exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = exports.asked

    def time_against(known: object, checked: Any, *_: object, **__: object) -> Timing:
        assert checked.artifact.is_dir()
        order.append(f"timed {checked.result.cell.id}")
        return Timing()

    monkeypatch.setattr(engine.latency, "time_against", time_against)
    check(make_recipe({"models": recipe.models, "targets": ["onnx"], "latency": {}}, Path.cwd()), None, settings)
    assert sorted(order[:2]) == [A, B]
    assert order[2:] == [f"timed {A}", f"timed {B}"]


@pytest.mark.parametrize("alone", [False, True])
def test_a_change_is_timed_where_the_baseline_was_written_elsewhere_and_its_cells_were_checked_here(
    alone: bool, recipe: Recipe, exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = Compared(SLOWER, SLOWER)
    monkeypatch.setattr(engine.latency, "compare", compared)
    timed = make_recipe({"models": ["net_a:net"], "targets": ["onnx"], "latency": {}}, tmp_path)
    laptop, ci = Settings(tmp_path / "laptop"), Settings(tmp_path / "ci", changed_only=True)
    baseline = new_baseline(check(timed, None, laptop), timed, None, laptop)
    shutil.rmtree(tmp_path / "laptop")

    def checked() -> list[Finding]:
        if alone:
            return check_cell(timed.cells()[0], timed, baseline, ci).findings
        report = check(timed, baseline, ci)
        return tidy(report, baseline, ci).all_findings

    assert checked() == []
    shutil.rmtree(tmp_path / "ci" / "cells")  # the latest cells alone need not be there any more
    Path("net_a.py").write_text("x = 2\n")
    exports.artifact = other(exports.artifact, tmp_path / "slow")
    (finding,) = checked()
    assert (finding.kind, finding.level) == (Kind.LATENCY, Level.ERROR)
    ((before, after), _), _ = compared.asked
    assert before.main_file.read_bytes() + b"\0" == after.main_file.read_bytes()


def test_a_cell_can_be_checked_alone(recipe: Recipe, settings: Settings, exports: Exports) -> None:
    first, _ = recipe.cells()
    cold = check_cell(first, recipe, Baseline(cells={}), settings)
    warm = check_cell(first, recipe, Baseline(cells={}), settings)
    assert (cold.cached, warm.cached) == (False, True)
    assert cold.key == warm.key
    assert [finding.kind for finding in warm.findings] == [Kind.NEW_CELL]
    assert warm.artifact is not None
    assert exports.asked == [A]


def test_models_whose_names_look_alike_as_a_file_have_folders_of_their_own(
    settings: Settings, exports: Exports, tmp_path: Path
) -> None:
    names = ("my net.pt2", "my-net.pt2")
    for name in names:
        (tmp_path / name).write_text(name)
    recipe = make_recipe({"models": names, "targets": ["onnx"], "jobs": 2}, tmp_path)
    report = check(recipe, None, settings)
    assert [each.result.works for each in report.cells] == [True, True]
    assert len(exports.folders) == 2


def test_a_check_beside_another_takes_nothing_away_from_it(
    recipe: Recipe, settings: Settings, exports: Exports
) -> None:
    cache = open_cache(settings)
    with cache.holding():
        report = check(recipe, None, settings, cache=cache)
        other = Settings(settings.cache_folder, cache_limit_bytes=1)
        tidy(check(recipe, None, other), None, other)
        assert set(new_baseline(report, recipe, None, settings).cells) == {A, B}
    tidy(report, None, other)
    assert list((settings.cache_folder / "cells").iterdir()) == []


@pytest.mark.parametrize("share", [0.5, 2.5, 99])
def test_the_limit_is_of_all_that_is_kept(
    share: float, recipe: Recipe, settings: Settings, exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.latency, "keep", lambda cells, _, files: {A: f"program, sha256 {program}"})
    files = engine.baseline_files(settings)
    unneeded, own = Path("unneeded"), Path("runner")
    unneeded.write_text("x" * size_of(exports.artifact.folder))
    own.write_text("x")
    program, old = files.keep_program(own), files.keep_program(unneeded)
    timed = make_recipe({"models": recipe.models, "targets": ["onnx"], "latency": {}}, Path.cwd())
    report = check(timed, None, settings)
    baseline = new_baseline(report, timed, None, settings)
    sha256 = files.keep_artifact(exports.artifact.folder)
    baseline.cells[A] = baseline.cells[A].model_copy(update={"sha256": sha256})
    size = size_of(files.folder / sha256)
    limit = int(size * share)
    found = tidy(report, baseline, Settings(settings.cache_folder, cache_limit_bytes=limit))
    assert size_of(settings.cache_folder) <= limit
    assert (files.artifact(sha256) is not None) == (share > 1)
    assert share < 1 or files.program(program) is not None
    assert (files.program(old) is not None) == (share == 99)
    assert sum(each.artifact is not None for each in found.cells) == {0.5: 0, 2.5: 1, 99: 2}[share]


def test_the_cache_is_no_larger_than_its_limit_in_the_end(recipe: Recipe, settings: Settings, exports: Exports) -> None:
    report = check(recipe, None, settings)
    small = Settings(settings.cache_folder, cache_limit_bytes=1)
    assert [each.artifact for each in tidy(report, None, small).cells] == [None, None]
    assert list((settings.cache_folder / "cells").iterdir()) == []


@pytest.mark.parametrize("outcome", [Outcome.CRASHED, Outcome.TOO_SLOW])
def test_one_that_crashes_or_hangs_is_tried_again_even_where_it_is_expected(
    outcome: Outcome, recipe: Recipe, settings: Settings, exports: Exports
) -> None:
    exports.make = lambda cell: failing(outcome, spec=cell)
    baseline = new_baseline(check(recipe, None, settings), recipe, None, settings)
    exports.asked.clear()
    assert check(recipe, baseline, settings).passed
    assert sorted(exports.asked) == [A, B]
