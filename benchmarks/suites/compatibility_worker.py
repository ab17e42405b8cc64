"""One export of the compatibility matrix, in a process of its own.

``python -P -m deploy_kit.benchmarks.suites.compatibility_worker JOB RESULT``: JOB and RESULT are JSON files. The job
has a ``model``, a ``target``, an ``input_size`` (None is the default one) and a ``limit`` in seconds, after which the
export ends itself, with what it started.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from deploy_kit.api import export
from deploy_kit.benchmarks.suites.compatibility import TOO_SLOW
from deploy_kit.errors import DeployKitError
from deploy_kit.outcome import Outcome
from deploy_kit.sources import load_model


class TimeUpError(BaseException):
    """The limit has passed; no handler of plain exceptions catches it on the way."""


def attempt(model: str, target: str, input_size: str | None) -> dict[str, Any]:
    """Export a model and say what came of it, with the versions that took part."""
    try:
        with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
            manifest = export(load_model(model, input_size=input_size), target, out=scratch).manifest
    except TimeUpError:
        return {"outcome": TOO_SLOW, "versions": _versions()}
    except DeployKitError as error:
        outcome = getattr(error, "outcome", Outcome.EXPORT_FAILED)
        return {"outcome": outcome, "reason": str(error), "versions": _versions()}
    proof = manifest.proof
    return {
        "outcome": manifest.outcome,
        "snr_db": (proof if proof.source is None else proof.source).snr_db,
        "delegated_share": manifest.delegated_share,
        "versions": manifest.toolchain,
    }


def _versions() -> dict[str, str]:
    return {"deploykit": version("deploy-kit"), "torch": torch.__version__}


def _stop(number: int, frame: FrameType | None) -> None:
    raise TimeUpError


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    signal.signal(signal.SIGALRM, _stop)
    signal.alarm(job["limit"])
    result = attempt(job["model"], job["target"], job["input_size"])
    signal.alarm(0)
    Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
