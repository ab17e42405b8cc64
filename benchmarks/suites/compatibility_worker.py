"""One export of the compatibility matrix, in a process of its own.

``python -P -m deploy_kit.benchmarks.suites.compatibility_worker JOB RESULT``: JOB and RESULT are JSON files. The job
has a ``model``, a ``target``, an ``input_size`` (None is the default one), a file for the ``references`` that exports
of one model share (or None), and a ``limit`` in seconds, after which the export ends itself, with what it started.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from deploy_kit.api import Expected, build, expect, parse_options
from deploy_kit.benchmarks.suites.compatibility import TOO_SLOW
from deploy_kit.errors import DeployKitError
from deploy_kit.exporters import get_exporter
from deploy_kit.exporters.base import Exporter, Options, save_tensors
from deploy_kit.outcome import Outcome
from deploy_kit.parity.inputs import Case
from deploy_kit.parity.reference import Reference
from deploy_kit.sources import LoadedModel, load_model
from deploy_kit.stages import Stages


class TimeUpError(BaseException):
    """The limit has passed; no handler of plain exceptions catches it on the way."""


def attempt(model: str, target: str, input_size: str | None, kept: Path | None) -> dict[str, Any]:
    """Export a model and say what came of it, with the versions that took part."""
    try:
        exporter, loaded = get_exporter(target), load_model(model, input_size=input_size)
        options = parse_options(exporter, {})
        expected = references(loaded, exporter, options, kept)
        with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
            manifest = build(loaded, exporter, options, Path(scratch), Stages(), expected=expected)
    except TimeUpError:
        return {"outcome": TOO_SLOW, "versions": _versions()}
    except DeployKitError as error:
        outcome = getattr(error, "outcome", Outcome.EXPORT_FAILED)
        return {"outcome": outcome, "reason": str(error), "versions": _versions()}
    proof = manifest.proof
    failures = "; ".join(proof.failures) if manifest.outcome in (Outcome.MISMATCH, Outcome.LOSSY) else None
    return {
        "outcome": manifest.outcome,
        "reason": failures,
        "snr_db": (proof if proof.source is None else proof.source).snr_db,
        "delegated_share": manifest.delegated_share,
        "versions": manifest.toolchain,
    }


def references(loaded: LoadedModel, exporter: Exporter, options: Options, kept: Path | None) -> Expected:
    """What the model computes, which is the same for every target: from a file, or for a file that is not there."""
    if kept is not None and kept.is_file():
        found = torch.load(kept, weights_only=True)
        cases = [Case(name, kind, inputs) for name, kind, inputs, _ in found]
        return Expected(cases, [Reference(*outputs) for *_, outputs in found])
    expected = expect(loaded, exporter, options, Stages())
    if kept is not None:
        whole = kept.with_name(f".{kept.name}-{os.getpid()}")
        pairs = zip(expected.cases, expected.references)
        save_tensors([(c.name, c.kind, c.inputs, (r.exact, r.eager)) for c, r in pairs], whole)
        os.replace(whole, kept)
    return expected


def _versions() -> dict[str, str]:
    return {"deploykit": version("deploy-kit"), "torch": torch.__version__}


def _stop(number: int, frame: FrameType | None) -> None:
    raise TimeUpError


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    signal.signal(signal.SIGALRM, _stop)
    signal.alarm(job["limit"])
    kept = None if job["references"] is None else Path(job["references"])
    result = attempt(job["model"], job["target"], job["input_size"], kept)
    signal.alarm(0)
    Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
