"""CoreML on a Mac, without one.

``data/coreml_plan.json`` is a compute plan as `coreml_device.read_plan` yields it. It was not recorded on a Mac: it
was written by hand in that shape. Here it is turned into objects of coremltools' own classes, with a stand-in in the
place of each proxy to CoreML, and read back from them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deploy_kit.api import export
from deploy_kit.artifact import Artifact
from deploy_kit.errors import ExportError
from deploy_kit.exporters import coreml as target
from deploy_kit.exporters import coreml_device as device
from deploy_kit.exporters.coreml_worker import JOBS
from deploy_kit.exporters.mil.interpreter import execute
from deploy_kit.exporters.mil.package import load_package, quiet
from deploy_kit.outcome import Outcome
from deploy_kit.sources import load_model
from deploy_kit.stages import Stages
from tests.support import TwoInputs, load_tiny, random

with quiet():
    ct = pytest.importorskip("coremltools", reason="CoreML's compute plans are read with coremltools")
    from coremltools.models import compute_device, compute_plan

PLAN: list[device.Placed] = json.loads((Path(__file__).parent / "data" / "coreml_plan.json").read_text())


class Proxy:
    """In the place of every proxy to CoreML: gives plans and their usages and costs, which are by tensor."""

    def __init__(self, plan: list[device.Placed]):
        self.plan = {placed["output"]: placed for placed in plan}
        constant = operation("const", "stem_weight")
        operations = [constant, operation("ios16.constexpr_lut_to_dense", "head_weight")]
        operations += [operation(f"ios17.{placed['type']}", placed["output"]) for placed in plan]
        block = compute_plan.MLModelStructureProgramBlock(inputs=[], operations=operations, output_names=["output"])
        main = compute_plan.MLModelStructureProgramFunction(inputs=[], block=block)
        program = compute_plan.MLModelStructureProgram(functions={"main": main})
        self.model_structure = compute_plan.MLModelStructure(neuralnetwork=None, program=program, pipeline=None)

    def get_compute_device_usage_for_mlprogram_operation(self, op: Any) -> Any:
        placed = self.plan.get(op.outputs[0].name)
        if placed is None or placed["preferred"] == "unknown":
            return None
        return compute_plan.MLComputePlanDeviceUsage(
            preferred_compute_device=DEVICES[placed["preferred"]](self),
            supported_compute_devices=[DEVICES[name](self) for name in reversed(placed["supported"])],
        )

    def get_estimated_cost_for_mlprogram_operation(self, op: Any) -> Any:
        placed = self.plan.get(op.outputs[0].name)
        if placed is None or placed["cost"] is None:
            return None
        return compute_plan.MLComputePlanCost(weight=placed["cost"])

    @staticmethod
    def get_compute_plan(path: str, compute_units: str) -> Any:
        assert (path, compute_units) == ("model.mlmodelc", "ALL")
        return compute_plan.MLComputePlan(Proxy(PLAN))


DEVICES = {
    "cpu": compute_device.MLCPUComputeDevice,
    "gpu": compute_device.MLGPUComputeDevice,
    "neural_engine": compute_device.MLNeuralEngineComputeDevice,
}


def operation(name: str, output: str) -> Any:
    made = compute_plan.MLModelStructureProgramNamedValueType(
        name=output, type=compute_plan.MLModelStructureProgramValueType()
    )
    return compute_plan.MLModelStructureProgramOperation(
        inputs={}, operator_name=name, outputs=[made], blocks=[], __proxy__=None
    )


class Model:
    """In the place of a model that CoreML has loaded."""

    def __init__(self, package: Path):
        self.spec = ct.models.utils.load_spec(str(package))
        self.function = load_package(package)

    def get_spec(self) -> Any:
        return self.spec

    def get_compiled_model_path(self) -> str:
        return "model.mlmodelc"

    def predict(self, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [feature.name for feature in self.spec.description.output]
        inputs = [torch.from_numpy(given[name]) for name in self.function.inputs]
        outputs = execute(self.function, inputs)
        return {name: value.numpy() for name, value in reversed(list(zip(names, outputs, strict=True)))}


@pytest.fixture
def proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_MLCPUComputeDeviceProxy", "_MLGPUComputeDeviceProxy", "_MLNeuralEngineComputeDeviceProxy"):
        monkeypatch.setattr(compute_device, name, Proxy)
    monkeypatch.setattr(compute_plan, "_MLComputePlanProxy", Proxy)
    monkeypatch.setattr(compute_plan, "_MLModelProxy", Proxy)


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch, proxies: None) -> None:
    """A Mac whose CoreML is a stand-in; the worker's jobs are done in this process."""
    monkeypatch.setattr(target, "macos_for", lambda ios: "15.1")
    monkeypatch.setattr(device, "load", Model)
    monkeypatch.setattr(target, "work", lambda job, *_: json.loads(json.dumps(JOBS[job["do"]](job, lambda _: None))))


def test_a_plan_is_read_from_coremltools_objects(proxies: None) -> None:
    plan = compute_plan.MLComputePlan.load_from_path("model.mlmodelc", ct.ComputeUnit.ALL)
    assert device.read_plan(plan) == PLAN


