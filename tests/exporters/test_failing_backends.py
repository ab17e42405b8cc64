"""A backend that crashes, hangs or says nothing ends one export, with its last words, and nothing else.

Every target's worker is a stand-in here, so that targets that are not installed are tested as well.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from deploy_kit.errors import ExportError
from deploy_kit.exporters.mobile.interpreter import Interpreter
from deploy_kit.outcome import Outcome
from deploy_kit.sources import LoadedModel, load_model
from tests.cli import conftest
from tests.cli.support import Ended
from tests.support import TINY, TINY_SIZE, export_to, random

deploykit = conftest.deploykit

LIMIT = 0.5
"""Seconds that a worker which hangs has here."""

STAND_IN = """
import json, os, sys, time
job = json.load(open(sys.argv[1]))
if job["do"] == {failing!r}:
    {failure}
for name in {{"target", "engine"}} & set(job):
    open(job[name], "wb").write(b"a file")
json.dump({answers!r}[job["do"]], open(sys.argv[2], "w"))
"""

FAILURES = {
    "crash": ("print('last words', flush=True); os.kill(os.getpid(), 11)", "crashed with SIGSEGV: last words"),
    "hang": ("time.sleep(900)", "was still running after 0.5 s and was ended"),
    "silence": ("os._exit(0)", "exited with 0 and said nothing"),
}

ONNX = {"check": {"problem": None, "operators": {}}, "simplify": {"confirmed": False}, "convert": {"operators": {}}}


@dataclass(frozen=True)
class Backend:
    """A target: the module that starts its worker, the jobs with their outcomes, and answers of one that succeeds."""

    module: str
    jobs: dict[str, Outcome]
    answers: dict[str, Any]
    patches: dict[str, Any] = field(default_factory=dict)
    worker: Callable[[Path], object] = lambda path: path
    not_loaded: str = "the file cannot be loaded"
    options: dict[str, Any] = field(default_factory=dict)


BACKENDS = {
    "onnx": Backend(
        "onnx_file",
        {"check": Outcome.EXPORT_FAILED, "convert": Outcome.LOWER_FAILED, "run": Outcome.RUN_FAILED},
        ONNX,
        options={"ort_format": True},
    ),
    "executorch": Backend(
        "executorch",
        {"lower": Outcome.LOWER_FAILED, "run": Outcome.RUN_FAILED},
        {"lower": {"delegated": {}, "undelegated": {}, "subgraphs": 1, "arena_bytes": 0}},
        {"find_executorch": lambda: "1.4.1"},
    ),
    "openvino": Backend(
        "openvino",
        {"convert": Outcome.LOWER_FAILED, "run": Outcome.RUN_FAILED},
        {"convert": {"operators": {}}},
        {"find_openvino": lambda: "2026.4"},
    ),
    "tensorrt": Backend(
        "tensorrt",
        {"build": Outcome.LOWER_FAILED, "run": Outcome.RUN_FAILED},
        {"build": {"version": "1.7", "unsupported": [], "layers": {}}},
        {"find_packages": lambda: {"tensorrt_rtx": "1.7"}},
        worker=lambda path: ("-P", str(path)),
        not_loaded="the engine cannot be loaded",
    ),
    "torchscript-lite": Backend(
        "mobile.interpreter",
        {"save": Outcome.LOWER_FAILED, "run": Outcome.RUN_FAILED},
        {"save": {"torch": "1.13.1", "bytecode_version": 8, "operators": [], "calls": {}}},
    ),
}

CASES = [
    (target, job, kind)
    for target, backend in BACKENDS.items()
    for index, job in enumerate(backend.jobs)
    for kind in (FAILURES if index == 0 else ("crash", "hang"))
]


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(random(nn.Linear(6, 4)), input_size="2x6")


def replace_worker(target: str, failing: str, failure: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a target's worker fail in one of its jobs, and answer the others at once."""
    backend = BACKENDS[target]
    module = importlib.import_module(f"deploy_kit.exporters.{backend.module}")
    path = folder / "stand_in.py"
    path.write_text(STAND_IN.format(failing=failing, failure=failure, answers=backend.answers))
    run = module.run_worker

    def hurry(command: Any, job: dict[str, Any], *, timeout: float, **others: Any) -> dict[str, Any]:
        hangs = job["do"] == failing and failure == FAILURES["hang"][0]
        return run(command, job, timeout=LIMIT if hangs else timeout, **others)

    monkeypatch.setattr(module, "WORKER", backend.worker(path))
    monkeypatch.setattr(module, "run_worker", hurry)
    for name, value in backend.patches.items():
        monkeypatch.setattr(module, name, value)
    if target == "torchscript-lite":
        found = Interpreter(sys.executable, "1.13.1", xnnpack=True)
        monkeypatch.setattr("deploy_kit.exporters.torchscript_lite.find_interpreter", lambda *named: found)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
