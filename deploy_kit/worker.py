"""Running what may crash or hang in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from deploy_kit.disk import FULL
from deploy_kit.errors import DeployKitError

TAIL = 1200

GUARD = ("/bin/sh", "-c", "read -r _; kill -9 0")
"""Leads a worker's process group and ends it when a pipe from this process closes, as it does if this is killed."""


class WorkerError(DeployKitError):
    """A worker process failed; the message holds its last words."""


def run_worker(
    command: Sequence[str | Path],
    job: Mapping[str, Any],
    *,
    timeout: float,
    environment: Mapping[str, str] | None = None,
    scratch: Path | None = None,
) -> dict[str, Any]:
    """Run ``command JOB RESULT`` and return the JSON object that it wrote to RESULT.

    Args:
        command: the program and its first arguments; the paths of two JSON files are appended.
        job: what the worker is to do.
        timeout: seconds until it is ended.
        environment: variables to add to this process's.
        scratch: a folder for the two files; None is the system's for temporary ones.

    Raises:
        WorkerError: it did not start, crashed, ran out of time, failed, or wrote no result.
        OSError: a disk is full, here or as the worker says.
    """
    with tempfile.TemporaryDirectory(prefix="deploykit-", dir=scratch) as folder:
        job_file, result_file = Path(folder, "job.json"), Path(folder, "result.json")
        job_file.write_text(json.dumps(job))
        words = [str(word) for word in (*command, job_file, result_file)]
        with subprocess.Popen(GUARD, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, process_group=0) as guard:
            try:
                process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **(environment or {})},
                    process_group=guard.pid,
                )
            except OSError as error:
                raise WorkerError(f"{words[0]} cannot be started: {error.strerror}") from error
            try:
                output, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                name = Path(words[0]).name
                raise WorkerError(f"{name} was still running after {timeout:g} s and was ended") from None
            finally:
                _end(guard.pid)
                process.wait()
        last_words = _reason(output.decode(errors="replace").strip())
        for number in FULL if process.returncode != 0 else ():
            if os.strerror(number) in last_words:
                raise OSError(number, os.strerror(number))
        if process.returncode < 0:
            name = signal.Signals(-process.returncode).name
            raise WorkerError(f"{Path(words[0]).name} crashed with {name}: {last_words or 'it said nothing'}")
        if process.returncode != 0 or not result_file.is_file():
            raise WorkerError(last_words or f"{Path(words[0]).name} exited with {process.returncode} and said nothing")
        try:
            return json.loads(result_file.read_text())
        except ValueError as error:
            raise WorkerError(f"{Path(words[0]).name} wrote a result that is not JSON: {error}") from error


def _reason(output: str) -> str:
    """A Python worker's exception without its traceback; what any other worker said last."""
    _, traceback, rest = output.rpartition("Traceback (most recent call last):\n")
    exception = [line for line in rest.splitlines() if not line.startswith(" ")]
    return "\n".join(exception)[:TAIL] if traceback and exception else output[-TAIL:]


def _end(group: int) -> None:
    """End a worker and whatever it started."""
    with suppress(ProcessLookupError, PermissionError):  # all of them have ended, which macOS does not permit to kill
        os.killpg(group, signal.SIGKILL)
