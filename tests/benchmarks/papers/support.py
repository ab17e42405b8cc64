"""The suite against a phone that is a folder: every model is the small one of `tests.support` under another name."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy_kit.artifact import Artifact, open_artifact
from deploy_kit.benchmarks.papers.suite import Suite
from deploy_kit.benchmarks.protocol import Protocol
from deploy_kit.benchmarks.runners.base import Runner
from deploy_kit.manifest import MANIFEST
from deploy_kit.stages import Stages
from tests.benchmarks.test_harness import DOCUMENT, Folder, writes

NOISY = {**DOCUMENT, "samples_ns": [value * (1 + index % 3) for index, value in enumerate(DOCUMENT["samples_ns"])]}


def fake_export(monkeypatch: pytest.MonkeyPatch, tiny: Artifact) -> list[str]:
    """Let `export` copy a small artifact under the name that is asked for; returns the list that it adds to."""
    exported: list[str] = []

    def export(model: str, target: str, *, out: Path, stages: Stages, **options: Any) -> Artifact:
        exported.append(model)
        folder = Path(out) / model / target
        shutil.copytree(tiny.folder, folder)
        rename(folder, model)
        return open_artifact(folder)

    monkeypatch.setattr("deploy_kit.api.export", export)
    return exported


def rename(folder: Path, model: str) -> None:
    """Let an artifact say that it is another model's."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["model"]["name"] = model
    (folder / MANIFEST).write_text(json.dumps(manifest))


def suite_in(tmp_path: Path, runner: Runner | None = None, **changes: Any) -> Suite:
    """A suite for onnx in ``tmp_path/out``, on a phone in ``tmp_path/phone``."""
    phone, programs = tmp_path / "phone", tmp_path / "programs"
    phone.mkdir(exist_ok=True)
    programs.mkdir(exist_ok=True)
    device = Folder(phone)
    runners = {"onnx": runner or writes(programs, DOCUMENT)}
    suite = Suite(device, device.info(), runners, Protocol(), tmp_path / "out", "deploykit papers", Stages())
    return replace(suite, **changes)
