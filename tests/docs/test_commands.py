"""Every command and every piece of Python and TOML of the documentation, tried."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
from typer.exceptions import TyperException

from deploy_kit.artifact import Artifact
from deploy_kit.cells.recipe import installed_targets, make_recipe
from deploy_kit.cli.app import app
from deploy_kit.exporters import get_exporter, list_targets
from deploy_kit.exporters.mobile.interpreter import find_interpreter
from tests.docs.not_run import NOT_RUN
from tests.docs.support import DOCS, PAGES, ROOT, Block, Line, blocks, commands, lines

NEEDS = {"device-lab.md": "ray", "own-models.md": "timm"}
"""What is not always installed and a page has to have."""

MEASURES = ("bench", "papers", "sweep")
"""Commands whose exit code is 1 where a measurement was disturbed, which they say."""

GROUP = typer.main.get_command(app)
SHELL = [line for page in PAGES for block in blocks(page, "sh", "console") for line in lines(block)]


def _ids(found: list[Line]) -> list[str]:
    return [f"{line.block.where} {line.text[:60]}" for line in found]


def test_there_are_commands_on_most_pages() -> None:
    assert len(SHELL) > 50
    assert len({line.block.page for line in SHELL}) > 15


@pytest.mark.parametrize("line", SHELL, ids=_ids(SHELL))
def test_commands_and_their_options_exist(line: Line) -> None:
    for words in commands(line):
        if words[0] == "deploykit":
            _parse(words[1:])
        elif words[:2] == ["make", *words[1:2]]:
            done = subprocess.run([*words, "--dry-run"], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        elif words[0] == "python" and "-m" in words:
            assert importlib.util.find_spec(words[words.index("-m") + 1]) is not None


def _parse(words: list[str]) -> None:
    """Let typer take a command apart; nothing is run."""
    command = GROUP
    context = typer.Context(GROUP, info_name="deploykit")
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"there is no command deploykit {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    if words != ["--help"]:
        command.make_context("deploykit", list(words), parent=context)


def test_a_command_that_is_not_run_is_listed_with_the_reason() -> None:
    shown = {(str(line.block.page.relative_to(DOCS)), line.text) for line in SHELL if line.block.language == "console"}
    listed = {(page, text) for page, reasons in NOT_RUN.items() for text in reasons}
    assert shown - listed == set(), "make it a block of `sh`, which is run, or say in tests/docs/not_run.py why not"
    assert listed - shown == set(), "it is not on its page any more"
    assert all(len(reason.split()) > 2 for reasons in NOT_RUN.values() for reason in reasons.values())
    named = " ".join(reason for reasons in NOT_RUN.values() for reason in reasons.values())
    assert all((ROOT / path).exists() for path in re.findall(r"tests/[\w/]+(?:[.]py)?", named))


def test_no_shell_block_is_in_a_language_that_is_neither_run_nor_listed() -> None:
    used = {block.language for page in PAGES for block in blocks(page)}
    assert not used & {"bash", "shell", "zsh", "{code-block} sh", "{code-block} console", "{code-block} bash"}


@pytest.mark.parametrize("words", [["exprt", "edgevit_s"], ["export", "edgevit_s", "--targt", "onnx"], ["run", "a"]])
def test_a_command_that_cannot_be_would_be_found(words: list[str]) -> None:
    with pytest.raises((AssertionError, TyperException)):
        _parse(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_its_toml_is_right(page: Path) -> None:
    for block in blocks(page, "toml"):
        document = tomllib.loads(block.text)
        if "models" in document:
            make_recipe(document, page.parent, block.where).cells()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_its_python_compiles(page: Path) -> None:
    for block in blocks(page, "python", "{code-block} python"):
        compile(block.text, block.where, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_its_commands_and_python_work_in_the_order_shown(page: Path, tmp_path: Path) -> None:
    if page.parent.name == "targets" and page.stem in list_targets() and page.stem not in installed_targets():
        pytest.skip(f"the target {page.stem} is not installed here")
    needed = NEEDS.get(page.name)
    if needed is not None and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed here")
    for block in blocks(page):
        if block.name is not None:
            (tmp_path / block.name).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            _run([sys.executable, "-c", block.text], 0, block, tmp_path)
        elif block.language == "sh":
            for line in lines(block):
                _run(["bash", "-c", line.text], line.code, block, tmp_path)


def _run(command: list[str], code: int, block: Block, folder: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONWARNINGS": "ignore", "XDG_CACHE_HOME": str(folder / ".cache")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    measured = re.match(rf"deploykit ({'|'.join(MEASURES)})\b", command[-1]) is not None
    disturbed = measured and done.returncode == 1 and "note: " in done.stderr
    assert done.returncode == code or disturbed, f"{block.where}: {command[-1]}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr, f"{block.where}: {command[-1]}\n{done.stderr}"


@pytest.mark.slow
def test_the_mobile_interpreter_runs_the_program_of_its_page(tiny_lite: Artifact, tmp_path: Path) -> None:
    interpreter = find_interpreter()
    if interpreter.python == sys.executable:
        pytest.skip("there is no interpreter of the phones' generation (Debian: python3-torch)")
    (code,) = (each for each in blocks(ROOT / "docs" / "targets" / "torchscript-lite.md") if each.name == "lite.py")
    (tmp_path / "lite.py").write_text(code.text, encoding="utf-8")
    command = [interpreter.python, "lite.py", str(tiny_lite.main_file), "1,3,32,32"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "torch.Size([1, 10])\n"


def test_the_target_that_is_written_on_its_page_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a package with the page's code and entry point is installed, which here is a folder on the path."""
    page = ROOT / "docs" / "writing-a-target.md"
    (code,) = (block for block in blocks(page, "python") if block.name is not None)
    (entry,) = tomllib.loads(blocks(page, "toml")[0].text)["project"]["entry-points"].items()
    (tmp_path / str(code.name)).write_text(code.text, encoding="utf-8")
    package = tmp_path / "pt2_target-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: pt2-target\nVersion: 1.0\n")
    points = "".join(f"{name} = {value}\n" for name, value in entry[1].items())
    (package / "entry_points.txt").write_text(f"[{entry[0]}]\n{points}")
    monkeypatch.syspath_prepend(tmp_path)
    assert "pt2" in list_targets()
    assert get_exporter("pt2").summary == "torch.export's program (.pt2), for PyTorch"
