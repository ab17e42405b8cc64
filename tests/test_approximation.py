from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deploy_kit.api import export, verify
from deploy_kit.approximation import approximate
from deploy_kit.capture import capture
from deploy_kit.errors import UserError
from deploy_kit.exporters.base import POLICIES
from deploy_kit.fusion import APPROXIMATIONS
from deploy_kit.fusion.policy import read_policy
from deploy_kit.graph import aten
from deploy_kit.sources import load_model
from tests.support import TINY, TINY_SIZE, load_tiny

LIMITS = {"gelu_to_tanh": 5e-4, "gelu_to_sigmoid": 2.1e-2}


@pytest.mark.parametrize("name", APPROXIMATIONS)
def test_an_approximation_is_as_near_as_it_says(name: str) -> None:
    x = torch.linspace(-12, 12, 100_001, dtype=torch.float64)
    graph = capture(nn.GELU(), (x,))
    (rewrite,) = APPROXIMATIONS[name].run(graph)
    error = (graph.module(x) - F.gelu(x)).abs().max().item()
    assert LIMITS[name] / 2 < error <= LIMITS[name]
    assert rewrite.pass_name == name
    assert not APPROXIMATIONS[name].exact
    assert "~" in APPROXIMATIONS[name].identity.splitlines()[0]


def test_the_form_with_tanh_is_not_approximated_by_itself() -> None:
    graph = capture(nn.GELU(approximate="tanh"), (torch.zeros(3),))
    assert APPROXIMATIONS["gelu_to_tanh"].run(graph) == []


@pytest.mark.parametrize("file", sorted(POLICIES.glob("*.json")), ids=lambda file: file.stem)
def test_no_policy_approximates(file: Path) -> None:
    assert not set(APPROXIMATIONS) & {choice.name for choice in read_policy(file).passes}


def test_the_record_says_how_far_the_model_is_from_what_it_was() -> None:
    loaded = load_tiny()
    near, far = (approximate(loaded, name).record.approximation for name in APPROXIMATIONS)
    assert near is not None
    assert far is not None
    assert (near.name, near.places) == ("gelu_to_tanh", 1)
    assert 0 < near.max_relative_error < far.max_relative_error < 0.1
    assert near.snr_db > far.snr_db
    assert near.top1_agreement == 1
    assert "1 x gelu_to_tanh" in near.description
    assert loaded.record.approximation is None


def test_an_artifact_is_proven_against_the_approximation_and_so_is_it_later(tmp_path: Path) -> None:
    loaded = approximate(load_model(TINY, input_size=TINY_SIZE), "gelu_to_tanh")
    artifact = export(loaded, "onnx", out=tmp_path, options={"simplify": False})
    assert artifact.manifest.outcome == "ok"
    assert artifact.manifest.model.approximation == loaded.record.approximation
    proof = verify(artifact.folder)
    assert proof.passed
    assert proof.noise_ratio is not None


def test_what_a_model_has_nothing_for_is_refused() -> None:
    relu = load_model(nn.Sequential(nn.Flatten(), nn.Linear(48, 3), nn.ReLU()), input_size="1x3x4x4")
    with pytest.raises(UserError, match="has nothing that gelu_to_tanh approximates"):
        approximate(relu, "gelu_to_tanh")
    with pytest.raises(UserError, match="no approximation called 'gelu_tanh'") as error:
        approximate(load_tiny(), "gelu_tanh")
    assert "gelu_to_tanh" in error.value.fix


def test_nothing_of_what_was_approximated_is_left() -> None:
    loaded = load_tiny()
    assert list(approximate(loaded, "gelu_to_sigmoid").capture().calls(aten.gelu.default)) == []
