"""The app's core and its resources, compiled once."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from deploy_kit.benchmarks.runners.android_app import FLAVORS
from tests.android_app.support import APP, HERE, PACKAGE, PROJECT, compile_java
from tests.support import once

FRAMEWORK = Path("/usr/share/android-framework-res/framework-res.apk")


@pytest.fixture(scope="session")
def core(shared: Path) -> Path:
    """The classes of `android_app/core`."""
    return once(shared, "android_core", lambda out: compile_java(out, [PROJECT / "core" / "src" / "main" / "java"]))


@pytest.fixture(scope="session")
def fakes(shared: Path, core: Path) -> Path:
    """A fake engine, and the core as a program."""
    sources = [HERE / "java" / PACKAGE.replace(".", "/") / f"{name}.java" for name in ("FakeEngine", "Command")]
    return once(shared, "android_fakes", lambda out: compile_java(out, sources, [core]))


@pytest.fixture(scope="session")
def resources(shared: Path) -> Path:
    """Of each flavor, ``FLAVOR.apk`` with the linked resources and manifest; and ``R.java`` below ``java``."""

    def link(out: Path) -> None:
        manifest = (APP / "main" / "AndroidManifest.xml").read_text()
        (out / "AndroidManifest.xml").write_text(manifest.replace("<manifest", f'<manifest package="{PACKAGE}"', 1))
        gradle = (PROJECT / "app" / "build.gradle.kts").read_text()
        levels = {name: _one(rf"{name} = (\d+)", gradle) for name in ("minSdk", "targetSdk")}
        _tool("compile", "--dir", str(APP / "main" / "res"), "-o", str(out / "main.zip"))
        for flavor in FLAVORS.values():
            _tool("compile", "--dir", str(APP / flavor / "res"), "-o", str(out / f"{flavor}.zip"))
            _tool(
                *("link", "-I", str(FRAMEWORK), "--manifest", str(out / "AndroidManifest.xml")),
                *("--min-sdk-version", levels["minSdk"], "--target-sdk-version", levels["targetSdk"]),
                *("--java", str(out / "java"), "-o", str(out / f"{flavor}.apk")),
                *("--auto-add-overlay", str(out / "main.zip"), "-R", str(out / f"{flavor}.zip")),
            )

    if not FRAMEWORK.is_file():
        pytest.skip("there are no framework resources to link against (Debian: android-framework-res)")
    return once(shared, "android_resources", link)


def _one(pattern: str, text: str) -> str:
    (found,) = re.findall(pattern, text)
    return found


def _tool(*words: str) -> None:
    done = subprocess.run(["aapt2", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
