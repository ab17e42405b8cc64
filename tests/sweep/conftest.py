"""Stores of both kinds, a SQLite file and a database of a real PostgreSQL server that these tests start; and phones."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from deploy_kit.sweep.store import Store, open_store
from tests.devices.adbd import Daemon, device_program
from tests.devices.test_adb import DUMPS, PROPERTIES

UNPRIVILEGED = "nobody"
"""Who runs the server where the tests are run by root, whom it refuses."""


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a new server's database, by a socket in a folder of its own."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("needs PostgreSQL: sudo apt-get install postgresql")
    pytest.importorskip("psycopg", reason="needs psycopg: pip install 'deploy-kit[postgres]'")
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path may have 107 characters
    root = os.geteuid() == 0
    if root:
        shutil.chown(folder, UNPRIVILEGED)

    def call(name: str, *words: str) -> None:
        user = UNPRIVILEGED if root else None
        subprocess.run(
            [programs[-1] / name, *words], user=user, cwd=folder, check=True, capture_output=True, timeout=60
        )

    data = str(folder / "data")
    call("initdb", "-D", data, "-U", "lab", "-A", "trust", "-E", "UTF8", "--no-sync")
    settings = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off"
    call("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", settings, "start")
    try:
        call("createdb", "-h", str(folder), "-U", "lab", "results")
        yield f"postgresql://lab@/results?host={quote(str(folder))}"
    finally:
        call("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def open_again(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Open a store, empty at first, as another program would."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/results.db"
    else:
        url = request.getfixturevalue("postgresql")
        _empty(url)
    opened: list[Store] = []

    def again() -> Store:
        opened.append(open_store(url))
        return opened[-1]

    yield again
    for store in opened:
        store.close()


def _empty(url: str) -> None:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        for table in ("units", "workers", "runs", "schema"):
            connection.execute(f"DROP TABLE IF EXISTS deploykit_{table}")


@pytest.fixture
def store(open_again: Callable[[], Store]) -> Store:
    return open_again()


@pytest.fixture
def phones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Daemon]]:
    """Two phones that an adb server of this test has."""
    if shutil.which("adb") is None:
        pytest.skip("needs adb: sudo apt-get install adb")
    with socket.create_server(("127.0.0.1", 0)) as free:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free.getsockname()[1]))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ADB_LOCAL_TRANSPORT_MAX_PORT", "5553")
    daemons = []
    for name in ("a", "b"):
        folder, programs = tmp_path / f"phone-{name}", tmp_path / f"programs-{name}"
        folder.mkdir()
        programs.mkdir()
        device_program(programs, "getprop", PROPERTIES)
        device_program(programs, "dumpsys", DUMPS.replace("Status: 1", "Status: 0"))  # warm ones are waited for
        daemons.append(Daemon(folder, programs))
        subprocess.run(["adb", "connect", daemons[-1].serial], capture_output=True, timeout=30, check=False)
    yield daemons
    subprocess.run(["adb", "kill-server"], capture_output=True, timeout=30, check=False)
    for daemon in daemons:
        daemon.unplug()
