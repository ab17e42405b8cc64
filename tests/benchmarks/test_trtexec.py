"""TensorRT on a board: a `trtexec` that is a script, behind a real sshd, writes what the real one writes.

Its documents are those of ``exportJSONTrace`` and ``exportJSONOutput`` in ``samples/common/sampleReporting.cpp`` of
github.com/NVIDIA/TensorRT, release 10; its messages are from logs of 8.2 to 10.13 in issues of that repository.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.harness import Measured, bench, example_inputs
from deploy_kit.benchmarks.protocol import Protocol
from deploy_kit.benchmarks.runners import trtexec as module
from deploy_kit.benchmarks.runners.choice import choose_runner
from deploy_kit.benchmarks.runners.trtexec import Trtexec, version
from deploy_kit.devices.base import Device, DeviceError
from deploy_kit.devices.local import Local
from deploy_kit.devices.ssh import Ssh
from deploy_kit.errors import UserError
from deploy_kit.exporters.tensorrt import ONNX
from deploy_kit.manifest import Manifest, TensorRecord
from tests.devices.sshd import Board, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

TRTEXEC = r"""#!PYTHON -IS
import json, os, sys, time
banner = f"TensorRT.trtexec [TensorRT v{NUMBER}]{' [b26]' if NUMBER > 9999 else ''} # {' '.join(sys.argv)}"
print("&&&& RUNNING", banner)
options = dict(word.partition("=")[::2] for word in sys.argv[1:])
with open(LOG, "a") as log:
    log.write(json.dumps(options) + "\n")
def fail(*lines, code=1):
    print(*lines, sep="\n", file=sys.stderr)
    print("&&&& FAILED", banner)
    sys.exit(code)
if "--help" in options:
    print("  --saveEngine=<file>         Save the serialized engine\n" + ("  --stronglyTyped  Create" if TYPED else ""))
    sys.exit(0)
if "--stronglyTyped" in options and not TYPED:
    fail("[08/31/2025-21:07:08] [E] Unknown option: --stronglyTyped")
print("[08/31/2025-21:07:08] [I] === Device Information ===\n[08/31/2025-21:07:08] [I] Selected Device: Orin")
if "--onnx" in options:
    assert os.path.getsize(options["--onnx"]) > 100
    @BUILDING@
    open(options["--saveEngine"], "w").write(f"engine {NUMBER}")
    print("[08/31/2025-21:07:08] [I] Engine built in 9.5 sec.")
else:
    assert open(options["--loadEngine"]).read() == f"engine {NUMBER}"
    print("[08/31/2025-21:07:08] [I] Engine loaded in 0.0137625 sec.")
print("[08/31/2025-21:07:08] [I] [TRT] Loaded engine size: 15 MiB")
print("[08/31/2025-21:07:08] [I] Engine deserialized in 3.57642e-02 sec.")
@RUNNING@
assert (options["--warmUp"], options["--duration"]) == ("0", "0")
total = int(options["--iterations"])
if "--exportTimes" in options:
    time.sleep(0.05 + total * 0.0025)
    with open(options["--exportTimes"], "w") as file:
        file.write("[\n")
        for i in range(total):
            ms = 2.5 if i < 2 else 1.48 + i % 5 / 1000
            file.write(("  " if i == 0 else ", ") + f'{{ "startEnqMs" : {i * 2}, "endEnqMs" : {i * 2 + 0.1:g}, '
                f'"startH2dMs" : {i * 2}, "endH2dMs" : {i * 2 + 0.05:g}, "startComputeMs" : {i * 2 + 0.1:g}, '
                f'"endComputeMs" : {i * 2 + 0.1 + ms:g}, "startD2hMs" : {i * 2 + 1.7:g}, "endD2hMs" : {i * 2 + 1.8:g}, '
                f'"h2dMs" : 0.05, "computeMs" : {ms:g}, "d2hMs" : 0.1, "latencyMs" : {ms + 0.15:g} }}\n')
        file.write("]\n")
if "--exportOutput" in options:
    values = ", ".join(f"{i / 7:g}" for i in range(10))
    with open(options["--exportOutput"], "w") as file:
        file.write(f'[\n  {{ "name" : "output"\n  , "dimensions" : "1x10"\n  , "values" : [ {values} ]\n  }}\n]\n')
