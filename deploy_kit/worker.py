"""Running what may crash or hang in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy_kit.errors import DeployKitError

TAIL = 1200


class WorkerError(DeployKitError):
    """A worker process failed; the message holds its last words."""


def run_worker(
    command: Sequence[str | Path],
    job: Mapping[str, Any],
    *,
    timeout: float,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run ``command JOB RESULT`` and return the JSON object that it wrote to RESULT.

    Args:
        command: the program and its first arguments; the paths of two JSON files are appended.
        job: what the worker is to do.
        timeout: seconds until it is ended.
        environment: variables to add to this process's.

    Raises:
        WorkerError: it did not start, crashed, ran out of time, failed, or wrote no result.
    """
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
        job_file, result_file = Path(scratch, "job.json"), Path(scratch, "result.json")
        job_file.write_text(json.dumps(job))
        words = [str(word) for word in (*command, job_file, result_file)]
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        except OSError as error:
            raise WorkerError(f"{words[0]} cannot be started: {error.strerror}") from error
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise WorkerError(f"{Path(words[0]).name} was still running after {timeout:g} s and was ended") from None
        finally:
            _end(process)
        last_words = _reason(output.decode(errors="replace").strip())
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


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a worker and whatever it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
