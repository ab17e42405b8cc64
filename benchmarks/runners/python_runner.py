"""The runner of this machine: an artifact, timed by its runtime's Python package, in a process of its own.

``python -P python_runner.py --engine onnx --model FILE --input FILE:DTYPE:SHAPE ... --result FILE``. It needs Python
3.8, the engine's package, and nothing of deploykit: the mobile interpreter is usually another Python than ours. What
it writes is what every runner writes; see `deploy_kit.benchmarks.measurement`.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import platform
import re
import sys
import time
from abc import ABC, abstractmethod
from typing import Any, Callable, Sequence  # noqa: UP035  # Python 3.8 has no subscripts in collections.abc

Outputs = Sequence[Any]
Run = Callable[[], Outputs]
"""One inference on the inputs that it was made with; returns its outputs, as the engine has them."""

MARK = 0x64706B74
"""The option of the prctl calls around a timed inference, which no kernel knows and a counting plug-in sees."""

CPUS = "/sys/devices/system/cpu"
LOOK_EVERY_NS = 100_000_000
"""Nanoseconds between two looks at the clocks while inferences are timed, at least."""

SIZES = {"float32": 4, "float16": 2, "float64": 8, "uint8": 1, "int8": 1, "int32": 4, "int64": 8, "bool": 1}


class RunnerError(Exception):
    """What the user must know, in one line."""


class Engine(ABC):
    """A runtime: how it starts, loads a file, and runs it."""

    def __init__(self, threads: int):
        self.threads = threads

    @abstractmethod
    def start(self) -> str:
        """Import the package, which is no part of loading a file; returns the runtime's name and version."""

    @abstractmethod
    def load(self, path: str) -> None:
        """Load a file."""

    @abstractmethod
    def prepare(self, inputs: list[tuple[bytes, str, list[int]]]) -> Run:
        """What runs the loaded file once on these inputs: bytes, dtype and shape of each."""


class TorchEngine(Engine):
    """What the two engines that take torch's tensors have in common."""

    def tensors(self, inputs: list[tuple[bytes, str, list[int]]]) -> list[Any]:
        import torch

        made = []
        for data, dtype, shape in inputs:
            flat = torch.frombuffer(bytearray(data), dtype=getattr(torch, dtype)) if data else torch.empty(0)
            made.append(flat.reshape(shape))
        return made


class TorchScriptLite(TorchEngine):
    def start(self) -> str:
        import torch
        import torch.jit.mobile

        torch.set_num_threads(self.threads)
        return f"torch lite {torch.__version__}"

    def load(self, path: str) -> None:
        from torch.jit.mobile import _load_for_lite_interpreter

        self.module = _load_for_lite_interpreter(path, map_location="cpu")

    def prepare(self, inputs: list[tuple[bytes, str, list[int]]]) -> Run:
        import torch

        tensors, module = self.tensors(inputs), self.module
        torch.set_grad_enabled(False)

        def run() -> Outputs:
            return _flat(module(*tensors))

        return run


class Executorch(TorchEngine):
    def start(self) -> str:
        from importlib.metadata import version

        import torch  # noqa: F401  # first: ExecuTorch's library needs it loaded
        from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
        from executorch.runtime import Runtime

        _unsafe_reset_threadpool(self.threads)
        self.engine = Runtime.get()
        return f"executorch {version('executorch')}"

    def load(self, path: str) -> None:
        with open(path, "rb") as file:
            self.data = file.read()  # must live as long as the program
        self.program = self.engine.load_program(self.data)
        self.method = self.program.load_method("forward")

    def prepare(self, inputs: list[tuple[bytes, str, list[int]]]) -> Run:
        tensors, method = self.tensors(inputs), self.method

        def run() -> Outputs:
            return list(method.execute(tensors))

        return run


