"""Models that are captured once and read by many tests; a test that rewrites a graph copies it first."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from deploy_kit.artifact import Artifact, open_artifact
from deploy_kit.capture import capture
from deploy_kit.graph import Graph
from deploy_kit.models import create_model
from deploy_kit.sources import load_model
from tests.support import TINY, TINY_SIZE, export_to, once

torch.set_num_threads(1)  # two test processes share two cores


@pytest.fixture(scope="session")
def edgevit_xxs() -> nn.Module:
    return create_model("edgevit_xxs", num_classes=10).double()


@pytest.fixture(scope="session")
def image() -> Tensor:
    return torch.randn(1, 3, 96, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def edgevit_xxs_graph(edgevit_xxs: nn.Module, image: Tensor) -> Graph:
    return capture(edgevit_xxs, (image,))


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all test processes of this run see; `tests.support.once` fills it."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def tiny_onnx(shared: Path) -> Artifact:
    """The small model of `tests.support`, exported once; a test that does damage copies it first."""
    loaded = load_model(TINY, input_size=TINY_SIZE)
    folder = once(shared, "tiny_onnx", lambda out: export_to(out, loaded, "onnx", simplify=False))
    return open_artifact(folder / "tests.support.tiny" / "onnx")


@pytest.fixture(scope="session")
def tiny_lite(shared: Path) -> Artifact:
    """The same for the mobile interpreter."""
    loaded = load_model(TINY, input_size=TINY_SIZE)
    folder = once(shared, "tiny_lite", lambda out: export_to(out, loaded, "torchscript-lite"))
    return open_artifact(folder / "tests.support.tiny" / "torchscript-lite")
