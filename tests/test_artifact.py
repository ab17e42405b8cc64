from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy_kit import export
from deploy_kit.artifact import MARK, OLD, Artifact, check_free, open_artifact, workspace
from deploy_kit.errors import DeployKitError, ProofError, UserError
from deploy_kit.exporters.onnx import Onnx
from deploy_kit.manifest import MANIFEST
from tests.support import export_to, load_tiny


@pytest.fixture
def artifact(tiny_onnx: Artifact, tmp_path: Path) -> Artifact:
    """A copy to do damage to."""
    folder = tmp_path / "artifact"
    shutil.copytree(tiny_onnx.folder, folder)
    return Artifact(folder, tiny_onnx.manifest)


def publish(folder: Path, content: str, *, force: bool = False) -> None:
    with workspace(folder, force=force) as temporary:
        (temporary / MANIFEST).write_text(content)


def fail(folder: Path, failure: BaseException, *, force: bool = False) -> None:
    """Publish an artifact, and fail half-way."""
    with workspace(folder, force=force) as temporary:
        (temporary / "half").write_text("written")
        raise failure


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


PUBLISH = """
import os, shutil, signal, sys
from pathlib import Path
from deploy_kit import artifact

folder, ending = Path(sys.argv[1]), sys.argv[2]
rename = os.rename

def die(*given, **named):
    os.kill(os.getpid(), signal.SIGKILL)

def rename_or_die(source, target):
    die() if target == folder else rename(source, target)

if ending == "between the renames":
    os.rename = rename_or_die
elif ending == "before the old one is removed":
    shutil.rmtree = die
with artifact.workspace(folder, force=True) as temporary:
    (temporary / "manifest.json").write_text("killed")
    print("at work", flush=True)
    if ending == "in the body":
        sys.stdin.read()
"""
"""Publishes in a process of its own, which ends by SIGKILL, or waits in the body until it is killed."""