class Onnx(Engine):
    def start(self) -> str:
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"

    def load(self, path: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = self.threads, 3
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def prepare(self, inputs: list[tuple[bytes, str, list[int]]]) -> Run:
        session = self.session
        feed = {given.name: _array(*each) for given, each in zip(session.get_inputs(), inputs)}

        def run() -> Outputs:
            return session.run(None, feed)

        return run


class OpenVINO(Engine):
    def start(self) -> str:
        import openvino

        return f"openvino {openvino.__version__.split('-')[0]}"

    def load(self, path: str) -> None:
        import openvino

        precise = {"INFERENCE_PRECISION_HINT": "f32"}  # as in the proof; else bfloat16 where the processor has it
        wanted = {"INFERENCE_NUM_THREADS": self.threads, "NUM_STREAMS": 1, **precise}
        self.model = openvino.Core().compile_model(path, "CPU", wanted)

    def prepare(self, inputs: list[tuple[bytes, str, list[int]]]) -> Run:
        model, arrays = self.model, [_array(*each) for each in inputs]

        def run() -> Outputs:
            results = model(arrays)
            return [results[index] for index in range(len(model.outputs))]

        return run


ENGINES: dict[str, Callable[[int], Engine]] = {
    "torchscript-lite": TorchScriptLite,
    "executorch": Executorch,
    "onnx": Onnx,
    "openvino": OpenVINO,
}


def _flat(value: Any) -> list[Any]:
    """The tensors in a module's output."""
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in _flat(item)]
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _flat(item)]
    return [value]


def _array(data: bytes, dtype: str, shape: list[int]) -> Any:
    import numpy as np

    return np.frombuffer(data, dtype=dtype).reshape(shape)


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Load a file, run it, and say what that took."""
    inputs = [_read_input(text) for text in chosen.input]
    affinity = _pin(chosen.cores)
    engine = ENGINES[chosen.engine](chosen.threads)
    runtime = engine.start()
    if not os.path.exists(chosen.model):
        raise RunnerError(f"there is no file {chosen.model!r}")
    baseline = _memory("VmRSS")
    start = time.perf_counter_ns()
    try:
        engine.load(chosen.model)
    except Exception as error:
        raise RunnerError(f"the file cannot be loaded: {_first_line(error)}") from None
    load_ns, loaded = time.perf_counter_ns() - start, _memory("VmRSS")
    mark = _marker(chosen.mark)
    try:
        run = engine.prepare(inputs)
        warmup, _ = _time(run, chosen.warmup, lambda _: None, lambda: None)
        clocks = ClockReader(affinity)
        begun = _boottime_ns()
        samples, outputs = _time(run, chosen.iterations, mark, (lambda: None) if chosen.mark else clocks.look_again)
        ended = _boottime_ns()
        clocks.look()
    except Exception as error:
        raise RunnerError(f"the model cannot be run: {_first_line(error)}") from None
    return {
        "schema": 1,
        "runner": "deploykit-python 1",
        "engine": chosen.engine,
        "runtime": runtime,
        "abi": platform.machine(),
        "threads": chosen.threads,
        "affinity": affinity,
        "load_ns": load_ns,
        "first_ns": (warmup or samples)[0],
        "warmup_ns": warmup,
        "samples_ns": samples,
        "window_ns": None if begun is None or ended is None else [begun, ended],
        "memory": {"baseline_kb": baseline, "loaded_kb": loaded, "peak_kb": _memory("VmHWM")},
        "clocks_mhz": clocks.looks,
        "outputs": _keep(outputs, chosen.outputs),
    }


def _time(run: Run, count: int, mark: Callable[[int], None], between: Callable[[], None]) -> tuple[list[int], Outputs]:
    """Nanoseconds of each of ``count`` inferences, and what the last one returned; ``between`` follows each."""
    samples: list[int] = []
    outputs: Outputs = []
    for _ in range(count):
        mark(1)
        start = time.perf_counter_ns()
        outputs = run()
        samples.append(time.perf_counter_ns() - start)
        mark(0)
        between()
    return samples, outputs


def _read_input(text: str) -> tuple[bytes, str, list[int]]:
    path, dtype, sizes = text.rsplit(":", 2)
    shape = [int(size) for size in sizes.split(",") if size]
    with open(path, "rb") as file:
        data = file.read()
    expected = math.prod(shape) * SIZES[dtype]
    if len(data) != expected:
        raise RunnerError(f"{path!r} has {len(data)} bytes; {dtype} of {sizes} has {expected}")
    return data, dtype, shape


def _pin(cores: str | None) -> list[int] | None:
    """Run on some cores only; the cores that are in force, None where there is no such call."""
    if not hasattr(os, "sched_setaffinity"):
        if cores is not None:
            raise RunnerError("this system cannot keep a process on chosen cores")
        return None
    if cores is not None:
        wanted = {int(core) for core in cores.split(",")}
        try:
            os.sched_setaffinity(0, wanted)
        except OSError as error:
            raise RunnerError(f"the process cannot be kept on the cores {cores}: {error.strerror}") from None
        if os.sched_getaffinity(0) != wanted:
            raise RunnerError(f"the process cannot be kept on the cores {cores}: some are not there")
    return sorted(os.sched_getaffinity(0))


def _memory(field: str) -> int | None:
    """A field of /proc/self/status in kB; None where there is none."""
    try:
        with open("/proc/self/status") as file:
            found = re.search(rf"^{field}:\s+(\d+) kB$", file.read(), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) if found else None


class ClockReader:
    """Looks at the clocks of some cores, and keeps what it saw; the first look is at once.

    The files stay open, so that a look costs a read each. ``looks`` stays empty where the kernel tells no clocks.
    """

    def __init__(self, cores: list[int] | None):
        self.files = {}
        for core in range(os.cpu_count() or 0) if cores is None else cores:
            try:
                path = f"{CPUS}/cpu{core}/cpufreq/scaling_cur_freq"
                self.files[str(core)] = os.open(path, os.O_RDONLY)
            except OSError:
                continue
        self.looks: list[dict[str, Any]] = []
        self.look()

    def look(self) -> None:
        """Read the clocks in MHz."""
        self.at_ns, mhz = time.perf_counter_ns(), {}
        for core, file in self.files.items():
            try:
                mhz[core] = int(os.pread(file, 32, 0)) // 1000
            except (OSError, ValueError):
                continue
        if mhz:
            self.looks.append({"at_ns": self.at_ns, "mhz": mhz})

    def look_again(self) -> None:
        """Read them where the last look is long enough ago."""
        if time.perf_counter_ns() - self.at_ns >= LOOK_EVERY_NS:
            self.look()


def _boottime_ns() -> int | None:
    """Nanoseconds since the machine was started, sleep included; None where the system has no such clock."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return None if clock is None else time.clock_gettime_ns(clock)


