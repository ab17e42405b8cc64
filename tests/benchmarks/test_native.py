"""The native runners: what they compute, what they write, and how they fail."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deploy_kit.api import export
from deploy_kit.benchmarks import native
from deploy_kit.benchmarks.instructions import count_instructions
from deploy_kit.benchmarks.measurement import RunnerResult
from deploy_kit.benchmarks.native import BuildError, Bundle, build_runner, native_runner, sources_folder
from deploy_kit.errors import MissingDependencyError, UserError
from deploy_kit.exporters.torchscript_lite import TorchScriptLite, TorchScriptLiteOptions
from deploy_kit.sources import load_model
from tests.benchmarks.test_clocks import cpus
from tests.support import Everything, TwoInputs, once, random

ENGINES = ["executorch", "torchscript-lite"]


def _build(engine: str, abi: str) -> Bundle:
    try:
        return build_runner(engine, abi)
    except MissingDependencyError as error:
        pytest.skip(f"{error}: {error.fix}")


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def bundle(engine: str) -> Bundle:
    return _build(engine, "x86_64")


@dataclass(frozen=True)
class Case:
    """A model's file, inputs for it, and what its runtime in Python makes of them."""

    model: Path
    inputs: tuple[Tensor, ...]
    expected: list[Tensor]


SIZES = {"everything": "1x3x32x32", "two": "1x6,1x5"}
MODELS: dict[str, type[nn.Module]] = {"everything": Everything, "two": TwoInputs}
"""One with convolutions of every kind, attention and a resize; one with two inputs and three outputs."""

LOWER = """
import sys
from pathlib import Path
import torch
from deploy_kit.exporters import executorch_worker as worker
folder = Path(sys.argv[1])
for name in sys.argv[2:]:
    program = str(folder / f"{name}.pt2")
    job = {"target": str(folder / f"{name}.pte"), "delegate": "xnnpack", "quick": True, "bundle": None, "threads": 1}
    worker.lower({**job, "source": program})
    worker.run({**job, "inputs": str(folder / f"{name}.in"), "outputs": str(folder / f"{name}.out")})
"""


def _inputs(name: str) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    shapes = [[int(side) for side in size.split("x")] for size in SIZES[name].split(",")]
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def _make_pte(folder: Path) -> None:
    for name, model in MODELS.items():
        program = torch.export.export(random(model()), _inputs(name))
        torch.export.save(program, folder / f"{name}.pt2")
        torch.save([_inputs(name)], folder / f"{name}.in")
    subprocess.run([sys.executable, "-c", LOWER, folder, *MODELS], check=True, capture_output=True)


def _make_ptl(folder: Path) -> None:
    for name, model in MODELS.items():
        artifact = export(load_model(random(model()), input_size=SIZES[name]), "torchscript-lite", out=folder / name)
        options = TorchScriptLiteOptions.model_validate(artifact.manifest.options)
        ran = TorchScriptLite().run(artifact.main_file, [_inputs(name)], options, artifact.manifest.details)
        torch.save(ran.outputs, folder / f"{name}.out")
        shutil.copyfile(artifact.main_file, folder / f"{name}.ptl")


@pytest.fixture(scope="session")
def cases(engine: str, bundle: Bundle, shared: Path) -> dict[str, Case]:
    make, suffix = (_make_pte, "pte") if engine == "executorch" else (_make_ptl, "ptl")
    folder = once(shared, f"native_{engine}", make)
    return {
        name: Case(folder / f"{name}.{suffix}", _inputs(name), torch.load(folder / f"{name}.out")[0]) for name in MODELS
    }


@pytest.fixture
def case(cases: dict[str, Case]) -> Case:
    return cases["everything"]


def _options(model: Path, inputs: tuple[Tensor, ...], folder: Path, /, **changes: Any) -> list[str]:
    """A runner's options; a change to None leaves one out."""
    words = []
    for i, tensor in enumerate(inputs):
        (folder / f"in{i}").write_bytes(tensor.numpy().tobytes())
        shape = ",".join(map(str, tensor.shape))
        words += ["--input", f"{folder}/in{i}:{str(tensor.dtype).removeprefix('torch.')}:{shape}"]
    given = {"model": model, "threads": 1, "warmup": 2, "iterations": 3, "result": folder / "result.json", **changes}
    return words + [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]