@contextmanager
def publishing(folder: Path, ending: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that is at work on an artifact; it is killed in the end."""
    words = [sys.executable, "-c", PUBLISH, str(folder), ending]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "at work\n"
            yield process
        finally:
            process.kill()


def kill_one(folder: Path, ending: str) -> None:
    """An export that is killed."""
    with publishing(folder, ending) as process:
        if ending == "in the body":
            process.kill()
        assert process.wait() == -signal.SIGKILL


def test_what_is_written_appears_when_it_is_complete(tmp_path: Path) -> None:
    folder = tmp_path / "model" / "target"
    with workspace(folder, force=False) as temporary:
        (temporary / MANIFEST).write_text("new")
        assert not folder.exists()
    assert (folder / MANIFEST).read_text() == "new"
    assert contents(folder.parent) == ["target"]
    assert folder.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("failure", [RuntimeError("a bug"), KeyboardInterrupt(), SystemExit(143)])
def test_a_failure_leaves_nothing(failure: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(failure)):
        fail(tmp_path / "artifact", failure)
    assert contents(tmp_path) == []


@pytest.mark.parametrize("failure", [RuntimeError("a bug"), KeyboardInterrupt(), SystemExit(143)])
def test_a_failure_leaves_no_folder_that_was_made_for_it(failure: BaseException, tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    with pytest.raises(type(failure)):
        fail(tmp_path / "before" / "out" / "model" / "target", failure)
    assert contents(tmp_path) == ["before"]
    assert contents(tmp_path / "before") == []


def test_a_failure_keeps_folders_with_something_else_in_them(tmp_path: Path) -> None:
    def fail_late() -> None:
        with workspace(tmp_path / "out" / "model" / "target", force=False):
            (tmp_path / "out" / "notes").write_text("mine")
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        fail_late()
    assert contents(tmp_path / "out") == ["notes"]


def test_an_error_in_a_name_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"), workspace(tmp_path / "out" / "model" / "t", force=False):
        (tmp_path / "out" / "model" / ("n" * 300)).write_text("")
    assert contents(tmp_path) == []


@pytest.mark.parametrize("failure", [RuntimeError("a bug"), KeyboardInterrupt()])
def test_a_failure_keeps_the_old_artifact(failure: BaseException, tmp_path: Path) -> None:
    publish(tmp_path / "artifact", "old")
    with pytest.raises(type(failure)):
        fail(tmp_path / "artifact", failure, force=True)
    assert (tmp_path / "artifact" / MANIFEST).read_text() == "old"
    assert contents(tmp_path) == ["artifact"]


def test_an_artifact_is_replaced_only_by_force(tmp_path: Path) -> None:
    publish(tmp_path / "artifact", "old")
    with pytest.raises(UserError, match="exists already") as caught:
        publish(tmp_path / "artifact", "new")
    assert "--force" in caught.value.fix
    assert (tmp_path / "artifact" / MANIFEST).read_text() == "old"
    publish(tmp_path / "artifact", "new", force=True)
    assert (tmp_path / "artifact" / MANIFEST).read_text() == "new"
    assert contents(tmp_path) == ["artifact"]


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_is_no_artifact_is_never_replaced(force: bool, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("precious")
    with pytest.raises(UserError, match="is not an artifact"):
        publish(tmp_path / "thesis", "new", force=force)
    assert contents(tmp_path / "thesis") == ["chapter1.tex"]


def test_a_file_in_the_way_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "artifact").write_text("precious")
    with pytest.raises(UserError, match="is not an artifact"):
        check_free(tmp_path / "artifact", force=True)


def test_an_empty_folder_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "artifact").mkdir()
    publish(tmp_path / "artifact", "new")
    assert (tmp_path / "artifact" / MANIFEST).read_text() == "new"


def test_an_artifact_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    def publish_slowly() -> None:
        with workspace(tmp_path / "artifact", force=False) as temporary:
            (temporary / MANIFEST).write_text("slow")
            publish(tmp_path / "artifact", "fast")

    with pytest.raises(UserError, match="exists already"):
        publish_slowly()
    assert (tmp_path / "artifact" / MANIFEST).read_text() == "fast"
    assert contents(tmp_path) == ["artifact"]


def test_a_failed_replacement_puts_the_old_artifact_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "artifact", "old")
    rename = os.rename

    def fail_for_the_new(source: Path, target: Path) -> None:
        if target == tmp_path / "artifact" and Path(source).name != OLD:
            raise OSError(errno.EIO, "the disk is dying")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_for_the_new)
    with pytest.raises(UserError, match="dying"):
        publish(tmp_path / "artifact", "new", force=True)
    assert (tmp_path / "artifact" / MANIFEST).read_text() == "old"
    assert contents(tmp_path) == ["artifact"]


def test_what_a_killed_export_left_is_removed_by_the_next(tmp_path: Path) -> None:
    kill_one(tmp_path / "artifact", "in the body")
    (left,) = contents(tmp_path)
    assert left.startswith(".artifact-")
    publish(tmp_path / "artifact", "new")
    assert contents(tmp_path) == ["artifact"]
    assert contents(tmp_path / "artifact") == [MANIFEST]


def test_an_artifact_that_a_kill_left_out_of_its_place_is_put_back(tmp_path: Path) -> None:
    publish(tmp_path / "artifact", "old")
    kill_one(tmp_path / "artifact", "between the renames")
    assert "artifact" not in contents(tmp_path)
    with pytest.raises(UserError, match="exists already"):
        publish(tmp_path / "artifact", "new")
    assert (tmp_path / "artifact" / MANIFEST).read_text() == "old"
    assert contents(tmp_path) == ["artifact"]


def test_an_artifact_that_is_replaced_already_is_not_put_back(tmp_path: Path) -> None:
    publish(tmp_path / "artifact", "old")
    kill_one(tmp_path / "artifact", "before the old one is removed")
    with pytest.raises(RuntimeError):
        fail(tmp_path / "artifact", RuntimeError("a bug"), force=True)
    assert (tmp_path / "artifact" / MANIFEST).read_text() == "killed"
    assert contents(tmp_path) == ["artifact"]


def test_an_export_that_is_running_is_left_alone(tmp_path: Path) -> None:
    with publishing(tmp_path / "artifact", "in the body") as process:
        (at_work,) = contents(tmp_path)
        publish(tmp_path / "artifact", "new")
        assert contents(tmp_path) == [at_work, "artifact"]
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert (tmp_path / "artifact" / MANIFEST).read_text() == "killed"
    assert contents(tmp_path) == ["artifact"]


def test_only_what_an_export_to_the_same_folder_left_is_removed(tmp_path: Path) -> None:
    for name in (".onnx-notes", ".onnx-12345678", ".onnx-fp16-12345678", "onnx-12345678", ".coreml-12345678"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").write_text("mine")
    for name in (".onnx-fp16-12345678", "onnx-12345678", ".coreml-12345678"):
        (tmp_path / name / MARK).touch()
    before = contents(tmp_path)
    publish(tmp_path / "onnx", "new")
    assert contents(tmp_path) == sorted([*before, "onnx"])
    assert all((tmp_path / name / "precious").exists() for name in before)


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's full disk")
def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path: Path) -> None:
    def fill() -> None:
        with workspace(tmp_path / "artifact", force=False) as temporary:
            (temporary / "half").write_text("written")
            Path("/dev/full").write_text("x" * 100_000)

    with pytest.raises(DeployKitError, match="no space left") as caught:
        fill()
    assert caught.value.exit_code == 1
    assert contents(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        publish(tmp_path / "file" / "artifact", "new")


def test_a_folder_below_a_file_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written") as caught:
        publish(tmp_path / "file" / "model" / "target", "new")
    assert "--out" in caught.value.fix


@pytest.mark.parametrize("path", ["n" * 300, f"{'n' * 300}/model/target"])
def test_a_name_that_is_too_long_is_the_users_error(path: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written: File name too long") as caught:
        check_free(tmp_path / path, force=False)
    assert "--out" in caught.value.fix


def test_a_failed_proof_publishes_nothing_and_keeps_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = export_to(tmp_path, load_tiny(), "onnx", simplify=False)
    before = published.main_file.read_bytes()
    run = Onnx.run

    def broken(self: Onnx, *args: object) -> object:
        ran = run(self, *args)  # type: ignore[arg-type]
        ran.outputs[0][0] += 1e-2
        return ran

    monkeypatch.setattr(Onnx, "run", broken)
    monkeypatch.setattr("deploy_kit.api.locate", lambda *args: None)
    with pytest.raises(ProofError):
        export(load_tiny(), "onnx", out=tmp_path, force=True)
    with pytest.raises(ProofError):
        export(load_tiny(), "onnx", out=tmp_path / "new")
    with pytest.raises(UserError, match="no option"):
        export(load_tiny(), "onnx", out=tmp_path / "new", options={"opzet": 20})
    assert not (tmp_path / "new").exists()
    assert published.main_file.read_bytes() == before
    assert contents(published.folder.parent) == ["onnx"]


def test_an_artifact_is_opened_by_its_folder_or_a_file_in_it(artifact: Artifact) -> None:
    for path in (artifact.folder, str(artifact.folder), artifact.main_file, artifact.folder / MANIFEST):
        opened = open_artifact(path)
        assert opened.folder == artifact.folder
        assert opened.manifest == artifact.manifest
        assert opened.size == opened.main_file.stat().st_size


def test_one_changed_byte_is_noticed(artifact: Artifact) -> None:
    content = bytearray(artifact.main_file.read_bytes())
    content[len(content) // 2] ^= 1
    artifact.main_file.write_bytes(content)
    with pytest.raises(UserError, match="changed after it was proven"):
        open_artifact(artifact.folder)


def test_a_missing_file_is_noticed(artifact: Artifact) -> None:
    artifact.main_file.unlink()
    with pytest.raises(UserError, match="is missing"):
        open_artifact(artifact.folder)


def test_the_file_of_another_model_is_noticed(artifact: Artifact, tmp_path: Path) -> None:
    other = export_to(tmp_path / "other", load_tiny(seed=1), "onnx", simplify=False)
    shutil.copy(other.main_file, artifact.main_file)
    with pytest.raises(UserError, match="changed after it was proven"):
        open_artifact(artifact.folder)


@pytest.mark.parametrize("path", ["../secret", "/etc/hostname"])
def test_files_outside_the_folder_are_refused(path: str, artifact: Artifact) -> None:
    (artifact.folder.parent / "secret").write_text("")
    text = (artifact.folder / MANIFEST).read_text()
    (artifact.folder / MANIFEST).write_text(text.replace('"path": "model.onnx"', f'"path": "{path}"'))
    with pytest.raises(UserError, match="outside its folder"):
        open_artifact(artifact.folder)


@pytest.mark.parametrize("path", ["../secret", "other.onnx"])
def test_a_main_file_without_a_hash_is_refused(path: str, artifact: Artifact) -> None:
    (artifact.folder / path).write_text("")
    text = (artifact.folder / MANIFEST).read_text()
    (artifact.folder / MANIFEST).write_text(text.replace('"main_file": "model.onnx"', f'"main_file": "{path}"'))
    with pytest.raises(UserError, match="main_file"):
        open_artifact(artifact.folder)


def test_two_seeds_of_one_model_do_not_collide_silently(tmp_path: Path) -> None:
    export(load_tiny(), "onnx", out=tmp_path, options={"simplify": False})
    with pytest.raises(UserError, match="exists already"):
        export(load_tiny(1), "onnx", out=tmp_path)


def test_where_nothing_can_be_locked_no_export_takes_another_for_a_killed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def not_locked(folder: Path) -> Iterator[bool]:
        yield False

    with monkeypatch.context() as patched:
        patched.setattr("deploy_kit.artifact.locked", not_locked)
        running = workspace(tmp_path / "onnx", force=False)
        folder = running.__enter__()
    with workspace(tmp_path / "onnx", force=False):
        assert folder.is_dir()
    running.__exit__(None, None, None)
    assert (tmp_path / "onnx").is_dir()
