"""The runners of this machine: each runtime's Python package, in a process of its own."""

from __future__ import annotations

import hashlib
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from deploy_kit.benchmarks.runners.program import Program
from deploy_kit.errors import UserError
from deploy_kit.exporters import get_exporter
from deploy_kit.exporters.mobile.interpreter import find_interpreter, system_environment

PROGRAM = Path(__file__).with_name("python_runner.py")
PACKAGES = {"executorch": "executorch", "onnx": "onnxruntime", "openvino": "openvino"}
"""The runtimes that are packages of this Python, by target."""

TARGETS = (*PACKAGES, "torchscript-lite")


def local_runner(target: str, threads: int) -> Program:
    """The runner of a target's artifacts on this machine; `UserError` where nothing here runs them."""
    get_exporter(target)
    if target not in TARGETS:
        raise UserError(f"{target} cannot be timed here", fix=f"choose one of {', '.join(TARGETS)}")
    options, itself = (str(PROGRAM), "--engine", target), hashlib.sha256(PROGRAM.read_bytes()).hexdigest()
    if target in PACKAGES:
        found = f"{_installed(PACKAGES[target])}, {itself}"
        return Program(f"python, {target}", (sys.executable, "-P", *options), version=found)
    interpreter = find_interpreter()
    environment = {} if interpreter.python == sys.executable else system_environment(threads)
    return Program(f"python, {interpreter.description}", (interpreter.python, "-s", *options), (), environment, itself)


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # it may be there by another name; the runner says so where it is not
        return ""
