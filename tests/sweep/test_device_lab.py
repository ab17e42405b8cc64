"""The commands of docs/device-lab.md for many hosts and for a server, with this machine's addresses and names."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from deploy_kit.sweep.store import open_store
from tests.cli.support import ROOT
from tests.devices.adbd import Daemon
from tests.docs.support import blocks, lines
from tests.support import TINY, TINY_SIZE
from tests.sweep.test_ray import DOCUMENT, RUNNER

PAGE = ROOT / "docs" / "device-lab.md"
MARK = "DEPLOYKIT_TEST_MARK"
"""The variable that every process of a test's cluster has."""

RECIPE = f"""
models = ["{TINY}"]
targets = ["onnx"]
[model."{TINY}"]
input_size = "{TINY_SIZE}"
"""

pytestmark = pytest.mark.slow


def shown(start: str, names: Mapping[str, str] | None = None) -> str:
    """The one command of the page that starts so, with other addresses and names in place of some."""
    (text,) = (line.text for block in blocks(PAGE, "console") for line in lines(block) if line.text.startswith(start))
    for name, other in (names or {}).items():
        assert name in text
        text = text.replace(name, other)
    return text


def free_ports(count: int) -> list[str]:
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [str(each.getsockname()[1]) for each in held]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Types a command in a new folder, where a sweep's recipe is put; ends at last what the commands have left."""
    mark = uuid.uuid4().hex
    of_ray = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # a socket's path may have 107 characters
    own = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "RAY_TMPDIR": of_ray,
        "RAY_USAGE_STATS_ENABLED": "0",
        MARK: mark,
    }

    def type_in(command: str) -> str:
        with (tmp_path / "said").open("w+") as said:  # not a pipe, which a daemon would keep open
            words, environment = ["bash", "-c", command], {**os.environ, **own}
            done = subprocess.run(words, cwd=tmp_path, env=environment, stdout=said, stderr=said, timeout=600)
            said.seek(0)
            text = said.read()
        assert done.returncode == 0, f"{command}\n{text}"
        return text

    yield type_in
    while left := marked(mark):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    shutil.rmtree(of_ray, ignore_errors=True)


def marked(mark: str) -> list[int]:
    """The processes with a mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


@pytest.mark.xdist_group("ray")
def test_a_cluster_with_a_token_sweeps_from_within_and_from_afar(
    shell: Callable[[str], str], phones: list[Daemon], tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'deploy-kit[ray]'")
    runner = tmp_path / "runner"
    text = RUNNER.replace("DOCUMENT", json.dumps(DOCUMENT)).replace("sleep 0.7", "true")
    runner.write_text(text.replace("USED", '"$(dirname "$0")/../used"'))
    runner.chmod(0o755)
    devices = [f"adb:{phone.serial}" for phone in phones]
    bench = f'[bench]\ndevices = {json.dumps(devices)}\nwarmup = 10\niterations = 50\nrunner = "runner"\n'
    (tmp_path / "deploykit.toml").write_text(RECIPE + bench)
    port, client = free_ports(2)
    shell(shown("ray get-auth-token"))
    token = shown("export RAY_AUTH_MODE")
    head = shown("GRPC_ENABLE_FORK_SUPPORT=false ray start --head", {"6379": port, "10001": client})
    names = {"192.0.2.1:6379": f"127.0.0.1:{port}", "adb:R5CR10XXXXX": devices[0], "ssh:pi@board": devices[1]}
    for command in (
        head,
        shown("ray start --address", names),
        shown("deploykit sweep --on ray:", {"192.0.2.1:10001": f"127.0.0.1:{client}"}),
        shown("deploykit sweep --on auto"),
    ):
        shell(f"{token}; {command}")
    store = open_store(f"sqlite:///{tmp_path}/deploykit.db", must_exist=True)
    runs = store.runs()
    assert len(runs) == 2
    for run in runs:
        (entry,) = store.entries(run.id)
        assert sorted(each.device.spec for each in entry.measurements) == sorted(devices)
        assert all(f"--runner {runner}" in each.command for each in entry.measurements)
    store.close()


def test_a_server_keeps_the_results(shell: Callable[[str], str], postgresql: str, tmp_path: Path) -> None:
    (tmp_path / "deploykit.toml").write_text(RECIPE)
    (folder,) = parse_qs(urlsplit(postgresql).query)["host"]
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
    name = f"results_{uuid.uuid4().hex[:8]}"
    shell(f"export PGHOST={folder} PGUSER=lab PATH={programs}:$PATH; {shown('createdb', {'results': name})}")
    there = {"db.example/results": f"/{name}?host={folder}"}
    shell(shown("deploykit sweep --store", there))
    store = open_store(postgresql.replace("/results?", f"/{name}?"), must_exist=True)
    (run,) = store.runs()
    (entry,) = store.entries(run.id)
    assert entry.result.works
    store.close()
