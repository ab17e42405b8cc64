from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy_kit.artifact import Artifact
from deploy_kit.cells import recipe
from deploy_kit.cells.recipe import CellSpec
from deploy_kit.cells.result import CellResult
from deploy_kit.check import engine
from deploy_kit.errors import DeployKitError
from deploy_kit.sweep.store import Store, open_store
from tests.check.fakes import failing, working
from tests.cli.support import PROGRAM, Ended, environment, program
from tests.support import TINY

Run = Callable[..., Ended]

RECIPE = """
models = ["net_a:net", "net_b:net"]
targets = ["onnx"]

[model."net_a:net"]
seed = 4
"""


class Exports:
    """Stands for exports; a model in ``broken`` fails."""

    def __init__(self, artifact: Artifact):
        self.artifact = artifact
        self.cells: list[CellSpec] = []
        self.how: list[dict[str, Any]] = []
        self.broken: set[str] = set()

    def __call__(self, cell: CellSpec, folder: Path, **how: Any) -> CellResult:
        self.cells.append(cell)
        self.how.append(how)
        if cell.model in self.broken:
            return failing(spec=cell)
        shutil.copytree(self.artifact.folder, folder)
        return working(cell)


@pytest.fixture
def exports(tiny_onnx: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Exports:
    """A folder with a recipe, and no GitHub around it."""
    stands = Exports(tiny_onnx)
    monkeypatch.setattr(engine, "run_cell", stands)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for variable in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE"):
        monkeypatch.delenv(variable, raising=False)
    Path("deploykit.toml").write_text(RECIPE)
    return stands


def test_a_baseline_is_written_kept_and_broken(deploykit: Run, exports: Exports) -> None:
    first = deploykit("check")
    assert (first.code, "without a baseline" in first.out, "new_cell" in first.out) == (0, True, True)
    assert not Path("deploykit-baseline.json").exists()
    written = deploykit("check", "--update-baseline", "--changed-only")
    assert written.code == 0
    assert "deploykit-baseline.json expects this now" in written.err
    assert len(exports.cells) == 2
    green = deploykit("check", "--changed-only")
    assert (green.code, "2 of 2 cells are unchanged" in green.err) == (0, True)
    assert "against deploykit-baseline.json" in green.out
    exports.broken = {"net_b:net"}
    red = deploykit("check")
    assert red.code == 1
    assert "net_b:net/onnx/fp32: works_to_fails" in red.out
    assert deploykit("check", "--update-baseline").code == 0
    assert deploykit("check").code == 0
    exports.broken = set()
    fixed = deploykit("check")
    assert (fixed.code, "fails_to_works" in fixed.out) == (1, True)


def test_progress_is_on_standard_error(deploykit: Run, exports: Exports) -> None:
    ended = deploykit("check", "--json")
    assert "[1/2] net_a:net/onnx/fp32: ok, 3.0 s; about" in ended.err
    assert [each["result"]["outcome"] for each in ended.json["cells"]] == ["ok", "ok"]
    assert ended.json["schema_version"] == 1


def test_flags_stand_for_a_recipe_and_change_one(deploykit: Run, exports: Exports, tmp_path: Path) -> None:
    deploykit("check", "--update-baseline")
    exports.cells.clear()
    options = ("--input-size", "1x3x64x64", "--limit", 9, "--precision", "fp32", "--precision", "fp16")
    ended = deploykit("check", "-m", "net_a:net", *options, "--json")
    assert [cell.id for cell in exports.cells] == ["net_a:net/onnx/fp32", "net_a:net/onnx/fp16"]
    assert {cell.of_model.input_size for cell in exports.cells} == {"1x3x64x64"}
    assert {cell.of_model.seed for cell in exports.cells} == {4}
    assert exports.how[-1]["limit"] == 9
    assert ended.json["findings"] == []  # that a part was checked does not make the rest gone
    deploykit("check", "-m", "net_c:net", "--update-baseline")
    known = json.loads(Path("deploykit-baseline.json").read_text())["cells"]
    assert list(known) == [f"net_{name}:net/onnx/fp32" for name in "abc"]
    Path("deploykit.toml").unlink()
    exports.cells.clear()
    Path("sub").mkdir()
    Path("sub/net.pt2").touch()
    assert deploykit("check", "-m", "net_a:net", "-m", "sub/net.pt2", "-t", "onnx").code == 0
    assert [cell.model for cell in exports.cells] == ["net_a:net", str(tmp_path / "sub/net.pt2")]


def test_the_baseline_of_a_recipe_elsewhere_is_beside_it(deploykit: Run, exports: Exports) -> None:
    Path("ci").mkdir()
    Path("deploykit.toml").rename("ci/nets.toml")
    deploykit("check", "ci/nets.toml", "--update-baseline")
    assert Path("ci/nets-baseline.json").is_file()
    assert "against ci/nets-baseline.json" in deploykit("check", "ci/nets.toml").out
    deploykit("check", "ci/nets.toml", "--update-baseline", "--baseline", "other.json")
    assert Path("other.json").read_text() == Path("ci/nets-baseline.json").read_text()


def test_two_recipes_beside_each_other_have_a_baseline_each(deploykit: Run, exports: Exports) -> None:
    Path("lab.toml").write_text('models = ["net_c:net"]\ntargets = ["onnx"]\n')
    deploykit("check", "--update-baseline")
    deploykit("check", "lab.toml", "--update-baseline")
    kept = {file.name: list(json.loads(file.read_text())["cells"]) for file in Path().glob("*-baseline.json")}
    assert kept == {
        "deploykit-baseline.json": ["net_a:net/onnx/fp32", "net_b:net/onnx/fp32"],
        "lab-baseline.json": ["net_c:net/onnx/fp32"],
    }
    for words in ((), ("lab.toml",), ("deploykit.toml",)):
        ended = deploykit("check", *words, "--json")
        assert (ended.json["findings"], [cell["findings"] for cell in ended.json["cells"] if cell["findings"]]) == (
            [],
            [],
        )
    for name, command in (("deploykit.toml", ""), ("lab.toml", "lab.toml "), ("my lab.toml", "'my lab.toml' ")):
        Path(name).write_text('models = ["net_d:net"]\ntargets = ["onnx"]\n')
        (found, *_) = deploykit("check", name, "--json").json["cells"]
        assert found["findings"][0]["fix"] == f"add it: deploykit check {command}--update-baseline"


def test_cells_of_a_target_that_is_not_installed_here_stay_in_the_baseline(
    deploykit: Run, exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written where it is installed, then checked and updated where it is not."""
    file = Path("deploykit-baseline.json")
    Path("deploykit.toml").write_text('models = ["net_a:net", "net_b:net"]')
    monkeypatch.setattr(recipe, "installed_targets", lambda: ["onnx", "openvino"])
    deploykit("check", "--update-baseline")
    both = file.read_text()
    monkeypatch.setattr(recipe, "installed_targets", lambda: ["onnx"])
    ended = deploykit("check", "--json")
    assert (ended.code, [found["kind"] for found in ended.json["findings"]]) == (0, ["not_compared"])
    updated = deploykit("check", "--update-baseline")
    assert file.read_text() == both
    assert "as openvino is not installed" in " ".join(updated.out.split())
    Path("deploykit.toml").write_text('models = ["net_a:net"]')
    former = deploykit("check", "--update-baseline", "--json").json["findings"]
    assert [(found["kind"], found["cell"]) for found in former] == [
        ("gone_cell", "net_b:net/onnx/fp32"),
        ("gone_cell", "net_b:net/openvino/fp32"),
        ("not_compared", "net_a:net/openvino/fp32"),
    ]
    assert list(json.loads(file.read_text())["cells"]) == ["net_a:net/onnx/fp32", "net_a:net/openvino/fp32"]


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["none.toml"], "there is no recipe 'none.toml'"),
        (["--baseline", "none.json"], "there is no baseline 'none.json'"),
        (["--format", "xml"], "there is no format called 'xml'"),
        (["--format", "sarif", "--json"], "two formats"),
        (["--out", "no/where.json"], "there is no folder 'no'"),
        (["--out", "."], "'.' is a folder"),
        (["--update-baseline", "--baseline", "no/where.json"], "there is no folder 'no'"),
        (["--update-baseline", "--baseline", "."], "'.' is a folder"),
        (["--memory", "0"], "has a mistake at 'memory_gb'"),
        (["--memory", "inf"], "has a mistake at 'memory_gb'"),
        (["--memory", "nan"], "has a mistake at 'memory_gb'"),
        (["--limit", "99999999999"], "has a mistake at 'limit'"),
        (["--cache-limit", "5"], "'5' is no size"),
        (["--target", "onyx"], "there is no target called 'onyx'"),
        (["--precision", "fp8"], "what was asked for has a mistake at 'precisions.0'"),
        (["--store", "nosuch://x"], "nosuch"),
    ],
)
def test_a_mistake_is_told_before_anything_is_exported(
    words: list[str], wrong: str, deploykit: Run, exports: Exports
) -> None:
    ended = deploykit("check", *words)
    assert ended.code == 2
    assert wrong in ended.err
    assert "fix:" in ended.err
    assert exports.cells == []


@pytest.mark.parametrize("words", [[], ["--baseline", "locked/other.json"], ["--baseline", "locked/there.json"]])
def test_a_baseline_that_cannot_be_written_is_told_before_anything_is_exported(
    words: list[str], deploykit: Run, exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    Path("deploykit.toml").rename(folder / "deploykit.toml")
    (folder / "there.json").write_text('{"schema_version": 1, "cells": {}}')
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != folder)  # root may write everywhere
    ended = deploykit("check", "locked/deploykit.toml", "--update-baseline", *words)
    assert (ended.code, exports.cells) == (2, [])
    assert "cannot be written" in ended.err
    assert "fix: choose another --baseline" in ended.err


def test_without_a_recipe_or_models_it_is_said_how_to_get_one(deploykit: Run, exports: Exports) -> None:
    Path("deploykit.toml").unlink()
    ended = deploykit("check", "--target", "onnx")
    assert (ended.code, "deploykit init" in ended.err) == (2, True)


@pytest.mark.parametrize(
    ("format", "begins"), [("junit", "<?xml"), ("sarif", "{"), ("markdown", "#"), ("json", "{"), ("table", "cells")]
)
def test_a_format_goes_to_standard_output_or_into_a_file(
    format: str, begins: str, deploykit: Run, exports: Exports
) -> None:
    printed = deploykit("check", "--format", format)
    assert printed.out.startswith(begins)
    beside = deploykit("check", "--changed-only", "--format", format, "--out", "report")
    assert Path("report").read_text().startswith(begins)
    assert beside.out.startswith("cells")
    assert f"{format}: report" in beside.out


def test_github_gets_annotations_and_a_summary(
    deploykit: Run, exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploykit("check", "--update-baseline")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    (tmp_path / "summary.md").write_text("before\n")
    exports.broken = {"net_a:net"}
    ended = deploykit("check", "--json")
    assert ended.code == 1
    assert ended.json["cells"]
    assert "::error file=deploykit-baseline.json,line=" in ended.err
    summary = (tmp_path / "summary.md").read_text()
    assert summary.startswith("before\n")
    assert "works_to_fails" in summary


def test_a_summary_that_cannot_be_written_is_a_note(
    deploykit: Run, exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    ended = deploykit("check")
    assert (ended.code, "Traceback" in ended.err) == (0, False)
    assert "the step's summary cannot be written" in ended.err


def test_a_store_that_fails_late_does_not_take_the_report_with_it(
    deploykit: Run, exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise DeployKitError("the database is full")

    closed: list[Store] = []
    monkeypatch.setattr(Store, "add", full)
    close = Store.close
    monkeypatch.setattr(Store, "close", lambda self: (closed.append(self), close(self)))
    ended = deploykit("check", "--store", "sqlite:///runs.db", "--format", "markdown", "--out", "report.md")
    assert ended.code != 0
    assert "the database is full" in ended.err
    assert "net_a:net" in ended.out
    assert Path("report.md").is_file()
    assert len(closed) == 1


def test_a_check_is_recorded_in_a_store(deploykit: Run, exports: Exports) -> None:
    exports.broken = {"net_a:net"}
    deploykit("check", "--store", "sqlite:///runs.db")
    store = open_store("sqlite:///runs.db")
    (run,) = store.runs()
    entries = store.entries(run.id)
    assert (run.kind, run.finished is not None) == ("check", True)
    assert [(entry.result.cell.id, entry.result.outcome) for entry in entries] == [
        ("net_a:net/onnx/fp32", "export_failed"),
        ("net_b:net/onnx/fp32", "ok"),
    ]
    assert entries[1].artifact is not None
    assert Path(entries[1].artifact, "manifest.json").is_file()


def test_a_check_that_takes_cells_from_the_cache_is_recorded_when_it_is_done(
    deploykit: Run, exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made, changed, and changed back: what the cell is now is what it was first."""
    changed = ("--input-size", "1x3x64x64")

    def made(cell: CellSpec, *where: Path, **how: Any) -> CellResult:
        size, day = (2000, 2) if cell.of_model.input_size else (1000, 1)
        return exports(cell, *where, **how).model_copy(update={"bytes": size, "created": f"2026-01-0{day}T00:00:00Z"})

    monkeypatch.setattr(engine, "run_cell", made)
    for words in ((), changed, ()):
        deploykit("check", "-m", "net_a:net", *words, "--changed-only", "--store", "sqlite:///runs.db")
    assert len(exports.cells) == 2
    page = deploykit("report", "runs.db", "--json", "--out", "report.html").json
    (shown,) = page["cells"]
    assert [export["bytes"] for export in shown["exports"]] == [1000, 2000, 1000]
    assert [run["id"] for run in page["runs"]] == [export["run"] for export in shown["exports"]]
    assert [change["after"] for change in page["changes"]] == [1000, 2000]
    entries = open_store("sqlite:///runs.db").entries()
    assert entries[2].result.created == "2026-01-01T00:00:00Z"  # of the export itself


def test_the_help_says_what_is_exported_again() -> None:
    said = " ".join(program("check", "--help").out.replace("│", " ").split())
    assert "Without it everything is exported and proven again" in said


HANGS = """
import os, time
from pathlib import Path
from tests.support import tiny as build

def tiny():
    return build()

def stuck():
    Path(__file__).with_suffix(".pid").write_text(str(os.getpid()))
    time.sleep(900)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_keeps_what_is_done_and_leaves_nothing(number: signal.Signals, code: int, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HANGS)
    (tmp_path / "tmp").mkdir()
    words = ["check", "-m", "mine:tiny", "-m", "mine:stuck", "-t", "onnx", "--input-size", "1x3x32x32"]
    process = subprocess.Popen(
        [str(PROGRAM), *words, "--cache", "cache"],
        cwd=tmp_path,
        env=environment(TMPDIR=str(tmp_path / "tmp")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    pid = tmp_path / "mine.pid"
    for _ in range(6000):
        if process.poll() is not None or (pid.exists() and pid.read_text()):
            break
        time.sleep(0.05)
    worker = int(pid.read_text())
    process.send_signal(number)
    shown, said = process.communicate(timeout=200)  # what is at work would take longer
    assert process.returncode == code, said
    assert shown == ""
    assert "Traceback" not in said
    assert "[1/2] mine:tiny/onnx/fp32: ok" in said
    assert ("interrupted" in said) == (number == signal.SIGINT)
    assert not Path(f"/proc/{worker}").exists() or sys.platform != "linux"
    assert list((tmp_path / "tmp").iterdir()) == []
    assert list((tmp_path / "cache" / "work").iterdir()) == []
    again = program(*words[:3], *words[5:], "--cache", "cache", "--changed-only", cwd=tmp_path)
    assert "1 of 1 cells are unchanged" in again.err


@pytest.mark.slow
def test_a_real_model_is_checked_changed_and_checked_again(tmp_path: Path) -> None:
    words = ["check", "-m", TINY, "-t", "onnx", "--input-size", "1x3x32x32", "--cache", "cache"]
    assert program(*words, "--update-baseline", cwd=tmp_path).code == 0
    warm = program(*words, "--changed-only", "--json", cwd=tmp_path)
    assert (warm.code, warm.json["cells"][0]["cached"], warm.json["cells"][0]["findings"]) == (0, True, [])
    again = program(*words, "--json", cwd=tmp_path)
    assert (again.code, again.json["cells"][0]["cached"]) == (0, False)
    assert again.json["cells"][0]["key"] == warm.json["cells"][0]["key"]
