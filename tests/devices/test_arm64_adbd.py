"""From an artifact to ARM64 outputs through the real adb and Debian 13's real adbd: pushed, run and pulled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.harness import example_inputs
from deploy_kit.benchmarks.native import BuildError, build_runner
from deploy_kit.errors import MissingDependencyError
from deploy_kit.sources import LoadedModel, load_model
from tests.devices.arm64 import root
from tests.support import export_to

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("arm64")]

TARGETS = ("executorch", "torchscript-lite")
MEASURE = Path(__file__).with_name("arm64") / "measure.py"
LIMIT = 240


@dataclass(frozen=True)
class Done:
    """What came back from the device, by target, and what the model computes in float64."""

    folder: Path
    reference: list[Tensor]

    def measurement(self, target: str) -> dict[str, Any]:
        return json.loads((self.folder / f"{target}.json").read_text())  # type: ignore[no-any-return]  # a document


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    reason = root.missing()
    if reason:
        pytest.skip(reason)
    try:
        for target in TARGETS:
            build_runner(target, "aarch64")
    except MissingDependencyError as error:
        pytest.skip(f"{error}: {error.fix}")
    try:
        root.emulated()
    except BuildError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("arm64")
    loaded = load_model("edgevit_digits")
    artifacts = [export_to(folder, loaded, target) for target in TARGETS]
    return Done(_measure(folder, artifacts), _reference(loaded, artifacts[0]))


def _measure(folder: Path, artifacts: list[Artifact]) -> Path:
    out = folder / "out"
    out.mkdir()
    words = [sys.executable, MEASURE, out, *(artifact.folder for artifact in artifacts)]
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    ended = subprocess.run(
        root.emulated().command(words),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={
            **os.environ,
            "HOME": str(folder),
            "XDG_CACHE_HOME": cache,
            "ANDROID_ADB_SERVER_PORT": "5999",
            "PYTHONPATH": str(MEASURE.parents[3]),
        },
    )
    assert ended.returncode == 0, ended.stderr
    return out


def _reference(loaded: LoadedModel, artifact: Artifact) -> list[Tensor]:
    inputs = [each.double() for each in example_inputs(artifact.manifest.inputs)]
    with torch.no_grad():
        found = loaded.module.double()(*inputs)
    return [found] if isinstance(found, Tensor) else list(found)


def test_the_device_is_an_emulated_arm_one(done: Done) -> None:
    info = json.loads((done.folder / "info.json").read_text())
    assert (info["abi"], info["emulated"], info["model"]) == ("aarch64", True, "Debian 13 userspace")


@pytest.mark.parametrize("target", TARGETS)
def test_outputs_of_the_arm_runner_are_the_models(done: Done, target: str) -> None:
    for index, expected in enumerate(done.reference):
        found = np.load(done.folder / f"{target}.{index}.npy")
        error = np.abs(found - expected.numpy()).max() / expected.abs().max().item()
        assert error < 1e-5


@pytest.mark.parametrize("target", TARGETS)
def test_every_inference_is_there_and_none_of_them_counts_as_a_latency(done: Done, target: str) -> None:
    measurement = done.measurement(target)
    assert not measurement["valid"]
    assert "emulated: the time of an emulator is no latency" in measurement["reasons"]
    result = measurement["rounds"][0]["result"]
    assert (result["engine"], result["abi"], len(result["samples_ns"])) == (target, "aarch64", 3)
