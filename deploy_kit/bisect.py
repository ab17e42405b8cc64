"""Why an artifact does not compute what its model computes: the first place where it leaves the reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from deploy_kit.api import expect, parse_options, prepare, prove, reload_model
from deploy_kit.artifact import Artifact, open_artifact
from deploy_kit.exporters import get_exporter
from deploy_kit.fusion.policy import policy_of
from deploy_kit.parity.locate import Tap, diverge
from deploy_kit.parity.origin import Origin
from deploy_kit.parity.proof import Proof
from deploy_kit.parity.reduced import Simulation, fault, prove_graph, simulate
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
    expected = expect(loaded, exporter, options, stages)
    proof = prove(loaded, exporter, opened.main_file, options, manifest.details, stages, expected)
    ran = proof if proof.verified else proof.source
    if ran is None:
        return Bisection(proof, "nothing here can run the artifact, so nothing can be said of it")
    if ran.passed:
        return Bisection(proof, f"nothing diverges: the artifact is proven by {ran.verified_by}")
    passes = manifest.fusion.passes
    fused, lowered = prepare(loaded, exporter, options, stages, policy_of(passes))
    origin = Origin(loaded, passes, fused.after, lowered.graph, exporter, options)
    if ran.precision != "fp32" and ran.snr_db is not None:
        with stages.stage("compare it with PyTorch in the same precision"):
            simulation = simulate(origin, expected.cases, expected.references)
        if fault(ran, simulation) is None:
            return Bisection(proof, _lossy(ran, simulation))
    with stages.stage("export with intermediate tensors"):
        found = diverge(origin, ran, expected.cases)
    if found is None:
        fused_proof = prove_graph(fused.after, expected.cases, expected.references)
        if not fused_proof.passed:
            return Bisection(proof, f"the fused graph is not the model: {fused_proof.failures[0]}")
        verdict = "a new export of the model is right, so the artifact's own file is not what was exported"
        return Bisection(proof, verdict)
    return Bisection(proof, f"it diverges at {found.where}", found.where, found.taps)


def _lossy(proof: Proof, simulation: Simulation) -> str:
    """What is said of an artifact whose precision may be all that it suffers from."""
    kept = f"the artifact keeps {proof.snr_db:.1f} dB"
    if simulation.reduced is None or simulation.reduced.snr_db is None:
        return f"{kept}, and nothing here can tell how much of that loss is {proof.precision}'s own"
    return f"nothing diverges: {kept}, and PyTorch {simulation.reduced.snr_db:.1f} dB in the same precision"
