"""Why an artifact does not compute what its model computes: the first place where it leaves the reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from deploy_kit.api import lower, parse_options, prove, reload_model
from deploy_kit.artifact import Artifact, open_artifact
from deploy_kit.exporters import get_exporter
from deploy_kit.fusion.policy import policy_of
from deploy_kit.parity.locate import Tap, diverge
from deploy_kit.parity.proof import Proof
from deploy_kit.stages import Stages


@dataclass(frozen=True)
class Bisection:
    """What was found: the proof of the artifact's file, and where it, or else a new export of its model, diverges.

    ``verdict`` says it in a sentence. ``taps`` are the tensors that were looked at, in order, the last of which is
    the first that is wrong; empty where nothing is, or where it is not in the exporter.
    """

    proof: Proof
    verdict: str
    diverges_at: str | None = None
    taps: list[Tap] = field(default_factory=list)


def bisect(
    artifact: str | Path | Artifact,
    *,
    weights: str | Path | None = None,
    stages: Stages | None = None,
) -> Bisection:
    """Find the first pass, or the first module, at which an artifact's target leaves the float64 reference.

    Args:
        artifact: its folder, or the object.
        weights: where the checkpoint is now, if it has moved since.
        stages: to time and announce the work; None does so silently.

    Raises:
        UserError: no artifact, or its model cannot be built again.
        ExportError: its model cannot be exported any more.
    """
    stages = stages or Stages()
    opened = artifact if isinstance(artifact, Artifact) else open_artifact(artifact)
    manifest = opened.manifest
    with stages.stage("load the model"):
        loaded = reload_model(manifest, weights)
    exporter = get_exporter(manifest.target)
    options = parse_options(exporter, manifest.options)
    proof = prove(loaded, exporter, opened.main_file, options, manifest.details, stages)
    ran = proof if proof.verified else proof.source
    if ran is None:
        return Bisection(proof, "nothing here can run the artifact, so nothing can be said of it")
    if ran.passed:
        return Bisection(proof, f"nothing diverges: the artifact is proven by {ran.verified_by}")
    passes = manifest.fusion.passes
    graph = lower(loaded, exporter, options, stages, policy_of(passes))
    with stages.stage("export with intermediate tensors"):
        found = diverge(loaded, graph, passes, exporter, options, ran.limits)
    if found is None:
        verdict = "a new export of the model is right, so the artifact's own file is not what was exported"
        return Bisection(proof, verdict)
    return Bisection(proof, f"it diverges at {found.where}", found.where, found.taps)