def _marker(wanted: bool) -> Callable[[int], None]:
    if not wanted:
        return lambda _: None
    prctl = ctypes.CDLL(None).prctl
    return lambda value: prctl(MARK, value, 0, 0, 0)


def _keep(outputs: Outputs, folder: str | None) -> list[dict[str, Any]]:
    """Write the outputs as raw files, where asked, and say what they are."""
    kept = []
    for index, output in enumerate(outputs):
        array = output.contiguous().numpy() if hasattr(output, "contiguous") else output
        name = None
        if folder is not None:
            name = f"{index}.bin"
            with open(os.path.join(folder, name), "wb") as file:
                file.write(array.tobytes())
        kept.append({"file": name, "dtype": str(array.dtype), "shape": list(array.shape)})
    return kept


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="time one artifact")
    parser.add_argument("--engine", required=True, choices=sorted(ENGINES))
    parser.add_argument("--model", required=True)
    parser.add_argument("--input", action="append", default=[])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--cores")
    parser.add_argument("--outputs")
    parser.add_argument("--mark", action="store_true")
    parser.add_argument("--result", required=True)
    return parser.parse_args()


def main() -> None:
    chosen = _arguments()
    try:
        if chosen.iterations < 1 or chosen.warmup < 0 or chosen.threads < 1:
            raise RunnerError("--iterations and --threads begin at 1, --warmup at 0")
        result = measure(chosen)
        temporary = f"{chosen.result}.{os.getpid()}"
        with open(temporary, "w") as file:
            json.dump(result, file)
        os.replace(temporary, chosen.result)
    except RunnerError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
