from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy_kit.worker import WorkerError, run_worker


def work(script: str, *, timeout: float = 30, **job: object) -> dict[str, object]:
    """Run a Python worker whose job is ``job`` and whose result is ``result``."""
    frame = f"import json, os, sys, time, signal\njob = json.load(open(sys.argv[1]))\nresult = {{}}\n{script}\n"
    return run_worker([sys.executable, "-c", f"{frame}json.dump(result, open(sys.argv[2], 'w'))"], job, timeout=timeout)


def test_a_job_goes_in_and_a_result_comes_out() -> None:
    assert work("result['sum'] = sum(job['numbers'])", numbers=[1, 2, 3]) == {"sum": 6}


def test_what_it_prints_does_not_matter() -> None:
    assert work("print('rubbish {'); os.write(2, b'\\xff\\xfe'); result['ok'] = True") == {"ok": True}


def test_variables_are_added_to_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "1")
    command = [sys.executable, "-c", "import json,os,sys; json.dump(dict(os.environ), open(sys.argv[2],'w'))"]
    environment = run_worker(command, {}, timeout=30, environment={"ADDED": "2"})
    assert (environment["KEPT"], environment["ADDED"]) == ("1", "2")


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_a_crash_is_named(name: str) -> None:
    with pytest.raises(WorkerError, match=f"crashed with {name}: last words"):
        work(f"print('last words', flush=True); os.kill(os.getpid(), signal.{name})")


def test_an_exception_is_told_without_its_traceback() -> None:
    with pytest.raises(WorkerError) as caught:
        work("print('noise')\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    raise ValueError('no such layer')")
    assert str(caught.value) == "ValueError: no such layer"


def test_an_exit_with_a_message_is_told() -> None:
    with pytest.raises(WorkerError, match=r"^cannot do that$"):
        work("raise SystemExit('cannot do that')")


def test_silent_failures_are_told() -> None:
    with pytest.raises(WorkerError, match="exited with 3 and said nothing"):
        work("raise SystemExit(3)")
    with pytest.raises(WorkerError, match="exited with 0 and said nothing"):
        work("os._exit(0)")


def test_a_result_that_is_no_json_is_told() -> None:
    with pytest.raises(WorkerError, match="result"):
        work("open(sys.argv[2], 'w').write('{half'); os._exit(0)")


def test_a_full_disk_is_not_the_workers_failure() -> None:
    with pytest.raises(OSError, match="No space left on device") as caught:
        work("raise OSError(28, os.strerror(28))")
    assert caught.value.errno == errno.ENOSPC


def test_long_output_is_cut() -> None:
    with pytest.raises(WorkerError) as caught:
        work("raise SystemExit('x' * 100_000)")
    assert len(str(caught.value)) < 2000


def test_a_worker_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = (
        "import subprocess\nchild = subprocess.Popen(['sleep', '900'])\n"
        "open(job['pids'], 'w').write(f'{os.getpid()} {child.pid}')\ntime.sleep(900)"
    )
    start = time.monotonic()
    with pytest.raises(WorkerError, match=r"still running after 5 s and was ended"):
        work(script, timeout=5, pids=str(pids))
    assert time.monotonic() - start < 300
    for pid in map(int, pids.read_text().split()):
        assert not is_running(pid)


PARENT = """
import sys
from deploy_kit.worker import run_worker
run_worker([sys.executable, "-c", sys.argv[1], sys.argv[2]], {}, timeout=60)
"""
STUCK = """
import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "60"])
open(sys.argv[1] + ".half", "w").write(f"{os.getpid()} {child.pid}")
os.rename(sys.argv[1] + ".half", sys.argv[1])
time.sleep(60)
"""


def test_a_worker_ends_with_its_children_when_its_parent_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with subprocess.Popen([sys.executable, "-c", PARENT, STUCK, str(pids)]) as parent:
        wait_for(pids)
        parent.kill()
    for pid in map(int, pids.read_text().split()):
        assert not is_running(pid)


def test_what_a_worker_leaves_running_ends_with_it() -> None:
    sleep = "subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)"
    left = work(f"import subprocess\nresult['pid'] = {sleep}.pid")
    assert isinstance(left["pid"], int)
    assert not is_running(left["pid"])


def wait_for(path: Path) -> None:
    for _ in range(300):
        if path.exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"{path} did not appear")


def is_running(pid: int) -> bool:
    for _ in range(50):
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return False
        except (ProcessLookupError, FileNotFoundError):
            return False
        time.sleep(0.1)
    return True


def test_a_program_that_is_not_there_is_told() -> None:
    with pytest.raises(WorkerError, match="no-such-python"):
        run_worker(["no-such-python"], {}, timeout=5)
