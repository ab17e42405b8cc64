"""TensorRT on a board: its own `trtexec` builds an engine from the artifact's ONNX and times it with CUDA events.

An engine is one for a GPU model and a version of TensorRT, and an artifact does not say whether it is for this one. So
the artifact's ONNX is built on the board, once for all rounds.

Of `trtexec` this uses what its help has from TensorRT 8.2 to 10.13 (``samples/common/sampleOptions.cpp`` and
``sampleReporting.cpp`` of github.com/NVIDIA/TensorRT): with ``--warmUp=0 --duration=0`` it runs just ``--iterations``
inferences; ``--exportTimes`` writes a list of objects, one for each, with ``computeMs`` between two CUDA events around
the kernels; ``--exportOutput`` writes ``name``, ``dimensions`` such as ``1x1000``, and ``values`` in six digits. Like
there, the next inference is enqueued before the last one has ended, and transfers are no part of a time. No Jetson has
been measured yet: what is tested is a script that writes those documents.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploy_kit.benchmarks.measurement import SCHEMA, Output, RunnerResult
from deploy_kit.benchmarks.runners.base import LARGEST_RESULT, LIMIT, Job, Runner
from deploy_kit.benchmarks.runners.program import last_words
from deploy_kit.devices.base import Completed, Device, DeviceError
from deploy_kit.errors import UserError
from deploy_kit.exporters.tensorrt import ONNX
from deploy_kit.manifest import Manifest

ELSEWHERE = "/usr/src/tensorrt/bin/trtexec"
"""Where NVIDIA's packages put it, which is on nobody's path."""

ENGINE, TIMES, OUTPUTS = "trtexec.engine", "times.json", "outputs.json"

ANSWER_S = 60.0
"""How long a question may take."""

LOOK = """echo "trtexec $(command -v trtexec || { [ -x "$2" ] && echo "$2"; })"
echo "machine $(uname -m)"
if [ -s "$1" ]; then echo "engine yes"; fi"""

INSIDE = f'cd "$1" && shift && rm -f {TIMES} {OUTPUTS} && exec "$@"'
"""Run it in the job's folder, whose path may have `,` and `:`, which mean something to `trtexec`; what an earlier round
left there is no result of this one."""

STRONGLY_TYPED = "--stronglyTyped"
TYPED = 11
"""The TensorRT from which networks always are strongly typed."""


@dataclass(frozen=True)
class Trtexec(Runner):
    """The board's `trtexec`. Loading is what it says that reading and deserialising took; memory is not told."""

    name: str = "trtexec"
    files: tuple[Path, ...] = ()

    def run(self, device: Device, job: Job, into: Path) -> RunnerResult:
        if job.cores is not None or job.threads != 1:
            raise UserError("TensorRT computes on the GPU", fix="leave out --cores and --threads")
        found = _look(device, job.folder)
        program = found.get("trtexec")
        if not program:
            raise DeviceError(
                f"{device.spec} has no trtexec, neither on its path nor at {ELSEWHERE}",
                fix="install TensorRT with its tools there: sudo apt-get install tensorrt, on a Jetson nvidia-tensorrt",
            )
        if "engine" not in found:
            _build(device, program, job)
        count = job.warmup + job.iterations
        wanted = [*_given(job), *_just(count), f"--exportTimes={TIMES}", f"--exportOutput={OUTPUTS}"]
        said = _call(device, job.folder, [program, f"--loadEngine={ENGINE}", *wanted], "run the engine")
        times = _times(_fetch(device, job.folder, TIMES, into), count)
        outputs = _keep(_fetch(device, job.folder, OUTPUTS, into), job.manifest, into)
        document = {
            "schema": SCHEMA,
            "runner": "trtexec",
            "engine": "tensorrt",
            "runtime": _runtime(said),
            "abi": found["machine"][:200],
            "threads": 1,
            "affinity": None,
            "load_ns": _load_ns(said),
            "first_ns": times[0],
            "warmup_ns": times[: job.warmup],
            "samples_ns": times[job.warmup : count],
            "memory": {"baseline_kb": None, "loaded_kb": None, "peak_kb": None},
            "clocks_mhz": [],
            "outputs": outputs,
        }
        return RunnerResult.model_validate(document)


