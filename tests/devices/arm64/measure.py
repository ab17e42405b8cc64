"""Bench artifacts over adb, with the library as a user would; started inside the namespace, by itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from deploy_kit.artifact import open_artifact
from deploy_kit.benchmarks.harness import bench
from deploy_kit.benchmarks.protocol import Protocol
from deploy_kit.benchmarks.runners.choice import choose_runner
from deploy_kit.devices.registry import get_device


def main(out: Path, artifacts: list[str]) -> None:
    """Write a measurement and the outputs of each artifact, by its target, into ``out``."""
    device = get_device("adb:127.0.0.1:5555")
    (out / "info.json").write_text(device.info().model_dump_json())
    for path in artifacts:
        artifact = open_artifact(path)
        target = artifact.manifest.target
        protocol = Protocol(warmup=1, iterations=3)
        measured = bench(artifact, device, choose_runner(device, target, 1), protocol, command="a test")
        (out / f"{target}.json").write_text(json.dumps(measured.measurement.model_dump(mode="json", by_alias=True)))
        for index, array in enumerate(measured.outputs):
            np.save(out / f"{target}.{index}.npy", array)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