def quick_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The conversion to ONNX, which several targets start from, and its check: they have tests of their own."""
    for name in ("onnx", "openvino", "tensorrt"):
        module = importlib.import_module(f"deploy_kit.exporters.{name}")
        monkeypatch.setattr(module, "convert", lambda graph, file, opset: file.write_bytes(b"a model"))
    path = tmp_path / "checker.py"
    path.write_text(STAND_IN.format(failing="", failure="pass", answers=ONNX))
    monkeypatch.setattr("deploy_kit.exporters.onnx_file.WORKER", path)


@pytest.mark.usefixtures("quick_onnx")
@pytest.mark.parametrize(("target", "job", "kind"), CASES)
def test_a_failing_backend_ends_in_its_outcome_with_its_last_words(
    target: str, job: str, kind: str, model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure, said = FAILURES[kind]
    replace_worker(target, job, failure, tmp_path, monkeypatch)
    start = time.monotonic()
    with pytest.raises(ExportError) as caught:
        export_to(tmp_path / "artifacts", model, target, **BACKENDS[target].options)
    assert time.monotonic() - start < 300
    assert caught.value.outcome == BACKENDS[target].jobs[job]
    assert str(caught.value).startswith(f"Linear for {target}: ")
    assert said in str(caught.value)
    assert files(tmp_path / "artifacts") == []


@pytest.mark.usefixtures("quick_onnx")
@pytest.mark.parametrize("target", BACKENDS)
def test_a_file_that_a_runtime_refuses_is_told_from_one_that_it_does_not_run(
    target: str, model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = f"raise SystemExit({BACKENDS[target].not_loaded + ': its header is wrong'!r})"
    replace_worker(target, "run", words, tmp_path, monkeypatch)
    with pytest.raises(ExportError, match="its header is wrong") as caught:
        export_to(tmp_path / "artifacts", model, target, **BACKENDS[target].options)
    assert caught.value.outcome == Outcome.LOAD_FAILED
    assert files(tmp_path / "artifacts") == []


QUICK = ("onnx", "torchscript-lite")


@pytest.mark.parametrize(
    "target", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in BACKENDS]
)
def test_a_crash_in_one_target_does_not_stop_the_other(
    target: str, deploykit: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, outcome = next(iter(BACKENDS[target].jobs.items()))
    failure, said = FAILURES["crash"]
    other = "torchscript-lite" if target == "onnx" else "onnx"
    replace_worker(target, job, failure, tmp_path, monkeypatch)
    ended = deploykit(
        *("export", TINY, "--input-size", TINY_SIZE, "--target", target, "--target", other),
        *("--out", tmp_path / "artifacts", "--json"),
    )
    assert ended.code == 1
    failed, made = ended.json
    assert (failed["outcome"], made["outcome"]) == (outcome, "ok")
    assert said in failed["error"]
    assert said in ended.err
    assert Path(made["artifact"]).is_file()
    assert {path.parent.name for path in files(tmp_path / "artifacts")} == {other}


@pytest.mark.parametrize("target", ["onnx", "torchscript-lite"])
def test_a_hang_of_the_only_target_is_one_error_of_the_program(
    target: str, deploykit: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure, said = FAILURES["hang"]
    replace_worker(target, "run", failure, tmp_path, monkeypatch)
    ended = deploykit(
        *("export", TINY, "--input-size", TINY_SIZE, "--target", target, "--out", tmp_path / "artifacts", "--json"),
    )
    assert (ended.code, ended.out) == (1, "")
    assert f"error: tests.support.tiny for {target}: " in ended.err
    assert said in ended.err
    assert "Traceback" not in ended.err
    assert files(tmp_path / "artifacts") == []
