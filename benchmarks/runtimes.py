"""Timing files in the runtimes that are here: contestants in turn, one inference each, in processes of the runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from deploy_kit.benchmarks.timing import Rounds, rotated
from deploy_kit.exporters.base import save_inputs
from deploy_kit.outcome import Outcome


def time_files(
    target: str,
    files: Mapping[str, Path],
    inputs: tuple[Tensor, ...],
    folder: Path,
    *,
    processes: int,
    iterations: int,
    **job: Any,
) -> Rounds:
    """Seconds of every inference by contestant, of each process; at one thread, after 5 inferences of warm-up.

    Args:
        target: one of `TIMED`.
        files: by contestant; every process begins with another one.
        inputs: what the model takes.
        folder: for the inputs' file.
        processes: how often all are timed, each time in a new process.
        iterations: inferences of each contestant in a process.
        job: what else the runtime's ``bench`` job takes.

    Raises:
        WorkerError: the runtime failed.
    """
    given = save_for(target, inputs, folder)
    turns = [{name: files[name] for name in rotated(list(files), turn)} for turn in range(processes)]
    return [time_once(target, turn, given, iterations=iterations, **job)["seconds"] for turn in turns]


Job = dict[str, Any]


def save_for(target: str, inputs: tuple[Tensor, ...], folder: Path) -> Path:
    """The file in ``folder`` that a runtime reads the inputs from, written."""
    save, _ = TIMED[target]
    return save(inputs, folder)


def time_once(target: str, files: Mapping[str, Path], inputs: Path, *, iterations: int, **job: Any) -> Job:
    """What the runtime's ``bench`` job says of one process that times all files, in their order.

    ``seconds`` are of every inference by contestant, and ``window`` is when the first began and the last ended, by this
    machine's ``time.perf_counter``. The arguments are those of `time_files`, ``inputs`` what `save_for` wrote.
    """
    _, work = TIMED[target]
    protocol = {"do": "bench", "threads": 1, "warmup": 5, "iterations": iterations, "inputs": str(inputs)}
    return work({**protocol, **job, "files": {name: str(file) for name, file in files.items()}})


def _tensors(inputs: tuple[Tensor, ...], folder: Path) -> Path:
    save_inputs([inputs], folder / "inputs.pt")
    return folder / "inputs.pt"


def _arrays(inputs: tuple[Tensor, ...], folder: Path) -> Path:
    from deploy_kit.exporters import onnx_file

    return onnx_file.save_inputs([inputs], folder)


def _onnxruntime(job: Job) -> Job:
    from deploy_kit.exporters import onnx_file

    return onnx_file.work(job, "onnxruntime failed", Outcome.RUN_FAILED)


def _executorch(job: Job) -> Job:
    from deploy_kit.exporters import executorch

    return executorch.work(job, "time the programs")


def _openvino(job: Job) -> Job:
    from deploy_kit.exporters import openvino

    return openvino.work(job, Outcome.RUN_FAILED)


def _mobile_interpreter(job: Job) -> Job:
    from deploy_kit.exporters.mobile.interpreter import find_interpreter

    return find_interpreter().work({"onednn": True, **job})


Save = Callable[[tuple[Tensor, ...], Path], Path]
TIMED: dict[str, tuple[Save, Callable[[Job], Job]]] = {
    "onnx": (_arrays, _onnxruntime),
    "openvino": (_arrays, _openvino),
    "executorch": (_tensors, _executorch),
    "torchscript-lite": (_tensors, _mobile_interpreter),
}
"""Of each target that can be timed here: how its inputs are kept, and what does its runtime's jobs."""