def version(said: str) -> tuple[int, int, int] | None:
    """TensorRT's version in what `trtexec` prints: ``v8601`` is 8.6.1, ``v101303`` is 10.13.3."""
    found = re.search(r"\[TensorRT v(\d+)\]", said)
    if not found:
        return None
    number = int(found[1])
    major, rest = divmod(number, 10_000 if number >= 10_000 else 1000)
    return major, rest // 100, rest % 100


def _look(device: Device, folder: str) -> dict[str, str]:
    done = device.run(["sh", "-c", LOOK, "sh", f"{folder}/{ENGINE}", ELSEWHERE], timeout=ANSWER_S)
    lines = (line.partition(" ") for line in done.stdout.splitlines())
    return {"machine": "unknown", **{name: value.strip() for name, _, value in lines}}


def _build(device: Device, program: str, job: Job) -> None:
    """Leave the engine in the job's folder, whole or not at all."""
    part = f"{ENGINE}.part"
    options = [f"--onnx={ONNX}", f"--saveEngine={part}", "--noTF32", *_typing(device, program, job)]
    _call(device, job.folder, [program, *options, *_just(1)], "build the engine")
    moved = device.run(["mv", f"{job.folder}/{part}", f"{job.folder}/{ENGINE}"], timeout=ANSWER_S)
    if moved.returncode != 0:
        raise DeviceError(f"trtexec on {device.spec} said that it had built the engine, and left none")


def _typing(device: Device, program: str, job: Job) -> list[str]:
    """What lets TensorRT compute in the types that the ONNX has; `DeviceError` where it would choose its own."""
    helped = device.run([program, "--help"], timeout=ANSWER_S)
    text = helped.stdout + helped.stderr
    if helped.returncode != 0:
        raise _failure(device, helped, "say what it can do")
    if STRONGLY_TYPED in text:
        return [STRONGLY_TYPED]
    number = version(text)
    precision = "fp32" if job.manifest is None else job.manifest.options.get("precision", "fp32")
    if precision == "fp32" or (number is not None and number[0] >= TYPED):
        return []
    raise DeviceError(
        f"{_runtime(text)} on {device.spec} does not keep the types of an ONNX, and this one is of {precision}",
        fix="use TensorRT 10 or newer there (JetPack 6.1 on a Jetson), or an artifact of fp32",
    )


def _given(job: Job) -> list[str]:
    """The option for the inputs; none where their names are not known, and their values do not matter."""
    if job.manifest is None or not job.inputs:
        return []
    names = [record.name for record in job.manifest.inputs]
    files = [word.rsplit(":", 2)[0].rpartition("/")[2] for word in job.inputs]
    quoted = [f"'{name}'" if ":" in name else name for name in names]
    return ["--loadInputs=" + ",".join(f"{name}:{file}" for name, file in zip(quoted, files, strict=True))]


def _just(count: int) -> list[str]:
    """The options for so many inferences, neither a warm-up nor a duration besides."""
    return ["--warmUp=0", "--duration=0", f"--iterations={count}"]


def _call(device: Device, folder: str, command: Sequence[str], purpose: str) -> str:
    """What a command prints that runs in a folder; `DeviceError` where it fails."""
    done = device.run(["sh", "-c", INSIDE, "sh", folder, *command], timeout=LIMIT)
    if done.returncode != 0:
        raise _failure(device, done, purpose)
    return done.stdout + done.stderr