def _start(bundle: Bundle, options: list[str], **details: Any) -> subprocess.CompletedProcess[str]:
    command = [*bundle.command(str(bundle.folder)), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **details)


def _measure(bundle: Bundle, options: list[str], folder: Path) -> RunnerResult:
    done = _start(bundle, options)
    assert (done.returncode, done.stderr) == (0, "")
    return RunnerResult.model_validate_json((folder / "result.json").read_text())


def _outputs(result: RunnerResult, folder: Path) -> list[np.ndarray[Any, Any]]:
    return [np.fromfile(folder / str(x.file), x.dtype).reshape(x.shape) for x in result.outputs]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_the_outputs_are_those_of_the_runtime_in_python(
    bundle: Bundle, cases: dict[str, Case], tmp_path: Path, name: str, threads: int
) -> None:
    case = cases[name]
    options = _options(case.model, case.inputs, tmp_path, threads=threads, outputs=tmp_path / "out")
    found = _outputs(_measure(bundle, options, tmp_path), tmp_path / "out")
    assert [x.shape for x in found] == [tuple(x.shape) for x in case.expected]
    for ours, theirs in zip(found, case.expected):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-5)


def test_the_result_says_what_was_done(engine: str, bundle: Bundle, case: Case, tmp_path: Path) -> None:
    result = _measure(bundle, [*_options(case.model, case.inputs, tmp_path, threads=2), "--mark"], tmp_path)
    assert (result.runner, result.engine, result.abi) == (f"deploykit-{engine} 1", engine, "x86_64")
    assert result.runtime.split()[0] in ("executorch", "libtorch")
    assert (result.threads, len(result.warmup_ns), len(result.samples_ns)) == (2, 2, 3)
    assert result.first_ns == result.warmup_ns[0]
    assert result.affinity == sorted(os.sched_getaffinity(0))
    memory = result.memory
    assert memory.baseline_kb is not None
    assert memory.loaded_kb is not None
    assert memory.peak_kb is not None
    assert memory.baseline_kb < memory.loaded_kb <= memory.peak_kb
    assert [x.file for x in result.outputs] == [None]
    assert not list(tmp_path.glob("*.part"))


def test_without_a_warm_up_the_first_inference_is_the_first_sample(bundle: Bundle, case: Case, tmp_path: Path) -> None:
    result = _measure(bundle, _options(case.model, case.inputs, tmp_path, warmup=0), tmp_path)
    assert (result.warmup_ns, result.first_ns) == ([], result.samples_ns[0])


def test_it_runs_on_the_cores_that_were_asked_for(bundle: Bundle, case: Case, tmp_path: Path) -> None:
    core = max(os.sched_getaffinity(0))
    result = _measure(bundle, _options(case.model, case.inputs, tmp_path, cores=core), tmp_path)
    assert result.affinity == [core]


UNDER_OTHER_CPUS = 'mount --bind "$1" /sys/devices/system/cpu && shift && exec "$@"'


def test_the_clocks_are_looked_at_now_and_then_and_the_window_is_told(
    bundle: Bundle, case: Case, tmp_path: Path
) -> None:
    """In a namespace whose ``/sys`` has clocks, which machines in a cloud have not."""
    private = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*private, "true"], capture_output=True).returncode != 0:
        pytest.skip("this machine gives no namespaces")
    core = min(os.sched_getaffinity(0))
    folder = cpus(tmp_path / "cpu", dict.fromkeys(range(core + 2), "1804800"))
    options = _options(case.model, case.inputs, tmp_path, iterations=3000, cores=core)
    command = [*private, "sh", "-c", UNDER_OTHER_CPUS, "sh", str(folder), *bundle.command(str(bundle.folder)), *options]
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert (done.returncode, done.stderr) == (0, "")
    result = RunnerResult.model_validate_json((tmp_path / "result.json").read_text())
    assert [look.mhz for look in result.clocks_mhz] == [{core: 1804}] * len(result.clocks_mhz)
    first, *between, last = [look.at_ns for look in result.clocks_mhz]
    assert last - first >= sum(result.samples_ns)
    assert len(between) <= (last - first) // 100_000_000
    assert (last - first) // 200_000_000 <= len(between)
    assert result.window_ns is not None
    begun, ended = result.window_ns
    assert before < begun < ended < after
    assert sum(result.samples_ns) <= ended - begun <= last - first


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _scramble(path: Path) -> None:
    path.write_bytes(b"not a model" * 100)


