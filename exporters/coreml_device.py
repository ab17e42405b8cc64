"""CoreML itself, where this is a Mac: what a package computes there, and where each operator would run.

`load`, `predict`, `plan_of` and `read_plan` are all that touches CoreML; the rest is plain data.
"""

from __future__ import annotations

import platform
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from deploy_kit.exporters.coreml_image import to_image
from deploy_kit.exporters.mil.package import quiet

HEAVY = ("conv", "conv_transpose", "einsum", "linear", "matmul", "scaled_dot_product_attention")
"""Operators that take nearly all of a model's time, and least of it on the Neural Engine."""

NEURAL_ENGINE, UNKNOWN = "neural_engine", "unknown"


class Placed(TypedDict):
    """Where CoreML would run one operator: MIL's name for it, the tensor that it makes, the device that CoreML
    prefers and those that it could use (``cpu``, ``gpu``, ``neural_engine``), and its share of the estimated time.

    What CoreML does not say is ``unknown``, or None.
    """

    type: str
    output: str
    preferred: str
    supported: list[str]
    cost: float | None


def macos_for(ios: int) -> str | None:
    """The version of macOS that this is, where its CoreML loads packages for a version of iOS; None elsewhere.

    macOS 12 came with iOS 15, and each later one with the next.
    """
    if sys.platform != "darwin":
        return None
    release = platform.mac_ver()[0]
    return release if int(release.split(".")[0]) >= ios - 3 else None


def load(package: Path) -> Any:
    """A package that CoreML has compiled and loaded, free to use every device; `RuntimeError` where it does not."""
    with quiet():
        import coremltools as ct

        model = ct.models.MLModel(str(package), compute_units=ct.ComputeUnit.ALL)
    if model.__proxy__ is None:  # coremltools has only warned of it
        raise RuntimeError(f"CoreML does not load it: {model._framework_error}")
    return model


def predict(model: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """What CoreML computes of one set of inputs, in the order of the package's outputs."""
    description = model.get_spec().description
    given = {
        feature.name: to_image(x) if feature.type.HasField("imageType") else x.numpy()
        for feature, x in zip(description.input, inputs, strict=True)
    }
    outputs = model.predict(given)
    return [torch.as_tensor(outputs[feature.name]) for feature in description.output]


def plan_of(model: Any) -> list[Placed]:
    """The compute plan of a loaded package."""
    with quiet():
        import coremltools as ct
        from coremltools.models.compute_plan import MLComputePlan

        path = model.get_compiled_model_path()
        return read_plan(MLComputePlan.load_from_path(path=path, compute_units=ct.ComputeUnit.ALL))


def read_plan(plan: Any) -> list[Placed]:
    """A ``coremltools`` ``MLComputePlan`` as plain data: one entry an operator, constants left out."""
    placed: list[Placed] = []
    for op in plan.model_structure.program.functions["main"].block.operations:
        kind = op.operator_name.rpartition(".")[2]  # a compiled program says "ios17.conv"
        if kind == "const" or kind.startswith("constexpr_"):
            continue
        usage = plan.get_compute_device_usage_for_mlprogram_operation(op)
        cost = plan.get_estimated_cost_for_mlprogram_operation(op)
        placed.append(
            Placed(
                type=kind,
                output=op.outputs[0].name if op.outputs else "",
                preferred=UNKNOWN if usage is None else _device(usage.preferred_compute_device),
                supported=[] if usage is None else sorted(map(_device, usage.supported_compute_devices)),
                cost=None if cost is None else cost.weight,
            )
        )
    return placed


def _device(device: Any) -> str:
    from coremltools.models import compute_device as known

    kinds = {
        known.MLCPUComputeDevice: "cpu",
        known.MLGPUComputeDevice: "gpu",
        known.MLNeuralEngineComputeDevice: NEURAL_ENGINE,
    }
    return kinds.get(type(device), UNKNOWN)


def summarize(plan: Sequence[Placed]) -> dict[str, Any]:
    """A plan for the manifest: its operators, and how many and what share of the cost each device gets."""
    devices: dict[str, dict[str, float]] = {}
    for placed in plan:
        total = devices.setdefault(placed["preferred"], {"operators": 0, "cost": 0.0})
        total["operators"] += 1
        total["cost"] += placed["cost"] or 0.0
    return {"devices": dict(sorted(devices.items())), "operators": list(plan)}


def notes_on(plan: Sequence[Placed]) -> list[str]:
    """What the user must know of a plan: the heavy operators that are not for the Neural Engine."""
    elsewhere = [op for op in plan if op["type"] in HEAVY and op["preferred"] != NEURAL_ENGINE]
    if not elsewhere:
        return []
    counts = Counter((op["type"], op["preferred"]) for op in elsewhere)
    listed = ", ".join(f"{count} {kind} on {_spoken(device)}" for (kind, device), count in counts.most_common())
    costs = [op["cost"] for op in elsewhere if op["cost"] is not None]
    share = f"{sum(costs):.0%} of the estimated cost, and " if len(costs) == len(elsewhere) else ""
    able = sum(NEURAL_ENGINE in op["supported"] for op in elsewhere)
    return [
        f"{len(elsewhere)} heavy operators prefer another device than the Neural Engine on this Mac: {listed}; "
        f"{share}{able} of them could run on it"
    ]


def _spoken(device: str) -> str:
    return {"cpu": "the CPU", "gpu": "the GPU"}.get(device, "a device that CoreML does not name")