@WRITTEN@
print("&&&& PASSED", banner)
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    board = Board(tmp_path_factory.mktemp("sshd"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{board.ssh}:{os.environ['PATH']}")
        yield board
        board.stop()


@pytest.fixture(scope="module")
def device(machine: Board) -> Iterator[Ssh]:
    device = Ssh(machine.place)
    yield device
    device.close()


@pytest.fixture
def board(machine: Board) -> Iterator[Board]:
    yield machine
    for path in machine.programs.iterdir():
        path.unlink()


@pytest.fixture
def here(board: Board, monkeypatch: pytest.MonkeyPatch) -> Local:
    """This machine with the board's programs and folder for temporary files, where it makes no difference."""
    monkeypatch.setenv("PATH", f"{board.programs}:{os.environ['PATH']}")
    monkeypatch.setattr(tempfile, "tempdir", str(board.temporary))
    return Local()


@pytest.fixture(scope="module")
def artifact(tiny_onnx: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """One of TensorRT as far as this machine can make it: the ONNX is real, the engine is not."""
    folder = tmp_path_factory.mktemp("tensorrt")
    (folder / ONNX).write_bytes(tiny_onnx.main_file.read_bytes())
    (folder / "model.engine").write_bytes(b"for another GPU")
    document = tiny_onnx.manifest.model_dump(mode="json")
    files = [{**document["files"][0], "path": name} for name in (ONNX, "model.engine")]
    document |= {"target": "tensorrt", "main_file": "model.engine", "files": files}
    return Artifact(folder, Manifest.model_validate(document))


def install(board: Board, number: int = 100300, *, typed: bool = True, **code: str) -> Path:
    """Install a `trtexec` of a version; what it was called with is in the file that is returned."""
    log = board.programs / "log"
    text = TRTEXEC
    for name in ("BUILDING", "RUNNING", "WRITTEN"):
        text = text.replace(f"@{name}@", code.get(name.lower(), "pass"))
    text = text.replace("LOG", repr(str(log))).replace("NUMBER", str(number)).replace("TYPED", str(typed))
    board.program("trtexec", text.replace("PYTHON", sys.executable, 1))
    return log


def measure(artifact: Artifact, device: Device, rounds: int = 1) -> Measured:
    return bench(artifact, device, Trtexec(), Protocol(warmup=10, iterations=50, rounds=rounds), command="x")


def test_an_engine_is_built_once_on_the_board_and_timed(board: Board, device: Ssh, artifact: Artifact) -> None:
    log = install(board)
    found = measure(artifact, device, rounds=2)
    helped, built, *timed = [json.loads(line) for line in log.read_text().splitlines()]
    assert list(helped) == ["--help"]
    assert (built["--onnx"], "--stronglyTyped" in built, "--noTF32" in built) == (ONNX, True, True)
    assert len(timed) == 2
    assert all((each["--iterations"], each["--loadInputs"]) == ("60", "input:input0.bin") for each in timed)
    first = found.measurement.rounds[0].result
    assert (first.first_ns, first.warmup_ns[:3]) == (2_500_000, [2_500_000, 2_500_000, 1_482_000])
    assert first.samples_ns == [1_480_000 + 1000 * (i % 5) for i in range(50)]
    assert (first.runtime, first.engine, first.abi) == ("TensorRT 10.3.0 (Orin)", "tensorrt", device.info().abi)
    assert found.measurement.load_ms == pytest.approx(13.7625 + 35.7642)
    assert found.outputs[0] == pytest.approx((np.arange(10) / 7)[None], rel=1e-5)
    assert found.outputs[0].dtype == np.float32
    assert isinstance(choose_runner(device, "tensorrt", 1), Trtexec)
    assert board.left() == []


def test_what_it_does_not_tell_is_null(board: Board, here: Local, artifact: Artifact) -> None:
    install(board)
    program = board.programs / "trtexec"
    program.write_text(program.read_text().replace("Engine deserialized in", "Engine is there after"))
    found = measure(artifact, here).measurement
    assert (found.load_ms, found.memory_over_baseline_kb, found.rounds[0].result.affinity) == (None, None, None)
    assert {"load_ms", "memory_over_baseline_kb"} <= set(found.unavailable)


def test_its_inputs_are_those_of_every_runner(board: Board, here: Local, artifact: Artifact) -> None:
    kept = board.programs / "input"
    copied = f'import shutil; "--loadInputs" in options and shutil.copy("input0.bin", {str(kept)!r})'
    install(board, running=copied)
    measure(artifact, here)
    assert kept.read_bytes() == example_inputs(artifact.manifest.inputs)[0].numpy().tobytes()


def test_it_is_found_where_nvidia_puts_it(
    board: Board, here: Local, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(board)
    monkeypatch.setattr(module, "ELSEWHERE", str(board.programs / "else where"))
    (board.programs / "trtexec").rename(board.programs / "else where")
    assert measure(artifact, here).measurement.summary.samples == 50


def test_without_trtexec_it_says_how_to_get_it(board: Board, device: Ssh, artifact: Artifact) -> None:
    with pytest.raises(DeviceError, match=f"{board.spec} has no trtexec, neither on its path") as caught:
        measure(artifact, device)
    assert "nvidia-tensorrt" in caught.value.fix
    assert board.left() == []


@pytest.mark.parametrize(
    ("number", "typed", "precision", "told"),
    [
        (8502, False, "fp32", None),
        (8601, False, "fp16", "TensorRT 8.6.1 on .* does not keep the types of an ONNX, and this one is of fp16"),
        (110000, False, "int8", None),
        (101303, True, "int8", None),
    ],
)
def test_the_types_of_the_artifact_are_kept_or_it_is_refused(
    board: Board, here: Local, artifact: Artifact, number: int, typed: bool, precision: str, told: str | None
) -> None:
    log = install(board, number, typed=typed)
    options = {**artifact.manifest.options, "precision": precision}
    other = Artifact(artifact.folder, artifact.manifest.model_copy(update={"options": options}))
    if told:
        with pytest.raises(DeviceError, match=told) as caught:
            measure(other, here)
        assert "TensorRT 10" in caught.value.fix
    else:
        assert measure(other, here).measurement.artifact.precision == precision
        assert ("--stronglyTyped" in log.read_text()) == typed
    assert board.left() == []


PARSER = r"""fail("[09/01/2025-21:22:14] [E] [TRT] ModelImporter.cpp:774: --- End node ---",
    "[09/01/2025-21:22:14] [E] [TRT] ModelImporter.cpp:777: ERROR: builtin_op_importers.cpp:1197 In function Quant:",
    '[6] Assertion failed: scaleAllPositive && "Scale coefficients must all be positive"',
    "[09/01/2025-21:22:14] [E] Failed to parse onnx file", "[09/01/2025-21:22:14] [E] Engine set up failed")"""
MEMORY = """fail("[11/22/2024-13:40:47] [E] Error[1]: [defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime "
    "(out of memory)", "[11/22/2024-13:40:47] [E] Engine could not be created from network")"""
TIMES = """'--onnx' in options or open('times.json', 'w').write('[' + ', '.join(['{entry}'] * 60) + ']')"""
LIBRARY = "fail('trtexec: error while loading shared libraries: libnvinfer.so.10: cannot open shared', code=127)"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ({"building": PARSER}, r"could not build the engine: .*In function Quant: \[6\] Assertion failed: scale"),
        ({"building": MEMORY}, "could not build the engine: there is too little memory"),
        (
            {"building": "open(options['--saveEngine'], 'w').write('half'); os.kill(os.getpid(), 9)"},
            "too little memory",
        ),
        ({"building": LIBRARY}, r"does not start: .*libnvinfer\.so\.10"),
        ({"building": "sys.exit(0)"}, "said that it had built the engine, and left none"),
        ({"running": "'--onnx' in options or os.kill(os.getpid(), 11)"}, "could not run the engine: exit code 139"),
        ({"written": "'--onnx' in options or os.truncate('times.json', 300)"}, "a damaged times.json: "),
        ({"written": "'--onnx' in options or open('times.json', 'w').write('[]')"}, "has 0 of the 60 inferences"),
        ({"written": TIMES.format(entry='{"computeMs" : 0}')}, "inference 0 has no time: 0"),
        ({"written": TIMES.format(entry='{"latencyMs" : 1}')}, "inference 0 has no time: None"),
        ({"written": TIMES.format(entry='{"computeMs" : -nan}')}, "a damaged times.json"),
        ({"written": "'--onnx' in options or os.truncate('outputs.json', 50)"}, "a damaged outputs.json: "),
        ({"written": "'--onnx' in options or open('outputs.json', 'w').write('[]')"}, "has no output 'output'"),
    ],
)
def test_what_goes_wrong_is_told_and_leaves_nothing(
    board: Board, here: Local, artifact: Artifact, code: dict[str, str], told: str
) -> None:
    install(board, **code)
    with pytest.raises(DeviceError, match=told) as caught:
        measure(artifact, here)
    assert "local" in str(caught.value) or "damaged" in str(caught.value)
    assert board.left() == []


def test_an_engine_that_was_not_finished_is_built_again(board: Board, here: Local, artifact: Artifact) -> None:
    """The first build is killed; a second round of the same job does not load what it left."""
    from deploy_kit.benchmarks.harness import placed

    log = install(board, building="open(options['--saveEngine'], 'w').write('half'); os.kill(os.getpid(), 9)")
    with here.scratch() as home, placed(artifact, here, Trtexec(), Protocol(iterations=5), home) as there:
        with pytest.raises(DeviceError, match="too little memory"):
            there.round()
        install(board)
        assert len(there.round().result.samples_ns) == 5
    assert re.findall(r"--saveEngine", log.read_text()) == ["--saveEngine"] * 2


def test_a_board_that_fails_is_left_clean(board: Board, device: Ssh, artifact: Artifact) -> None:
    install(board, building=MEMORY)
    with pytest.raises(DeviceError, match=f"{board.spec}.* could not build the engine: there is too little memory"):
        measure(artifact, device)
    assert board.left() == []


def test_the_times_of_an_earlier_round_are_no_times_of_the_next(board: Board, device: Ssh, artifact: Artifact) -> None:
    install(board, running="len(open(LOG).readlines()) < 4 or sys.exit(0)")
    found = measure(artifact, device, rounds=2).measurement
    assert (len(found.rounds), found.valid) == (1, False)
    assert re.search("round 2 of 2 failed: .* has no file '.*/times.json'", found.reasons[0])
    assert board.left() == []


@pytest.mark.parametrize("changes", [{"threads": 2}, {"cores": "0x1"}])
def test_cores_and_threads_are_no_matter_of_a_gpu(here: Local, artifact: Artifact, changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="TensorRT computes on the GPU"):
        bench(artifact, here, Trtexec(), Protocol(**changes), command="x")


def test_outputs_come_in_the_models_order(tmp_path: Path, artifact: Artifact) -> None:
    records = [TensorRecord(name=name, shape=[1, 2], dtype=dtype) for name, dtype in (("b", "float16"), ("a", "int64"))]
    manifest = artifact.manifest.model_copy(update={"outputs": records})
    found = [
        {"name": "a", "dimensions": "1x2", "values": [3, 4]},
        {"name": "b", "dimensions": "1x2", "values": [1, 2.5]},
    ]
    kept = module._keep(found, manifest, tmp_path)
    assert [(each.file, each.dtype, each.shape) for each in kept] == [
        ("0.bin", "float16", [1, 2]),
        ("1.bin", "int64", [1, 2]),
    ]
    assert np.fromfile(tmp_path / "0.bin", np.float16).tolist() == [1, 2.5]
    assert np.fromfile(tmp_path / "1.bin", np.int64).tolist() == [3, 4]


@pytest.mark.parametrize(
    ("number", "meant"),
    [("8205", (8, 2, 5)), ("8601", (8, 6, 1)), ("8510", (8, 5, 10)), ("100001", (10, 0, 1)), ("101303", (10, 13, 3))],
)
def test_versions(number: str, meant: tuple[int, int, int]) -> None:
    assert version(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{number}] # trtexec") == meant
    assert version("&&&& RUNNING TensorRT.trtexec # trtexec") is None
