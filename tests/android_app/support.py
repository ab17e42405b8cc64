"""The Android app's sources, compiled and run on this machine's JVM."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PROJECT = ROOT / "android_app"
APP = PROJECT / "app" / "src"
HERE = Path(__file__).resolve().parent
PACKAGE = "org.deploykit.benchmark"

needs_java = pytest.mark.skipif(
    shutil.which("javac") is None, reason="there is no javac (Debian: default-jdk-headless)"
)
needs_aapt = pytest.mark.skipif(shutil.which("aapt2") is None, reason="there is no aapt2 (Debian: aapt)")


def compile_java(output: Path, sources: Sequence[Path], classpath: Sequence[Path] = ()) -> None:
    """Compile files, and those in folders, with every warning an error; assert that it works."""
    files = [str(file) for source in sources for file in ([source] if source.is_file() else source.rglob("*.java"))]
    path = ["-classpath", ":".join(map(str, classpath))] if classpath else []
    command = ["javac", "-Xlint:all,-classfile,-processing", "-Werror", "--release", "17", "-d", str(output), *path]
    done = subprocess.run([*command, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def java(
    classpath: Sequence[Path], program: str, *words: object, **properties: object
) -> subprocess.CompletedProcess[str]:
    """Run a program of the tests; properties are what `FakeEngine` and `Command` read."""
    options = [f"-D{name}={value}" for name, value in properties.items()]
    command = ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", *options, "-cp", ":".join(map(str, classpath))]
    return subprocess.run(
        [*command, f"{PACKAGE}.{program}", *map(str, words)], capture_output=True, text=True, timeout=60
    )
