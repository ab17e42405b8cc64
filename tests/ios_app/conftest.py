"""The app's core as a program, compiled once."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import once

HERE = Path(__file__).parent
PROJECT = HERE.parent.parent / "ios_app"
CORE = PROJECT / "Core"


def swift(*words: str, **options: object) -> str:
    """Run a tool of Swift; what it said."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture(scope="session")
def swiftc() -> str:
    found = shutil.which("swiftc")
    if found is None:
        pytest.skip("there is no swiftc (Debian 13: swiftlang; macOS: Xcode)")
    return found


@pytest.fixture(scope="session")
def program(shared: Path, swiftc: str) -> Path:
    """`swift/main.swift` with the core and the fake engine of its tests."""

    def build(out: Path) -> None:
        engine = (CORE / "Tests" / "BenchmarkCoreTests" / "FakeEngine.swift").read_text()
        (out / "FakeEngine.swift").write_text(engine.replace("@testable import BenchmarkCore\n", ""))
        core = sorted(map(str, CORE.glob("Sources/BenchmarkCore/*.swift")))
        files = [*core, str(out / "FakeEngine.swift"), str(HERE / "swift" / "main.swift")]
        swift(swiftc, "-swift-version", "5", "-O", *files, "-o", str(out / "program"))

    return once(shared, "ios_program", build) / "program"
