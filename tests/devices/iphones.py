"""Phones that are folders, behind the real classes and a fake ``xcrun``."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from deploy_kit.devices.devicectl import Devicectl
from deploy_kit.devices.ios import Ios

HERE = Path(__file__).parent
UDID = "00008110-000559182E90401E"
BUNDLE = "org.example.deploykit.benchmark"


class Phones:
    """What is attached to this Mac: change it with `set`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder = folder
        python = shlex.join([sys.executable, "-S", "-E"])
        xcrun = folder / "bin" / "xcrun"
        xcrun.parent.mkdir(parents=True)
        xcrun.write_text(f'#!/bin/sh\nexec {python} {shlex.quote(str(HERE / "fake_xcrun.py"))} "$@"\n')
        xcrun.chmod(0o755)
        monkeypatch.setenv("PATH", f"{xcrun.parent}:{os.environ['PATH']}")
        monkeypatch.setenv("FAKE_PHONES", str(folder))
        self.app = [sys.executable, "-S", "-E", str(HERE / "fake_iphone_app.py")]
        (folder / "processes").touch()
        self.set({})

    def set(self, *phones: dict[str, Any]) -> None:
        """Each as in `fake_xcrun`, over a phone that works."""
        working = {"udid": UDID, "product": "iPhone14,5", "apps": [BUNDLE, "com.apple.Pages"], "app": self.app}
        (self.folder / "phones.json").write_text(json.dumps([working | phone for phone in phones]))

    def ios(self, udid: str | None = UDID, **options: Any) -> Ios:
        return Ios(udid, **{"tool": Devicectl(), "sleep": _nap, **options})

    @property
    def left(self) -> list[str]:
        """Files in the container."""
        container = self.folder / UDID
        return sorted(str(file.relative_to(container)) for file in container.rglob("*") if file.is_file())

    @property
    def calls(self) -> list[list[str]]:
        return [line.split()[1:] for line in (self.folder / "calls").read_text().splitlines()]

    def running(self) -> list[int]:
        found = []
        for line in (self.folder / "processes").read_text().split():
            with suppress(OSError):
                if Path("/proc", line, "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.append(int(line))
        return found

    def close(self) -> None:
        for process in self.running():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def _nap(seconds: float) -> None:
    time.sleep(0.02)
