"""The Android parts: resources linked, sources compiled for each runtime, the activity acted out on the JVM."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy_kit.benchmarks.measurement import RunnerResult
from deploy_kit.benchmarks.runners import android_app
from tests.android_app.support import APP, HERE, PACKAGE, PROJECT, compile_java, java, needs_aapt, needs_java
from tests.support import once

GRADLE = (PROJECT / "app" / "build.gradle.kts").read_text()
README = (PROJECT / "README.md").read_text()
TREE = PACKAGE.replace(".", "/")
STUBS = HERE / "stubs"
FLAVORS = sorted(android_app.FLAVORS.values())
SUFFIXES = {"executorch": ".pte", "onnx": ".onnx", "torchscript-lite": ".ptl"}


def _dump(what: str, apk: Path, *words: str) -> str:
    return subprocess.run(["aapt2", "dump", what, *words, apk], capture_output=True, text=True, check=True).stdout


@needs_aapt
def test_the_linked_app_starts_the_activity_that_the_harness_starts(resources: Path) -> None:
    badging = _dump("badging", resources / "onnx.apk")
    assert f"launchable-activity: name='{android_app.ACTIVITY}'" in badging
    tree = _dump("xmltree", resources / "onnx.apk", "--file", "AndroidManifest.xml")
    for attribute in ("exported", "showWhenLocked", "turnScreenOn"):
        assert re.search(rf"android:{attribute}\(0x[0-9a-f]+\)=true", tree), attribute
    changes = re.search(r"android:configChanges\(0x[0-9a-f]+\)=0x([0-9a-f]+)", tree)
    assert changes is not None
    turned = 0x80 | 0x100 | 0x400 | 0x800 | 0x200  # orientation, screenLayout, screenSize, smallestScreenSize, uiMode
    assert int(changes.group(1), 16) & turned == turned


@needs_aapt
def test_each_app_has_a_name_of_its_own(resources: Path) -> None:
    names = [re.search(r"application-label:'(.*)'", _dump("badging", resources / f"{each}.apk")) for each in FLAVORS]
    assert [name and name.group(1) for name in names] == [
        "deploykit ExecuTorch",
        "deploykit ONNX Runtime",
        "deploykit PyTorch",
    ]


@needs_aapt
def test_it_has_a_light_and_a_dark_theme(resources: Path) -> None:
    shown = _dump("resources", resources / "onnx.apk")
    (theme,) = re.findall(r"style/Theme\.Benchmark\n((?: {6}.*\n)+)", shown)
    configurations = re.findall(r"^ {6}\((.*?)\)", theme, re.MULTILINE)
    assert sorted(configurations) == ["", "night"]


def test_there_is_one_app_for_each_engine_that_the_harness_starts() -> None:
    flavors = re.findall(r'create\("(\w+)"\) \{\s+applicationIdSuffix = "(\.\w+)"', GRADLE)
    assert {f"{PACKAGE}{suffix}" for _, suffix in flavors} == {android_app.app_of(each) for each in android_app.FLAVORS}
    for engine, flavor in android_app.FLAVORS.items():
        assert (flavor, f".{flavor}") in flavors
        sources = "".join(file.read_text() for file in (APP / flavor).rglob("*.java"))
        assert f'return "{engine}";' in sources
        assert f'SUFFIX = "{SUFFIXES[engine]}"' in sources
    assert f'namespace = "{PACKAGE}"' in GRADLE
    assert f'applicationId = "{PACKAGE}"' in GRADLE


def test_the_readme_names_the_versions_and_tasks_of_the_build() -> None:
    pins = dict(re.findall(r'val (\w+) = "([\d.]+)"', GRADLE))
    assert set(pins) == {"pytorch", "executorch", "onnxruntime"}
    plugin = re.search(r'"com.android.application"\) version "([\d.]+)"', (PROJECT / "build.gradle.kts").read_text())
    wrapper = (PROJECT / "gradle" / "wrapper" / "gradle-wrapper.properties").read_text()
    gradle = re.search(r"gradle-([\d.]+)-bin", wrapper)
    assert plugin is not None
    assert gradle is not None
    for version in [*pins.values(), plugin.group(1), gradle.group(1)]:
        assert f"| {version} |" in README, version
    for flavor in android_app.FLAVORS.values():
        assert f"install{flavor.capitalize()}Release" in README


@pytest.fixture(scope="session")
def phone(shared: Path) -> Path:
    """The classes of Android that the app uses, acted out."""
    return once(shared, "android_phone", lambda out: compile_java(out, [STUBS / "android"]))


@needs_java
@needs_aapt
@pytest.mark.parametrize("flavor", FLAVORS)
def test_each_app_compiles(flavor: str, core: Path, phone: Path, resources: Path, tmp_path: Path) -> None:
    compile_java(tmp_path / "runtime", [STUBS / flavor])
    sources = [
        APP / "main" / "java",
        APP / flavor / "java",
        resources / "java",
        HERE / "java" / TREE / "BuildConfig.java",
    ]
    compile_java(tmp_path / "app", sources, [core, phone, tmp_path / "runtime"])


@pytest.mark.slow
@needs_java
@pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm to fetch the classes with")
def test_the_executorch_engine_compiles_against_published_classes(core: Path, tmp_path: Path) -> None:
    package = "react-native-executorch@0.9.3"  # has the Java classes of executorch-android
    fetched = subprocess.run(["npm", "pack", package], cwd=tmp_path, capture_output=True, text=True)
    if fetched.returncode != 0:
        pytest.skip(f"{package} cannot be fetched: {fetched.stderr.strip().splitlines()[-1]}")
    member = "package/android/libs/classes.jar"
    subprocess.run(["tar", "xzf", next(tmp_path.glob("*.tgz")), member], cwd=tmp_path, check=True)
    sources = [APP / "executorch" / "java" / TREE / "ExecuTorch.java", HERE / "java" / TREE / "BuildConfig.java"]
    compile_java(tmp_path / "app", sources, [core, tmp_path / member])


@needs_java
@needs_aapt
class TestActivity:
    """The activity with a fake engine: `Screen` acts a phone out."""

    @pytest.fixture(scope="class")
    def classes(self, shared: Path, core: Path, phone: Path, resources: Path) -> list[Path]:
        sources = [HERE / "java" / TREE / f"{name}.java" for name in ("FakeEngine", "Engines", "BuildConfig", "Screen")]
        everything = [*sources, APP / "main" / "java", resources / "java"]
        made = once(shared, "android_screen", lambda out: compile_java(out, everything, [core, phone]))
        return [core, phone, made]

    def act(self, classes: list[Path], files: Path, how: str, *extras: str, **properties: object) -> dict[str, str]:
        (files / "m.fake").write_bytes(b"x")
        done = java(classes, "Screen", how, *extras, files=files, **properties)
        assert done.returncode == 0, done.stderr
        return dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)

    ASKED = ("run=ab12", "model=m.fake", "inputs=float32:2,3", "warmup=2", "iterations=7", "outputs=true")

    def test_an_intent_is_run_when_the_app_is_in_front(self, classes: list[Path], tmp_path: Path) -> None:
        seen = self.act(classes, tmp_path, "asked", *self.ASKED, sleep=20)
        assert seen["threads before focus"] == "0"
        assert (seen["button while measuring"], seen["button after"]) == ("false", "true")
        assert seen["flags"] == "128"  # the screen is kept on
        result = RunnerResult.model_validate_json((tmp_path / "runs" / "ab12" / "result.json").read_bytes())
        assert (len(result.warmup_ns), len(result.samples_ns)) == (2, 7)
        assert result.outputs[0].file == "0.bin"
        assert f"{tmp_path}/runs/ab12" in seen["shown"]

    @pytest.mark.parametrize(
        ("supported", "extras", "used"),
        [("true", (), True), ("false", (), False), ("true", ("sustained=false",), False)],
    )
    def test_sustained_performance_is_used_where_it_is_and_said(
        self, classes: list[Path], tmp_path: Path, supported: str, extras: tuple[str, ...], used: bool
    ) -> None:
        seen = self.act(classes, tmp_path, "asked", *self.ASKED, *extras, sleep=20, sustained=supported)
        assert (seen["sustained while measuring"], seen["sustained after"]) == (str(used).lower(), "false")
        runner = json.loads((tmp_path / "runs" / "ab12" / "result.json").read_text())["runner"]
        assert ("sustained performance mode" in runner) is used

    def test_a_person_starts_it_by_the_button(self, classes: list[Path], tmp_path: Path) -> None:
        seen = self.act(classes, tmp_path, "press", sleep=5)
        (folder,) = (tmp_path / "runs").iterdir()
        result = RunnerResult.model_validate_json((folder / "result.json").read_bytes())
        assert (len(result.warmup_ns), len(result.samples_ns)) == (2, 7)
        assert "m.fake" in seen["shown"]

    def test_leaving_the_app_spoils_the_run(self, classes: list[Path], tmp_path: Path) -> None:
        seen = self.act(classes, tmp_path, "leave", *self.ASKED, sleep=20)
        assert [file.name for file in (tmp_path / "runs" / "ab12").iterdir() if not file.name.endswith(".bin")] == [
            "error.txt"
        ]
        assert "left the screen" in seen["shown"]

    def test_a_failure_is_shown_and_kept(self, classes: list[Path], tmp_path: Path) -> None:
        seen = self.act(classes, tmp_path, "asked", *self.ASKED, kind="no load")
        assert "the file cannot be loaded: not a model" in seen["shown"]
        assert seen["button after"] == "true"
        assert (tmp_path / "runs" / "ab12" / "error.txt").read_text().endswith("not a model\n")

    def test_a_screen_that_is_made_anew_does_not_run_again(self, classes: list[Path], tmp_path: Path) -> None:
        self.act(classes, tmp_path, "again", *self.ASKED)
        assert not (tmp_path / "runs").exists()
