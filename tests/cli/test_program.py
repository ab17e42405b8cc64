"""The real program, as a shell starts it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import PIL.Image
import pytest

from deploy_kit.artifact import Artifact, open_artifact
from tests.cli.support import PROGRAM, ROOT, Ended, environment, program
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


def test_it_works_from_any_folder_with_results_and_progress_apart(tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    arguments = ("export", TINY, "--target", "onnx", "--input-size", TINY_SIZE, "--json")
    exported = program(*arguments, cwd=tmp_path, TMPDIR=str(tmp_path / "temporary"))
    assert exported.code == 0, exported.err
    (result,) = exported.json
    assert result["outcome"] == "ok"
    assert "prove" in exported.err
    assert list((tmp_path / "temporary").iterdir()) == [], "telemetry of a runtime leaves a file, too"
    folder = tmp_path / "artifacts" / "tests.support.tiny" / "onnx"
    assert tmp_path / result["artifact"] == folder / "model.onnx"
    open_artifact(folder).main_file.write_bytes(b"changed")
    changed = program("verify", folder, "--json", cwd=tmp_path)
    assert (changed.code, changed.out) == (2, "")
    assert "changed after it was proven" in changed.err


FULL = """
mount -t tmpfs -o size=8k tmpfs {folder} && export TMPDIR={folder} || exit 99
{program} {words} --json
code=$?; find {folder} -mindepth 1; exit $code
"""


def on_a_full_disk(folder: Path, *words: object) -> Ended:
    """Run the real program with a full disk at ``folder``, also for temporary files; it prints what is left there."""
    folder.mkdir()
    script = FULL.format(program=PROGRAM, folder=folder, words=shlex.join(map(str, words)))
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip("mounts are not allowed here")
    return Ended(done.returncode, done.stdout, done.stderr)


def assert_one_error(ended: Ended) -> None:
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.count("error: there is no space left") == 1
    assert "TMPDIR" in ended.err
    assert "Traceback" not in ended.err


NEEDS_MOUNTS = pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a mount of its own")


@NEEDS_MOUNTS
@pytest.mark.parametrize("target", ["onnx", pytest.param("torchscript-lite", marks=pytest.mark.slow)])
def test_a_full_disk_is_one_error_and_leaves_nothing(target: str, tmp_path: Path) -> None:
    words = ("export", TINY, "-t", target, "--input-size", TINY_SIZE, "--out", tmp_path / "full" / "out")
    assert_one_error(on_a_full_disk(tmp_path / "full", *words))


@NEEDS_MOUNTS
@pytest.mark.parametrize(("command", "artifact"), [("verify", "tiny_onnx"), ("run", "tiny_lite")])
def test_verify_and_run_on_a_full_disk_are_one_error(
    command: str, artifact: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    made: Artifact = request.getfixturevalue(artifact)
    image = tmp_path / "image.png"
    PIL.Image.new("RGB", (48, 48)).save(image)
    ended = on_a_full_disk(tmp_path / "full", command, made.folder, *([image] if command == "run" else []))
    assert_one_error(ended)
    assert "--out" not in ended.err
