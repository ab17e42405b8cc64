"""Ctrl-C and an order to end in mid-export: nothing half-written, nothing left running."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy_kit.artifact import open_artifact
from tests.cli.support import PROGRAM, environment
from tests.support import TINY, TINY_SIZE, export_to, load_tiny
from tests.test_worker import is_running

STUCK = """#!/bin/sh
grep -q probe $3 && echo '{"torch": "1.13.0", "xnnpack": true, "python": "x"}' > $4 && exit 0
echo half > "$(grep -o '"target": "[^"]*"' $3 | cut -d'"' -f4)"
echo $$ > FOLDER/pid
sleep 900
"""


@pytest.fixture
def stuck(tmp_path: Path) -> Path:
    """A mobile interpreter that writes half a file and then hangs; its process is in the file ``pid``."""
    path = tmp_path / "python3"
    path.write_text(STUCK.replace("FOLDER", str(tmp_path)))
    path.chmod(0o755)
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_export_cleans_up(number: signal.Signals, code: int, stuck: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    old = export_to(out, load_tiny(), "onnx", simplify=False)
    lite = out / "tests.support.tiny"
    words = [PROGRAM, "export", TINY, "-t", "torchscript-lite", "--input-size", TINY_SIZE, "--out", out, "--json"]
    process = subprocess.Popen(
        [*map(str, words), "--mobile-python", str(stuck)],
        env=environment(),
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a run in the background ignores it
    )
    pid = tmp_path / "pid"
    for _ in range(3000):
        if process.poll() is not None or (pid.exists() and pid.read_text().strip()):
            break
        time.sleep(0.1)
    assert [path.name for path in lite.rglob("*.ptl")] == ["model.ptl"]
    process.send_signal(number)
    shown, said = process.communicate(timeout=200)  # what is at work would take longer
    assert process.returncode == code, said
    assert shown == ""
    assert "Traceback" not in said
    assert ("interrupted" in said) == (number == signal.SIGINT)
    assert not is_running(int(pid.read_text()))
    assert not lite.exists()
    assert [path.name for path in out.iterdir()] == [old.manifest.model.name]
    assert open_artifact(old.folder).manifest == old.manifest
