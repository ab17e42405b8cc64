"""Whether what a device computed is right: its outputs against the model in float64, by the limits of a proof."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from deploy_kit.api import parse_options, reload_model
from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.measurement import OutputCheck
from deploy_kit.errors import DeployKitError
from deploy_kit.exporters import get_exporter
from deploy_kit.exporters.base import Exporter, Options
from deploy_kit.manifest import Manifest
from deploy_kit.parity.compare import LIMITS, Limits, compare, eager_snr_db
from deploy_kit.parity.inputs import Case
from deploy_kit.parity.reference import Reference, compute_references

FLOAT64 = "the original model in float64"
CASE = "the timed inputs"


class _UnprovableError(DeployKitError):
    """Why a reference proves nothing."""


def check_outputs(
    artifact: Artifact, inputs: tuple[Tensor, ...], outputs: Sequence[np.ndarray]
) -> tuple[OutputCheck | None, str]:
    """Compare what a device computed with what it should have.

    The reference is the original model in float64, on the same inputs. Where that cannot be had (its weights are not
    here, or the artifact computes in int8, whose ranges were not measured on such inputs), it is the artifact, run by
    the target's own runtime on this machine.

    Args:
        inputs: what the inferences were given.
        outputs: of the last one; none where the runner kept none.

    Returns:
        The check, or None and the reason why there is none.
    """
    if not outputs:
        return None, "the runner kept no outputs"
    manifest = artifact.manifest
    given = [torch.from_numpy(np.array(array)) for array in outputs]
    try:
        exporter = get_exporter(manifest.target)
        options = parse_options(exporter, manifest.options)
    except DeployKitError as error:
        return None, str(error)
    precision = exporter.precision(options)
    limits = LIMITS[precision]
    reasons = []
    if precision == "int8":
        reasons.append("int8 is compared with itself: its ranges were measured on other inputs")
    else:
        try:
            reference = _float64(manifest, inputs, limits)
            return _judged(given, reference, limits, precision, FLOAT64), ""
        except DeployKitError as error:
            reasons.append(str(error))
    try:
        reference, by = _here(artifact, exporter, options, inputs)
    except DeployKitError as error:
        return None, "; ".join([*reasons, str(error)])
    alike = limits.model_copy(update={"noise_ratio": None})
    found = _judged(given, reference, alike, precision, f"the artifact, run here by {by} ({reasons[0]})")
    return found.model_copy(update={"noise_ratio": None}), ""


def _float64(manifest: Manifest, inputs: tuple[Tensor, ...], limits: Limits) -> Reference:
    loaded = reload_model(manifest)
    (reference,) = compute_references(loaded.module, [Case(CASE, "noise", inputs)])
    own = eager_snr_db(reference)
    if limits.snr_db is not None and own < limits.snr_db:
        raise _UnprovableError(f"on such inputs the model's own float32 is only {own:.0f} dB from its float64")
    return reference


def _here(
    artifact: Artifact, exporter: Exporter, options: Options, inputs: tuple[Tensor, ...]
) -> tuple[Reference, str]:
    """What the artifact computes on this machine, and by which runtime."""
    ran = exporter.run(artifact.main_file, [inputs], options, artifact.manifest.details)
    if ran.outputs is None:
        raise _UnprovableError(ran.reason or "nothing here can run the artifact")
    return Reference(ran.outputs[0], ran.outputs[0]), ran.verified_by


def _judged(given: list[Tensor], reference: Reference, limits: Limits, precision: str, against: str) -> OutputCheck:
    found = compare(CASE, "noise", given, reference)
    failure = found.failure(limits)
    return OutputCheck(
        verdict="right" if failure is None else "wrong",
        against=against,
        precision=precision,
        snr_db=found.snr_db,
        noise_ratio=found.noise_ratio,
        max_relative_error=found.max_relative_error,
        failure=failure,
    )
