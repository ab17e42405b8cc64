"""One measurement of a sweep, in a process of its own.

``python -P -m deploy_kit.sweep.measure JOB RESULT``: JOB and RESULT are JSON files. The job has the ``folder`` of the
artifact, the ``device``, the ``threads``, the recipe's ``bench``, and the ``command`` that repeats it. The result is
that of `deploy_kit.sweep.work.BenchResult`, less the seconds.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from deploy_kit.artifact import open_artifact
from deploy_kit.benchmarks.harness import bench
from deploy_kit.benchmarks.protocol import protocol_of
from deploy_kit.benchmarks.runners.choice import APP, choose_runner, targets_of
from deploy_kit.cells.recipe import Bench
from deploy_kit.devices.registry import get_device
from deploy_kit.errors import DeployKitError


def attempt(folder: Path, spec: str, threads: int, wanted: Bench, command: str) -> dict[str, Any]:
    """Measure an artifact; what `deploykit` tells a user of a failure is its result."""
    try:
        artifact = open_artifact(folder)
        target = artifact.manifest.target
        device = get_device(spec)
        own = wanted.runner is None or wanted.runner.startswith(APP)
        if own and target not in targets_of(device, wanted.runner):
            return {"outcome": "unavailable", "failure": f"nothing of ours times {target} on {device.spec}"}
        protocol = protocol_of(
            warmup=wanted.warmup,
            iterations=wanted.iterations,
            rounds=wanted.rounds,
            threads=threads,
            cores=wanted.cores,
            cool_to_c=wanted.cool_to,
        )
        runner = choose_runner(device, target, threads, wanted.runner)
        found = bench(artifact, device, runner, protocol, command=command, energy=wanted.energy).measurement
    except DeployKitError as error:
        said = f"{error} ({error.fix})" if error.fix else str(error)
        return {"outcome": "failed", "failure": " ".join(said.split())}
    wrong = found.outputs is not None and found.outputs.verdict == "wrong"
    return {
        "outcome": "failed" if wrong else "measured" if found.valid else "invalid",
        "failure": found.reasons[0] if wrong else None,
        "measurement": found.model_dump(mode="json", by_alias=True),
    }


def _end(number: int, frame: FrameType | None) -> None:
    """Leave through the clean-up code, so that nothing stays on a device."""
    sys.exit(128 + number)


def main() -> None:
    signal.signal(signal.SIGTERM, _end)
    job = json.loads(Path(sys.argv[1]).read_text())
    wanted = Bench.model_validate(job["bench"])
    result = attempt(Path(job["folder"]), job["device"], job["threads"], wanted, job["command"])
    Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
