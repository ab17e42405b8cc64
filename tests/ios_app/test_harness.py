"""The harness's side of the app, against a fake phone; and the app's own core as that phone's app."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.harness import bench, example_inputs
from deploy_kit.benchmarks.protocol import Protocol
from deploy_kit.benchmarks.runners.choice import choose_runner
from deploy_kit.benchmarks.runners.ios_app import IosApp
from deploy_kit.devices.base import DeviceError
from deploy_kit.devices.local import Local
from deploy_kit.errors import UserError
from deploy_kit.manifest import FileRecord
from tests.devices.iphones import Phones, _nap

PROTOCOL = Protocol(warmup=2, iterations=6)


@pytest.fixture
def phones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Phones]:
    found = Phones(tmp_path / "phones", monkeypatch)
    found.set({})
    yield found
    found.close()


@pytest.fixture(scope="module")
def package(tiny_onnx: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """An artifact that is a package of two files."""
    folder = tmp_path_factory.mktemp("package")
    names = ("model.mlpackage/Data/com.apple.CoreML/model.mlmodel", "model.mlpackage/Manifest.json")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    files = [FileRecord(path=name, bytes=len(name), sha256="0" * 64) for name in names]
    update = {"target": "coreml", "main_file": "model.mlpackage", "files": files}
    return Artifact(folder, tiny_onnx.manifest.model_copy(update=update))


def executorch(tiny_onnx: Artifact) -> Artifact:
    return Artifact(tiny_onnx.folder, tiny_onnx.manifest.model_copy(update={"target": "executorch"}))


def app(engine: str = "coreml", **options: object) -> IosApp:
    return IosApp(engine, **{"sleep": _nap, **options})  # type: ignore[arg-type]


def test_a_package_is_measured_and_the_phone_is_left_clean(phones: Phones, package: Artifact) -> None:
    device = phones.ios()
    runner = app(units="cpuAndNeuralEngine")
    measured = bench(package, device, runner, PROTOCOL, command="x")
    (round_,) = measured.measurement.rounds
    assert (round_.result.engine, round_.result.runtime) == ("coreml", "fake cpuAndNeuralEngine")
    assert (len(round_.result.warmup_ns), len(round_.result.samples_ns)) == (2, 6)
    assert (round_.before.battery_percent, round_.after.thermal_status) == (87.0, "none")
    assert measured.measurement.artifact.file == "model.mlpackage"
    (given,) = example_inputs(package.manifest.inputs)
    assert np.array_equal(measured.outputs[0], given.numpy())
    assert phones.left == []
    assert phones.running() == []
    launched = [call for call in phones.calls if "launch" in call and "run" in call]
    words = launched[0][launched[0].index("--") :]
    assert words[1] == "run"
    assert words[words.index("--model") + 1].endswith("/model.mlpackage")
    assert words[-1] == "--outputs"


@pytest.mark.parametrize(
    ("kind", "message", "options"),
    [
        ("error", r"the app failed on ios:\w+-\w+: the file cannot be loaded: not a model$", {}),
        ("crash", "the app crashed .* before it had a result", {}),
        ("hang", "had no result on .* after 0 s, and was stopped", {"timeout": 0.1}),
        ("half", "damaged result", {}),
        ("rubbish", "damaged result", {}),
    ],
)
def test_an_app_that_fails(
    phones: Phones, package: Artifact, kind: str, message: str, options: dict[str, float]
) -> None:
    phones.set({"kind": kind})
    with pytest.raises(DeviceError, match=message):
        bench(package, phones.ios(), app(**options), PROTOCOL, command="x")
    assert phones.left == []
    assert phones.running() == []


@pytest.mark.parametrize("verb", ["copy to", "process launch", "info processes"])
def test_a_phone_that_is_unplugged(phones: Phones, package: Artifact, verb: str) -> None:
    device = phones.ios()
    phones.set({"unplugged_at": verb, "kind": "hang"})
    with pytest.raises(DeviceError, match="is not attached"):
        bench(package, device, app(), PROTOCOL, command="x")


def test_what_the_app_cannot_do(phones: Phones, package: Artifact, tiny_onnx: Artifact) -> None:
    device = phones.ios()
    for protocol, message in ((Protocol(cores="0x1"), "cannot choose its cores"), (Protocol(threads=2), "its threads")):
        with pytest.raises(UserError, match=message):
            bench(package, device, app(), protocol, command="x")
    with pytest.raises(UserError, match="has no iOS app"):
        bench(executorch(tiny_onnx), Local(), app("executorch"), PROTOCOL, command="x")
    assert phones.left == []


def test_the_runner_of_a_phone_is_the_app(phones: Phones) -> None:
    device = phones.ios()
    for wanted, units in ((None, "all"), ("app", "all"), ("app:cpuOnly", "cpuOnly")):
        assert choose_runner(device, "coreml", 1, wanted) == IosApp("coreml", units)
    assert choose_runner(device, "executorch", 1) == IosApp("executorch")
    for target, wanted, message in (
        ("onnx", None, "no iOS app for onnx"),
        ("coreml", "app:gpu", "no choice of compute units called 'gpu'"),
        ("executorch", "app:cpuOnly", "compute units are CoreML's"),
        ("coreml", "/bin/true", "runs no program such as '/bin/true'"),
    ):
        with pytest.raises(UserError, match=message):
            choose_runner(device, target, 1, wanted)


def test_the_apps_own_core_is_understood(phones: Phones, program: Path, tiny_onnx: Artifact) -> None:
    phones.set({"app": [str(program)]})
    device = phones.ios()
    artifact = executorch(tiny_onnx)
    measured = bench(artifact, device, app("executorch"), Protocol(warmup=2, iterations=6, threads=3), command="x")
    (round_,) = measured.measurement.rounds
    result = round_.result
    assert (result.engine, result.runner, result.threads) == ("executorch", "deploykit-ios 1", 3)
    assert (len(result.warmup_ns), len(result.samples_ns)) == (2, 6)
    assert min(result.samples_ns) >= 3e6
    assert result.first_ns == result.warmup_ns[0]
    (given,) = example_inputs(artifact.manifest.inputs)
    assert np.array_equal(measured.outputs[0], 2 * given.numpy())
    assert round_.after.battery_percent == 50
    assert phones.left == []
    phones.set({"app": [str(program)], "kind": "load"})
    with pytest.raises(DeviceError, match=r"the app failed .*: load is broken"):
        bench(artifact, device, app("executorch"), PROTOCOL, command="x")
    assert phones.left == []


def test_the_names_of_a_package_are_in_its_own_order(program: Path, tmp_path: Path) -> None:
    model = pytest.importorskip("coremltools.proto.Model_pb2", reason="coremltools is not installed").Model()
    model.specificationVersion = 7
    for name in ("zebra", "apple"):
        feature = model.description.input.add()
        feature.name, feature.shortDescription = name, "an input"
        feature.type.multiArrayType.shape.extend([1, 3])
    model.description.output.add().name = "var_12"
    model.description.metadata.author = "someone"
    model.mlProgram.version = 1
    inside = tmp_path / "m.mlpackage" / "Data" / "com.apple.CoreML"
    inside.mkdir(parents=True)
    (inside / "model.mlmodel").write_bytes(model.SerializeToString())
    done = subprocess.run([program, tmp_path / "m.mlpackage"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "zebra,apple var_12\n"), done.stderr
