from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from deploy_kit.api import parse_options
from deploy_kit.artifact import Artifact, open_artifact
from deploy_kit.capture import capture
from deploy_kit.errors import ExportError, MissingDependencyError, ProofError, UserError
from deploy_kit.exporters import cuda_driver, onnx_file
from deploy_kit.exporters import tensorrt as target
from deploy_kit.exporters.base import Ran
from deploy_kit.exporters.cuda_driver import Cuda, NoDeviceError
from deploy_kit.exporters.tensorrt import FILE, INSTALL, ONNX, TensorRT, TensorRTOptions
from deploy_kit.exporters.tensorrt_worker import execute
from deploy_kit.graph import Graph
from deploy_kit.outcome import Outcome
from deploy_kit.sources import load_model
from deploy_kit.stages import Stages
from tests.support import TINY, TINY_SIZE, TwoInputs, export_to, load_tiny, once, random


@pytest.fixture(scope="session")
def installed() -> str:
    found = target.find_packages()
    if not found:
        pytest.skip(f"neither tensorrt nor tensorrt_rtx is installed: {INSTALL}")
    return next(iter(found))


@pytest.fixture(scope="session")
def rtx(installed: str) -> None:
    if target.RTX not in target.find_packages():
        pytest.skip(f"tensorrt_rtx is not installed: {INSTALL}")


@pytest.fixture(scope="session")
def no_driver() -> None:
    try:
        Cuda()
    except NoDeviceError:
        return
    pytest.skip("there is a GPU here: the engine runs")


@pytest.fixture(scope="session")
def artifact(installed: str, shared: Path) -> Artifact:
    loaded = load_model(TINY, input_size=TINY_SIZE)
    folder = once(shared, "tensorrt", lambda out: export_to(out, loaded, "tensorrt"))
    return open_artifact(folder / "tests.support.tiny" / "tensorrt")


def small(module: nn.Module, *shape: int) -> Graph:
    return capture(module.eval(), (torch.randn(shape),))


def test_the_engine_is_there_with_its_onnx_and_how_to_build_it(artifact: Artifact) -> None:
    manifest = artifact.manifest
    assert manifest.main_file == FILE
    assert {file.path for file in manifest.files} == {FILE, ONNX}
    assert artifact.main_file.stat().st_size > 10_000
    assert manifest.operators == onnx_file.check(artifact.folder / ONNX)
    assert manifest.details["unsupported"] == []
    assert manifest.details["layers"]["convolution"] == 2
    assert "--onnx=model.onnx --saveEngine=model.engine --noTF32" in manifest.details["command"]
    assert manifest.details["package"] in manifest.toolchain


def test_without_a_gpu_the_onnx_is_proven_and_the_engine_is_not(artifact: Artifact, no_driver: None) -> None:
    proof = artifact.manifest.proof
    assert artifact.manifest.outcome == Outcome.EMITTED_UNVERIFIED
    assert not proof.verified
    assert not proof.passed
    assert proof.failures[0]
    assert proof.source is not None
    assert proof.source.passed
    assert proof.source.verified_by.startswith("onnxruntime")
    assert any(case.kind == "photograph" for case in proof.source.cases)