FAILURES: dict[str, tuple[dict[str, Any], Callable[[Path], object] | None, int, str]] = {
    "a model that is not there": ({}, Path.unlink, 1, "cannot read the model"),
    "a model that is cut off": ({}, _cut, 1, "cannot be loaded"),
    "a file that is no model": ({}, _scramble, 1, "cannot be loaded"),
    "a core that is not there": ({"cores": "0,4711"}, None, 1, "cores 0,4711"),
    "no such core at all": ({"cores": "99999"}, None, 1, "cores 99999"),
    "an option that does not exist": ({"speed": 3}, None, 2, "there is no option '--speed'"),
    "no model": ({"model": None}, None, 2, "--model is missing"),
    "no threads": ({"threads": 0}, None, 2, "--threads must be a whole number from 1 on"),
    "a word for a number": ({"iterations": "many"}, None, 2, "--iterations must be a whole number"),
    "cores that are words": ({"cores": "big"}, None, 2, "a core of --cores must be a whole number"),
    "a result in a folder that is not there": ({"result": "/nowhere/result.json"}, None, 1, "cannot write"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_failures_are_one_line_and_leave_no_result(bundle: Bundle, case: Case, tmp_path: Path, failure: str) -> None:
    changes, damage, code, words = FAILURES[failure]
    model = tmp_path / "model"
    shutil.copyfile(case.model, model)
    if damage is not None:
        damage(model)
    done = _start(bundle, _options(model, case.inputs, tmp_path, **changes))
    assert done.returncode == code
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert not list(tmp_path.glob("result.json*"))


@pytest.mark.parametrize(
    ("spec", "code", "words"),
    [
        ("{}:float32:1,3,32,33", 1, "its shape and type need"),
        ("{}:float32:1,3,32,31", 1, "its shape and type need"),
        ("{}:float33:1,3,32,32", 2, "float33"),
        ("{}:float32", 2, "FILE:DTYPE"),
        ("{}:float32:1,-3", 2, "whole number"),
        ("{}:float32:2147483647,2147483647,2147483647", 2, "cannot be as large"),
        ("{}:float32:1,3,1024", 1, ""),
        ("{}x:float32:1,3,32,32", 1, "cannot read the input"),
    ],
)
def test_inputs_that_do_not_suit_are_said(
    bundle: Bundle, case: Case, tmp_path: Path, spec: str, code: int, words: str
) -> None:
    (tmp_path / "data").write_bytes(case.inputs[0].numpy().tobytes())
    options = ["--input", spec.format(tmp_path / "data"), *_options(case.model, (), tmp_path)]
    done = _start(bundle, options)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert not (tmp_path / "result.json").exists()


def test_a_runner_that_is_ended_while_it_writes_leaves_the_last_result(
    bundle: Bundle, case: Case, tmp_path: Path
) -> None:
    options = _options(case.model, case.inputs, tmp_path)
    (tmp_path / "result.json").write_text("the last one")
    room = 100  # bytes, after which the system ends it: in the middle of the document

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    done = _start(bundle, options, preexec_fn=limit)
    assert done.returncode == -signal.SIGXFSZ
    assert (tmp_path / "result.json").read_text() == "the last one"


def test_the_interpreter_gets_the_environment_that_its_libraries_need(tmp_path: Path) -> None:
    bundle = _build("torchscript-lite", "x86_64")
    os.mkfifo(tmp_path / "fifo")  # a model that is no file: it ends there, with its environment settled
    environment = {**os.environ, "OMP_NUM_THREADS": "7", "LD_DEBUG": "statistics"}
    options = _options(tmp_path / "fifo", (torch.zeros(1),), tmp_path, threads=2)
    done = _start(bundle, options, env=environment)
    started = done.stderr.count("runtime linker statistics")
    settled = {**environment, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
    settled["OPENBLAS_CORETYPE"] = "SkylakeX"
    again = _start(bundle, options, env=settled).stderr.count("runtime linker statistics")
    assert started > again > 0  # the first had to start itself again


def test_every_library_is_in_the_bundle_or_the_system_s_own(bundle: Bundle) -> None:
    there = {path.name for path in bundle.files}
    for path in bundle.files:
        for name in native._needed(path):
            assert name in there or name.startswith(native.LIBC), f"{path.name} needs {name}"


def test_the_harness_gets_every_file_and_the_command(engine: str, bundle: Bundle) -> None:
    runner = native_runner(engine, "x86_64")
    assert set(runner.files) == set(bundle.files)
    assert runner.words("/data/local/tmp/x") == ["/data/local/tmp/x/runner"]


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(UserError, match="native runner"):
        build_runner("onnx", "x86_64")
    with pytest.raises(UserError, match="ABI"):
        build_runner("executorch", "armv7l")


def test_a_missing_compiler_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingDependencyError) as caught:
        build_runner("executorch", "aarch64")
    assert caught.value.fix == "sudo apt-get install g++-aarch64-linux-gnu"


def test_a_build_that_fails_leaves_nothing(
    bundle: Bundle, engine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    del bundle  # it says whether this engine can be built here
    broken = tmp_path / "sources"
    shutil.copytree(sources_folder(), broken)
    for source in broken.glob("*.cc"):
        source.write_text("this is no program\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "sources_folder", lambda: broken)
    with pytest.raises(BuildError, match=r"could not be compiled: .*error"):
        build_runner(engine, "x86_64")
    assert not list(native.cache_folder().iterdir())


# The thread pool, every function of which has to do each place of a grid once.

POOL = {
    name: (dimensions, tiles)
    for dimensions, tiles, names in [
        (1, 0, "1d 1d_with_thread 1d_with_uarch"),
        (1, 1, "1d_tile_1d 1d_tile_1d_dynamic 1d_tile_1d_dynamic_with_thread"),
        (1, 1, "1d_tile_1d_dynamic_with_uarch_with_thread"),
        (2, 0, "2d 2d_with_thread"),
        (2, 1, "2d_tile_1d 2d_tile_1d_with_uarch 2d_tile_1d_with_uarch_with_thread 2d_tile_1d_dynamic"),
        (2, 1, "2d_tile_1d_dynamic_with_thread 2d_tile_1d_dynamic_with_uarch_with_thread"),
        (2, 2, "2d_tile_2d 2d_tile_2d_with_uarch 2d_tile_2d_dynamic 2d_tile_2d_dynamic_with_uarch"),
        (2, 2, "2d_tile_2d_dynamic_with_thread"),
        (3, 0, "3d"),
        (3, 1, "3d_tile_1d 3d_tile_1d_with_thread 3d_tile_1d_with_uarch 3d_tile_1d_with_uarch_with_thread"),
        (3, 1, "3d_tile_1d_dynamic 3d_tile_1d_dynamic_with_thread 3d_tile_1d_dynamic_with_uarch_with_thread"),
        (3, 2, "3d_tile_2d 3d_tile_2d_with_uarch 3d_tile_2d_dynamic 3d_tile_2d_dynamic_with_uarch"),
        (3, 2, "3d_tile_2d_dynamic_with_thread"),
        (4, 0, "4d"),
        (4, 1, "4d_tile_1d"),
        (4, 2, "4d_tile_2d 4d_tile_2d_with_uarch 4d_tile_2d_dynamic 4d_tile_2d_dynamic_with_uarch"),
        (5, 0, "5d"),
        (5, 1, "5d_tile_1d"),
        (5, 2, "5d_tile_2d"),
        (6, 0, "6d"),
        (6, 1, "6d_tile_1d"),
        (6, 2, "6d_tile_2d"),
    ]
    for name in names.split()
}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    library = tmp_path_factory.mktemp("pool") / "pool.so"
    include = Path(torch.__file__).parent / "include"
    options = ["-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", "-idirafter", include]
    subprocess.run([compiler, *options, sources_folder() / "pool.cc", "-o", library], check=True)
    functions = ctypes.CDLL(str(library))
    functions.pthreadpool_create.restype = ctypes.c_void_p
    return functions


@pytest.mark.parametrize("threads", [1, 3])
def test_the_pool_does_every_place_of_a_grid_once(pool: ctypes.CDLL, threads: int) -> None:
    made = ctypes.c_void_p(pool.pthreadpool_create(ctypes.c_size_t(threads)))
    for name, (dimensions, tiles) in POOL.items():
        ranges, steps = [5, 3, 4, 2, 3, 7][:dimensions], [3, 2][:tiles]
        extra = ("uarch" in name) + ("thread" in name)
        done = np.zeros(ranges, dtype=int)
        seen: set[int] = set()

        def task(
            context: int,
            *words: int,
            done: Any = done,
            seen: set[int] = seen,
            extra: int = extra,
            dimensions: int = dimensions,
            tiles: int = tiles,
            name: str = name,
        ) -> None:
            assert context == 77
            if "thread" in name:
                seen.add(words[extra - 1] & 0xFFFFFFFF)
            place, sizes = words[extra : extra + dimensions], words[extra + dimensions :]
            sizes = (1,) * (dimensions - tiles) + sizes
            done[tuple(slice(first, first + size) for first, size in zip(place, sizes))] += 1

        arguments = extra + dimensions + tiles
        callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_size_t] * arguments)(task)
        kinds = [ctypes.c_uint32(0), ctypes.c_uint32(0)] if "uarch" in name else []
        sizes = [ctypes.c_size_t(size) for size in (*ranges, *steps)]
        call = getattr(pool, f"pthreadpool_parallelize_{name}")
        call(made, callback, ctypes.c_void_p(77), *kinds, *sizes, ctypes.c_uint32(1))
        assert (done == 1).all(), name
        assert seen <= set(range(threads)), name
    pool.pthreadpool_destroy(made)


def test_the_pool_loses_no_job_among_many(pool: ctypes.CDLL) -> None:
    made = ctypes.c_void_p(pool.pthreadpool_create(ctypes.c_size_t(4)))
    calls = []
    callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t)(lambda _, i: calls.append(i))
    for turn in range(300):
        size = ctypes.c_size_t(turn % 7)
        pool.pthreadpool_parallelize_1d(made, callback, None, size, ctypes.c_uint32(0))
        assert sorted(calls) == list(range(turn % 7))
        calls.clear()
        if turn % 100 == 99:
            time.sleep(0.05)  # long enough for the threads to sleep, and be woken by the next job
    pool.pthreadpool_destroy(made)


# arm64, under qemu.


def _arm(engine: str) -> Bundle:
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("there is no qemu-aarch64 (sudo apt-get install qemu-user)")
    return _build(engine, "aarch64")


@pytest.mark.slow
def test_arm64_computes_what_this_machine_does(engine: str, case: Case, tmp_path: Path) -> None:
    bundle = _arm(engine)
    options = _options(case.model, case.inputs, tmp_path, outputs=tmp_path / "out", warmup=0, iterations=1)
    command = ["qemu-aarch64", "-cpu", "cortex-a76", *bundle.command(str(bundle.folder)), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    result = RunnerResult.model_validate_json((tmp_path / "result.json").read_text())
    assert result.abi == "aarch64"
    for ours, theirs in zip(_outputs(result, tmp_path / "out"), case.expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_instructions_are_the_same_on_every_run(engine: str, case: Case) -> None:
    bundle = _arm(engine)
    first, second = (count_instructions(bundle, case.model, list(case.inputs)) for _ in range(2))
    assert first == second
    assert min(first.counts) > 100_000
    assert first.pins["threads"] == "1"
