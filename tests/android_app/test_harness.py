"""The harness's side of the app: a phone acted out, whose `am` runs the app's core on this machine's JVM."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy_kit.benchmarks.runners.android_app import AndroidApp, app_of
from deploy_kit.benchmarks.runners.base import Job
from deploy_kit.devices.base import Completed, Device, DeviceError, DeviceInfo, DeviceState
from deploy_kit.errors import UserError
from tests.android_app.support import needs_java

pytestmark = needs_java

PACKAGE = "org.deploykit.benchmark.onnx"
FILES = f"/sdcard/Android/data/{PACKAGE}/files"


class Phone(Device):
    """A folder as a phone, with one app installed; its paths begin with a slash as a phone's do."""

    spec = "adb:fake"

    def __init__(self, root: Path, classpath: list[Path], **properties: object):
        self.root, self.classpath, self.properties = root, classpath, properties
        self.installed = {PACKAGE}
        self.commands: list[list[str]] = []
        self.app: subprocess.Popen[bytes] | None = None
        self.damage: Callable[[Path], None] = lambda file: None
        self.am_says: tuple[int, str] | None = None
        self.gone_at: str | None = None

    def here(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def info(self) -> DeviceInfo:
        raise NotImplementedError("the app is started without it")

    def state(self) -> DeviceState:
        raise NotImplementedError("the app is started without it")

    def run(self, command: Sequence[str], *, timeout: float, environment: Mapping[str, str] | None = None) -> Completed:
        words = list(command)
        self.commands.append(words)
        if self.gone_at is not None and self.gone_at in words:
            raise DeviceError("adb:fake is gone")
        match words:
            case ["pm", "path", package]:
                known = package in self.installed
                return _ended(0 if known else 1, f"package:/data/app/{package}/base.apk\n" if known else "")
            case ["am", "start", *options]:
                return self._start(options)
            case ["am", "force-stop", _]:
                self.stop()
                return _ended(0)
            case ["sh", "-c", script, name, run, package]:
                known = "true" if self.app is not None and self.app.poll() is None else "false"
                script = f"pidof() {{ {known}; }}; {script}"
                return self._real(["sh", "-c", script, name, str(self.here(run)), package])
            case [program, *options]:
                return self._real([program, *(str(self.here(each)) if each[0] == "/" else each for each in options)])
        raise AssertionError(words)

    def _real(self, command: list[str]) -> Completed:
        done = subprocess.run(command, capture_output=True, text=True)
        return Completed(returncode=done.returncode, stdout=done.stdout, stderr=done.stderr)

    def _start(self, options: list[str]) -> Completed:
        if self.am_says is not None:
            return _ended(*self.am_says)
        assert options[:3] == ["-S", "-n", f"{PACKAGE}/org.deploykit.benchmark.BenchmarkActivity"]
        triples = [options[index : index + 3] for index in range(3, len(options), 3)]
        assert {kind for kind, _, _ in triples} <= {"--es", "--ei", "--ez"}
        extras = {
            name: value.replace("/data/local/tmp", str(self.here("/data/local/tmp"))) for _, name, value in triples
        }
        assert extras.pop("sustained") == "true"
        settings = [f"-D{name}={value}" for name, value in self.properties.items()]
        words = [str(self.here(FILES)), *(f"{name}={value}" for name, value in extras.items())]
        classpath = ":".join(map(str, self.classpath))
        self.app = subprocess.Popen(
            [
                "java",
                "-XX:TieredStopAtLevel=1",
                *settings,
                "-cp",
                classpath,
                "org.deploykit.benchmark.Command",
                "job",
                *words,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return _ended(0, "Stopping: org.deploykit.benchmark.onnx\nStarting: Intent { ... }\n")

    def stop(self) -> None:
        if self.app is not None:
            self.app.kill()
            self.app.wait()

    def push(self, source: Path, target: str) -> None:
        shutil.copy(source, self.here(target))

    def pull(self, source: str, target: Path) -> None:
        if self.gone_at == "pull":
            raise DeviceError("adb:fake is gone")
        shutil.copy(self.here(source), target)
        self.damage(target)

    def make_folder(self) -> str:
        folder = "/data/local/tmp/deploykit-abcd"
        self.here(folder).mkdir(parents=True, mode=0o700)
        return folder

    def remove(self, folder: str) -> None:
        shutil.rmtree(self.here(folder))


def _ended(returncode: int, stdout: str = "") -> Completed:
    return Completed(returncode=returncode, stdout=stdout, stderr="")


class Bench:
    """A phone with an artifact and an input in a folder, and what is asked of the app."""

    def __init__(self, phone: Phone, into: Path):
        self.phone, self.into, self.folder = phone, into, phone.make_folder()
        self.values = np.arange(6, dtype=np.float32)
        phone.here(f"{self.folder}/m.onnx").write_bytes(b"x")
        phone.here(f"{self.folder}/input0.bin").write_bytes(self.values.tobytes())
        inputs = (f"{self.folder}/input0.bin:float32:2,3",)
        self.job = Job(self.folder, self.folder, f"{self.folder}/m.onnx", inputs, threads=2, warmup=2, iterations=6)

    def start(self, **options: object):
        app = AndroidApp("onnx", **{"timeout": 60.0, "sleep": _nap, **options})  # type: ignore[arg-type]  # given by name
        return app.run(self.phone, self.job, self.into)

    def fails(self, match: str, **options: object) -> None:
        """It ends in that error, with the app stopped and nothing of the run left on the phone."""
        with pytest.raises(DeviceError, match=match):
            self.start(**options)
        assert self.phone.app is None or self.phone.app.poll() is not None
        runs = self.phone.here(f"{FILES}/runs")
        assert not runs.exists() or not list(runs.iterdir())


def _nap(seconds: float) -> None:
    time.sleep(0.05)


@pytest.fixture
def bench(core: Path, fakes: Path, tmp_path: Path) -> Iterator[Bench]:
    (tmp_path / "phone").mkdir()
    (tmp_path / "into").mkdir()
    phone = Phone(tmp_path / "phone", [core, fakes], sleep=5)
    yield Bench(phone, tmp_path / "into")
    phone.stop()


def test_it_brings_back_the_apps_result_and_its_outputs(bench: Bench) -> None:
    result = bench.start()
    assert (result.engine, result.threads, len(result.warmup_ns), len(result.samples_ns)) == ("onnx", 2, 2, 6)
    assert min(result.samples_ns) >= 5e6
    assert [output.file for output in result.outputs] == ["0.bin", "1.bin", "2.bin"]
    assert np.array_equal(np.fromfile(bench.into / "0.bin", np.float32), 2 * bench.values)
    assert {file.name for file in bench.into.iterdir()} == {"result.json", "0.bin", "1.bin", "2.bin"}


def test_the_app_may_read_the_folder_and_the_phone_is_left_clean(bench: Bench) -> None:
    bench.start()
    assert bench.phone.here(bench.folder).stat().st_mode & 0o055 == 0o055
    assert bench.phone.here(f"{bench.folder}/m.onnx").stat().st_mode & 0o044 == 0o044
    assert list(bench.phone.here(f"{FILES}/runs").iterdir()) == []
    assert bench.phone.app is not None
    assert bench.phone.app.poll() is not None
    assert ["am", "force-stop", PACKAGE] in bench.phone.commands


def test_two_runs_do_not_share_a_name(bench: Bench) -> None:
    bench.start()
    bench.start()
    names = [words[words.index("run") + 1] for words in bench.phone.commands if words[:2] == ["am", "start"]]
    assert len(set(names)) == 2


def test_an_app_that_is_not_there(bench: Bench) -> None:
    bench.phone.installed.clear()
    with pytest.raises(DeviceError, match="is not installed on adb:fake") as caught:
        bench.start()
    assert "installOnnxRelease" in caught.value.fix
    assert not any(words[0] == "am" for words in bench.phone.commands)


def test_an_engine_without_an_app_is_a_mistake_of_the_user() -> None:
    with pytest.raises(UserError, match="no Android app for openvino"):
        app_of("openvino")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ((0, "Starting: Intent\nError type 3\nError: Activity class does not exist.\n"), "Error type 3"),
        ((1, "Error: Unknown option\n"), "Unknown option"),
        ((255, ""), "exit code 255"),
        ((0, "java.lang.SecurityException: Permission Denial\n"), "Permission Denial"),
    ],
)
def test_an_intent_that_is_refused(bench: Bench, said: tuple[int, str], shown: str) -> None:
    bench.phone.am_says = said
    bench.fails(f"cannot be started on adb:fake: .*{shown}")


def test_an_app_that_says_what_is_wrong(bench: Bench) -> None:
    bench.phone.properties["kind"] = "no load"
    bench.fails("failed on adb:fake: the file cannot be loaded: not a model$")


def test_an_app_that_crashes(bench: Bench) -> None:
    bench.phone.properties["kind"] = "crash"
    bench.fails("crashed on adb:fake before it had a result")


def test_an_app_that_hangs_is_stopped(bench: Bench) -> None:
    bench.phone.properties["kind"] = "hang"
    bench.fails("had no result on adb:fake after 2 s, and was stopped", timeout=2.0)


def test_an_app_that_never_appears(bench: Bench) -> None:
    bench.phone.am_says = (0, "Starting: Intent { ... }\n")
    seconds = iter(range(0, 1000, 5))
    bench.fails("did not start on adb:fake within 30 s", clock=lambda: next(seconds), sleep=lambda wait: None)


@pytest.mark.parametrize("damage", ["half", "text", "more", "empty", "names"])
def test_a_damaged_document(bench: Bench, damage: str) -> None:
    def spoil(file: Path) -> None:
        text = file.read_text()
        document = json.loads(text)
        file.write_text(
            {
                "half": text[: len(text) // 2],
                "text": "hello",
                "more": json.dumps({**document, "speed": "fast"}),
                "empty": json.dumps({**document, "samples_ns": []}),
                "names": json.dumps({**document, "outputs": [{"file": "../../x", "dtype": "float32", "shape": []}]}),
            }[damage]
        )

    bench.phone.damage = spoil
    bench.fails("wrote a damaged result")
    assert {file.name for file in bench.into.iterdir()} == {"result.json"}


@pytest.mark.parametrize("moment", ["chmod", "start", "-c", "pull"])
def test_a_phone_that_goes_away(bench: Bench, moment: str) -> None:
    bench.phone.gone_at = moment
    with pytest.raises(DeviceError, match="is gone"):
        bench.start()


def test_an_interruption_leaves_the_phone_clean(bench: Bench) -> None:
    bench.phone.properties["kind"] = "hang"

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.start(sleep=interrupt)
    assert bench.phone.app is not None
    assert bench.phone.app.poll() is not None
    runs = bench.phone.here(f"{FILES}/runs")
    assert not runs.exists() or not list(runs.iterdir())


def test_the_files_of_a_run_are_removed_where_the_app_cannot_be_stopped(bench: Bench) -> None:
    bench.phone.gone_at = "force-stop"
    bench.start()
    assert list(bench.phone.here(f"{FILES}/runs").iterdir()) == []


def test_files_that_the_app_cannot_be_let_read(bench: Bench) -> None:
    bench.job = replace(bench.job, folder="/data/local/tmp/none")
    bench.fails("the app cannot be let read its files on adb:fake: .*none")


def test_an_app_cannot_choose_its_cores(bench: Bench) -> None:
    bench.job = replace(bench.job, cores=(7,))
    with pytest.raises(UserError, match="cannot choose its cores"):
        bench.start()
    assert bench.phone.commands == []