def test_a_wrong_onnx_fails_the_export(
    installed: str, no_driver: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(file: Path, inputs: Any) -> Ran:
        ran = onnx_file.run_file(file, inputs)
        assert ran.outputs is not None
        return Ran([[x + 1 for x in case] for case in ran.outputs], ran.verified_by)

    monkeypatch.setattr(target, "run_file", wrong)
    with pytest.raises(ProofError, match="onnxruntime") as error:
        export_to(tmp_path, load_tiny(), "tensorrt")
    assert error.value.outcome == Outcome.MISMATCH
    assert not list(tmp_path.rglob(FILE))


def test_engines_are_built_for_the_gpus_that_are_named(rtx: None, tmp_path: Path) -> None:
    options = TensorRTOptions(compute_capability="8.6,8.9")
    exported = TensorRT().export(small(nn.Conv2d(3, 4, 1), 1, 3, 8, 8), tmp_path, options, Stages())
    assert (tmp_path / exported.main_file).stat().st_size > 0
    assert exported.details["package"] == "tensorrt_rtx"
    assert exported.details["command"].endswith("--computeCapabilities=86,89")


def test_a_gpu_that_the_package_does_not_know_is_refused_with_those_it_does(rtx: None, tmp_path: Path) -> None:
    options = TensorRTOptions(compute_capability="9.0")
    with pytest.raises(ExportError, match=r"builds for 7\.5, .*, not for 9\.0") as error:
        TensorRT().export(small(nn.Conv2d(3, 4, 1), 1, 3, 8, 8), tmp_path, options, Stages())
    assert error.value.outcome == Outcome.LOWER_FAILED


def test_several_inputs_and_outputs_are_built(installed: str, tmp_path: Path) -> None:
    loaded = load_model(random(TwoInputs()), input_size="2x6,2x5")
    manifest = export_to(tmp_path, loaded, "tensorrt").manifest
    assert (manifest.proof.source or manifest.proof).passed


def test_the_parser_names_what_it_does_not_support(installed: str, tmp_path: Path) -> None:
    kind, float32 = helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    node = helper.make_node("Det", ["input"], ["output"], name="determinant")
    graph = helper.make_graph([node], "g", [kind("input", float32, [2, 3, 3])], [kind("output", float32, [2])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / ONNX)
    job = {
        "do": "build",
        "package": installed,
        "onnx": str(tmp_path / ONNX),
        "engine": str(tmp_path / FILE),
        "compute_capabilities": [],
    }
    built = target.work(job, "build the engine", Outcome.LOWER_FAILED, 100)
    assert [(entry["operator"], entry["node"]) for entry in built["unsupported"]] == [("Det", "determinant")]
    assert "Det (determinant)" in target._explain(built["unsupported"])
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize(
    ("body", "said", "outcome"),
    [
        ("print('last words', flush=True); import os; os.kill(os.getpid(), 11)", "SIGSEGV: last words", "lower_failed"),
        ("import time; time.sleep(60)", "still running after 1 s", "lower_failed"),
        ("raise SystemExit('the engine cannot be loaded: it is empty')", "it is empty", "load_failed"),
    ],
)
def test_a_worker_that_fails_is_an_error_with_its_last_words(
    body: str, said: str, outcome: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(target, "WORKER", ("-c", body))
    monkeypatch.setattr(target, "BUILDING_LIMIT", 1)
    monkeypatch.setattr(target, "find_packages", lambda: {"tensorrt": "11.0"})
    with pytest.raises(ExportError, match=said) as error:
        TensorRT().export(small(nn.Linear(2, 2), 1, 2), tmp_path, TensorRTOptions(), Stages())
    assert error.value.outcome == outcome


def test_without_a_package_the_command_for_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(target, "find_packages", dict)
    need, driver = TensorRT().requirements()
    assert (need.found, need.install, need.optional) == (None, "pip install 'deploy-kit[tensorrt]'", False)
    assert driver.optional
    with pytest.raises(MissingDependencyError, match="tensorrt_rtx") as error:
        TensorRT().export(small(nn.Linear(2, 2), 1, 2), tmp_path, TensorRTOptions(), Stages())
    assert error.value.fix == need.install
    assert error.value.outcome == Outcome.UNAVAILABLE
    with pytest.raises(MissingDependencyError):
        TensorRT().run(tmp_path / FILE, [], TensorRTOptions(), {"package": "tensorrt"})


def test_the_package_is_chosen_by_what_is_here_and_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    named = TensorRTOptions(compute_capability="8.6")
    monkeypatch.setattr(target, "find_packages", lambda: {"tensorrt": "11", "tensorrt_rtx": "1.7"})
    assert target.choose_package(TensorRTOptions()) == "tensorrt"
    assert target.choose_package(named) == "tensorrt_rtx"
    monkeypatch.setattr(target, "find_packages", lambda: {"tensorrt": "11"})
    assert target.choose_package(TensorRTOptions()) == "tensorrt"
    with pytest.raises(MissingDependencyError, match="tensorrt_rtx"):
        target.choose_package(named)


@pytest.mark.parametrize("value", ["86", "8.6;8.9", "8.6,", "sm86", "", "8.6, 8.9"])
def test_compute_capabilities_are_checked(value: str) -> None:
    with pytest.raises(UserError, match=r"compute-capability .*8\.6,8\.9"):
        parse_options(TensorRT(), {"compute_capability": value})


def test_compute_capabilities_are_each_built_for_once() -> None:
    assert TensorRTOptions(compute_capability="8.9,8.6,8.9").compute_capabilities == ["8.9", "8.6"]
    assert TensorRTOptions().compute_capabilities == []


def test_other_precisions_are_refused() -> None:
    with pytest.raises(UserError, match="fp32"):
        parse_options(TensorRT(), {"precision": "int4"})


STUB = """
#include <stdlib.h>
#include <string.h>
typedef unsigned long long P;
int cuInit(unsigned f) { const char *e = getenv("STUB_CUDA_INIT"); return e ? atoi(e) : 0; }
int cuDeviceGet(int *d, int i) { *d = 7; return 0; }
int cuDeviceGetName(char *n, int l, int d) { strncpy(n, "Stub", l); return d != 7; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 8 : a == 76 ? 6 : -1; return d != 7; }
int cuDevicePrimaryCtxRetain(void **c, int d) { *c = (void *)0x1234567890; return d != 7; }
int cuCtxSetCurrent(void *c) { return c != (void *)0x1234567890; }
int cuStreamCreate(void **s, unsigned f) { *s = (void *)0x9876543210; return f; }
int cuStreamSynchronize(void *s) { return s != (void *)0x9876543210; }
int cuMemAlloc_v2(P *p, size_t n) { *p = (P)malloc(n); return *p == 0; }
int cuMemFree_v2(P p) { free((void *)p); return 0; }
int cuMemcpyHtoD_v2(P to, const void *from, size_t n) { memcpy((void *)to, from, n); return 0; }
int cuMemcpyDtoH_v2(void *to, P from, size_t n) { memcpy(to, (void *)from, n); return 0; }
int cuGetErrorString(int e, const char **t) { *t = "no CUDA-capable device is detected"; return 0; }
"""
"""A driver whose device is the host's memory; it fails where a 64-bit handle arrives cut off."""


@pytest.fixture(scope="session")
def stub_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cuda")
    (folder / "stub.c").write_text(STUB)
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "libcuda.so.1", folder / "stub.c"], check=True)
    except OSError:
        pytest.skip("there is no C compiler")
    return folder / "libcuda.so.1"


class Doubler:
    """An engine that doubles its two inputs, named out of order as a network may name them."""

    num_io_tensors = 4
    names = ("output_1", "input_1", "input_0", "output_0")

    def __init__(self) -> None:
        self.addresses: dict[str, int] = {}

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name.startswith("input") else "out"

    def get_tensor_dtype(self, name: str) -> str:
        return "float"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (2, 3) if name.endswith("0") else (5,)

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        for index, count in ((0, 6), (1, 5)):
            given = (ctypes.c_float * count).from_address(self.addresses[f"input_{index}"])
            wanted = (ctypes.c_float * count).from_address(self.addresses[f"output_{index}"])
            wanted[:] = [2 * value for value in given]
        return stream == 0x9876543210


class FakeTensorRT:
    class TensorIOMode:
        INPUT = "in"

    @staticmethod
    def nptype(dtype: str) -> type:
        return np.float32


def test_an_engine_is_run_through_the_driver(stub_driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "LIBRARY", str(stub_driver))
    cuda = Cuda()
    assert (cuda.name(), cuda.compute_capability()) == ("Stub", "8.6")
    first, second = np.arange(6, dtype=np.float32).reshape(3, 2).T, np.arange(5, dtype=np.float32)
    engine = Doubler()
    outputs = execute(FakeTensorRT, cuda, engine, engine, [first.reshape(2, 3), second])
    np.testing.assert_array_equal(outputs[0], 2 * first.reshape(2, 3))
    np.testing.assert_array_equal(outputs[1], 2 * second)


def test_a_driver_without_a_device_is_told_from_none(stub_driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "LIBRARY", str(stub_driver))
    monkeypatch.setenv("STUB_CUDA_INIT", "100")
    with pytest.raises(NoDeviceError, match=r"no CUDA-capable device is detected \(100\)"):
        Cuda()
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libcuda-that-is-not-there.so")
    with pytest.raises(NoDeviceError, match="no CUDA driver"):
        Cuda()
