from __future__ import annotations

import os
import pwd
import tempfile
from pathlib import Path
from threading import Event

import pytest

from deploy_kit.errors import UserError
from deploy_kit.sweep.locks import StoppedError, held


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_one_alone_has_a_lock_that_is_not_shared() -> None:
    stopped = Event()
    stopped.set()
    with held("a", Event()), held("b", Event()), pytest.raises(StoppedError), held("a", stopped):
        pass
    with held("a", Event(), shared=True), held("a", Event(), shared=True):
        pass


def test_a_user_without_a_name_has_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(user: int) -> None:
        raise KeyError(user)

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with held("a", Event()):
        pass


def test_the_folder_of_another_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = os.getuid() + 1
    (tmp_path / f"deploykit-locks-{other}").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(UserError, match="not a folder of this user") as found, held("a", Event()):
        pass
    assert "TMPDIR" in found.value.fix


def test_a_file_of_that_name_is_told(tmp_path: Path) -> None:
    (tmp_path / f"deploykit-locks-{os.getuid()}").touch()
    with pytest.raises(UserError, match="not a folder of this user"), held("a", Event()):
        pass
