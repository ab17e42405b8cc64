"""Files that are written whole."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from deploy_kit.disk import locked, replace


def test_a_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "report.json"
    replace(file, "one")
    file.chmod(0o640)
    replace(file, "two")
    assert file.read_text() == "two"
    assert file.stat().st_mode & 0o777 == 0o640

    def broken(self: Path, *given: object, **named: object) -> int:
        self.touch()
        raise OSError("no space")

    monkeypatch.setattr(Path, "write_text", broken)
    with pytest.raises(OSError, match="no space"):
        replace(file, "three")
    assert file.read_text() == "two"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_what_it_names_is_written(tmp_path: Path, there: bool) -> None:
    (tmp_path / "real").mkdir()
    file, link = tmp_path / "real" / "b.json", tmp_path / "b.json"
    if there:
        file.write_text("one")
    link.symlink_to("real/b.json")
    replace(link, "two")
    assert link.is_symlink()
    assert file.read_text() == "two"
    assert list((tmp_path / "real").iterdir()) == [file]


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    replace(pipe, "all of it")
    reader.join(5)
    assert read == ["all of it"]
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_two_that_write_at_once_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a file of its own until it is whole."""
    written: list[Path] = []
    write = Path.write_text

    def noted(self: Path, *given: str, **named: str) -> int:
        written.append(self)
        return write(self, *given, **named)

    monkeypatch.setattr(Path, "write_text", noted)
    replace(tmp_path / "a", "one")
    replace(tmp_path / "a", "two")
    assert written[0] != written[1]


def test_a_folder_is_locked_by_one_or_shared_by_several(tmp_path: Path) -> None:
    with locked(tmp_path) as first, locked(tmp_path) as second, locked(tmp_path, shared=True) as third:
        assert (first, second, third) == (True, False, False)
    with locked(tmp_path, shared=True) as first, locked(tmp_path, shared=True) as second, locked(tmp_path) as third:
        assert (first, second, third) == (True, True, False)
    with locked(tmp_path) as again, locked(tmp_path / "absent") as absent:
        assert (again, absent) == (True, False)