def _failure(device: Device, done: Completed, purpose: str) -> DeviceError:
    text = done.stdout + done.stderr
    if done.returncode == 137 or re.search(r"out of memory|OutOfMemory|bad_alloc|could not be allocated", text):
        return DeviceError(
            f"trtexec on {device.spec} could not {purpose}: there is too little memory",
            fix="end what else uses the GPU or the memory there, such as a desktop, or use a smaller model",
        )
    if "error while loading shared libraries" in text:
        return DeviceError(
            f"trtexec on {device.spec} does not start: {last_words(done)}",
            fix="tell the board's loader where TensorRT's libraries are: a file in /etc/ld.so.conf.d, and ldconfig",
        )
    return DeviceError(
        f"trtexec on {device.spec} could not {purpose}: {_reason(text) or last_words(done)}",
        fix="see that its TensorRT is new enough for the ONNX, and that nothing else uses the GPU",
    )


def _reason(text: str) -> str:
    """The first error that says more than which step failed; empty where there is none."""
    errors = re.findall(r"\[E\] (?:\[TRT\] )?(.*(?:\n\[\d+\] .*)?)", text)
    told = [error for error in errors if re.search(r"ERROR|Error\[|Error Code|Cuda failure|Unknown option", error)]
    return " ".join((told or errors or [""])[0].split())[:500]


def _runtime(said: str) -> str:
    """Such as ``TensorRT 10.3.0 (Orin)``."""
    number = version(said)
    gpu = re.search(r"\[I\] Selected Device: (.+)", said)
    shown = ".".join(map(str, number)) if number else "of an unknown version"
    return f"TensorRT {shown}{f' ({gpu[1].strip()})' if gpu else ''}"[:200]


def _load_ns(said: str) -> int | None:
    """From reading the engine to having deserialised it; None where `trtexec` does not tell."""
    seconds = {step: re.search(rf"Engine {step} in (\d+(?:\.\d+)?(?:e-?\d+)?) sec", said) for step in _STEPS}
    if not seconds["deserialized"]:
        return None
    return round(sum(float(found[1]) for found in seconds.values() if found) * 1e9) or None


_STEPS = ("loaded", "deserialized")


def _fetch(device: Device, folder: str, name: str, into: Path) -> list[Any]:
    """A list that `trtexec` wrote as JSON."""
    local = into / name
    local.unlink(missing_ok=True)
    device.pull(f"{folder}/{name}", local)
    if local.stat().st_size > LARGEST_RESULT:
        raise _damaged(name, f"it has {local.stat().st_size} bytes")
    try:
        found = json.loads(local.read_bytes())
    except ValueError as error:
        raise _damaged(name, str(error)) from None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise _damaged(name, "it is no list of objects")
    return found


def _times(trace: list[Any], count: int) -> list[int]:
    """The nanoseconds of each inference, of which there have to be enough."""
    if len(trace) < count:
        raise _damaged(TIMES, f"it has {len(trace)} of the {count} inferences that were asked for")
    times = [entry.get("computeMs") for entry in trace]
    for index, value in enumerate(times):
        if not isinstance(value, (int, float)) or not math.isfinite(value) or round(value * 1e6) < 1:
            raise _damaged(TIMES, f"inference {index} has no time: {value!r}")
    return [round(value * 1e6) for value in times]


def _keep(found: list[Any], manifest: Manifest | None, into: Path) -> list[Output]:
    """Write the outputs as runners do, in the model's order: `trtexec` has one of its own."""
    if manifest is None:
        return []
    by_name = {entry.get("name"): entry for entry in found}
    kept = []
    for index, record in enumerate(manifest.outputs):
        entry = by_name.get(record.name)
        if entry is None:
            raise _damaged(OUTPUTS, f"it has no output {record.name!r}")
        try:
            shape = [int(size) for size in str(entry["dimensions"]).split("x") if size]
            values = np.array(entry["values"], dtype=record.dtype).reshape(shape)
            output = Output.model_validate({"file": f"{index}.bin", "dtype": record.dtype, "shape": shape})
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise _damaged(OUTPUTS, f"{record.name!r}: {error}") from None
        (into / f"{index}.bin").write_bytes(values.tobytes())
        kept.append(output)
    return kept


def _damaged(name: str, reason: str) -> DeviceError:
    return DeviceError(f"trtexec wrote a damaged {name}: {reason}", fix="measure again")