def test_an_unknown_device_is_unknown() -> None:
    class Other(compute_device.MLComputeDevice):
        """A device of a later system."""

    assert device._device(Other()) == "unknown"


def test_a_summary_adds_up_each_device() -> None:
    summary = device.summarize(PLAN)
    assert summary["operators"] == PLAN
    devices = summary["devices"]
    assert {name: total["operators"] for name, total in devices.items()} == {
        "cpu": 2,
        "gpu": 3,
        "neural_engine": 8,
        "unknown": 1,
    }
    assert devices["gpu"]["cost"] == pytest.approx(0.30)
    assert sum(total["cost"] for total in devices.values()) == pytest.approx(1.0)
    assert json.loads(json.dumps(summary)) == summary


def test_heavy_operators_off_the_neural_engine_are_named() -> None:
    (note,) = device.notes_on(PLAN)
    assert "3 heavy operators" in note
    assert "2 matmul on the GPU, 1 linear on the CPU" in note
    assert "30% of the estimated cost" in note
    assert "1 of them could run on it" in note
    assert "softmax" not in note


def test_without_costs_none_is_reported() -> None:
    (note,) = device.notes_on([placed | {"cost": None} for placed in PLAN])
    assert "cost" not in note
    assert "3 heavy operators" in note


def test_all_on_the_neural_engine_needs_no_note() -> None:
    assert device.notes_on([placed for placed in PLAN if placed["preferred"] == "neural_engine"]) == []


def test_an_export_on_a_mac_is_proven_by_coreml_and_records_the_plan(mac: None, tmp_path: Path) -> None:
    manifest = export(load_tiny(), "coreml", out=tmp_path).manifest
    assert manifest.outcome == Outcome.OK
    assert manifest.proof.verified_by == "CoreML on macOS 15.1"
    assert manifest.details["compute_plan"] == device.summarize(PLAN)
    assert manifest.notes == device.notes_on(PLAN)
    assert manifest.operators["conv"] == 2


def test_several_inputs_and_outputs_keep_their_order_in_coreml(mac: None, tmp_path: Path) -> None:
    loaded = load_model(random(TwoInputs()), input_size="2x6,2x5")
    artifact = export(loaded, "coreml", out=tmp_path, options={"precision": "fp32"})
    assert artifact.manifest.proof.passed


def test_operators_that_the_interpreter_lacks_are_proven_on_a_mac(mac: None, tmp_path: Path) -> None:
    """CoreML knows them; the fp16 audit does not, and says so."""

    class Sorted(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x.argsort(-1).float()

    graph = load_model(Sorted(), input_size="2x6").capture()
    exported = target.CoreML().export(graph, tmp_path, target.CoreMLOptions(), Stages())
    assert any("was not audited" in note for note in exported.notes)
    assert not any("not verified" in note for note in exported.notes)


def test_a_mac_without_compute_plans_exports_all_the_same(
    mac: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = target.work

    def work(job: dict[str, Any], *rest: Any) -> dict[str, Any]:
        if job["do"] == "plan":
            raise ExportError("CoreML gives no compute plan: MLComputePlan is not supported.")
        return done(job, *rest)

    monkeypatch.setattr(target, "work", work)
    manifest = export(load_tiny(), "coreml", out=tmp_path).manifest
    assert manifest.proof.passed
    assert "compute_plan" not in manifest.details
    assert manifest.notes == ["CoreML gives no compute plan: MLComputePlan is not supported."]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, "macos_for", lambda ios: None)
        patch.setattr(target, "work", lambda job, *_: JOBS[job["do"]](job, lambda _: None))
        return export(load_tiny(), "coreml", out=tmp_path_factory.mktemp("coreml"), options={"precision": "fp32"})


def test_off_a_mac_nothing_is_asked_of_coreml(artifact: Artifact) -> None:
    assert artifact.manifest.proof.verified_by.startswith("MIL reference interpreter")
    assert "compute_plan" not in artifact.manifest.details


@pytest.mark.skipif(sys.platform == "darwin", reason="here CoreML loads it")
def test_a_package_that_coreml_does_not_load_is_an_error(artifact: Artifact) -> None:
    """Off a Mac coremltools reads a package and cannot run it, as on a Mac one that CoreML refuses."""
    with pytest.raises(RuntimeError, match="CoreML does not load it"):
        device.load(artifact.main_file)


@pytest.mark.parametrize(
    ("platform", "release", "ios", "expected"),
    [
        ("linux", "", 15, None),
        ("darwin", "12.7.6", 15, "12.7.6"),
        ("darwin", "14.5", 17, "14.5"),
        ("darwin", "14.5", 18, None),
        ("darwin", "26.0", 18, "26.0"),
    ],
)
def test_a_mac_loads_packages_of_its_own_generation(
    platform: str, release: str, ios: int, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device.sys, "platform", platform)
    monkeypatch.setattr(device.platform, "mac_ver", lambda: (release, ("", "", ""), ""))
    assert device.macos_for(ios) == expected
