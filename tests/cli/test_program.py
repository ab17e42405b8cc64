"""The real program, as a shell starts it."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from deploy_kit.artifact import open_artifact
from tests.cli.support import PROGRAM, environment, program
from tests.support import TINY, TINY_SIZE

COMMANDS = ("export", "fuse", "verify", "inspect", "run", "models", "targets", "doctor")


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_imports_nothing_heavy(command: tuple[str, ...]) -> None:
    code = (
        "import sys; from deploy_kit.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'numpy', 'onnx', 'onnxruntime', 'PIL', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    words = [sys.executable, "-c", code, *command, "--help"]
    shown = subprocess.run(words, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "Usage: " in shown.stdout
    assert all(name in shown.stdout for name in ((*COMMANDS, "--version") if not command else ("--json",)))


def test_the_version_is_the_packages() -> None:
    ended = program("--version")
    assert (ended.code, ended.out) == (0, f"deploykit {version('deploy-kit')}\n")


def test_alone_it_shows_its_help() -> None:
    ended = program()
    assert "Usage: deploykit" in ended.out + ended.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_a_completion_script(shell: str) -> None:
    ended = program(_DEPLOYKIT_COMPLETE=f"source_{shell}")
    assert ended.code == 0
    assert "_DEPLOYKIT_COMPLETE=complete_" in ended.out


def test_the_completion_completes_commands() -> None:
    ended = program(_DEPLOYKIT_COMPLETE="complete_bash", COMP_WORDS="deploykit ex", COMP_CWORD="1")
    assert ended.out.split() == ["export"]


def test_export_verify_and_run_from_any_folder(tmp_path: Path) -> None:
    exported = program("export", TINY, "--target", "onnx", "--input-size", TINY_SIZE, "--json", cwd=tmp_path)
    assert exported.code == 0, exported.err
    (result,) = exported.json
    assert result["outcome"] == "ok"
    assert "prove" in exported.err
    folder = tmp_path / "artifacts" / "tests.support.tiny" / "onnx"
    assert tmp_path / result["artifact"] == folder / "model.onnx"
    assert program("verify", folder, "--json", cwd=tmp_path).json["passed"] is True
    open_artifact(folder).main_file.write_bytes(b"changed")
    changed = program("verify", folder, "--json", cwd=tmp_path)
    assert (changed.code, changed.out) == (2, "")
    assert "changed after it was proven" in changed.err
    again = program("export", TINY, "--target", "onnx", "--input-size", TINY_SIZE, cwd=tmp_path)
    assert again.code == 2
    assert "--force" in again.err


@pytest.mark.skipif(sys.platform != "linux", reason="limits a file's size as Linux does")
def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path) -> None:
    """A file-size limit fails a write half-way, as a full disk does."""
    command = f"ulimit -f 1; trap '' XFSZ; exec {PROGRAM} export {TINY} -t onnx --input-size {TINY_SIZE}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
