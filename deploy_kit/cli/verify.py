"""``deploykit verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy_kit.cli.console import format_error, format_number, print_json, print_note, print_table, show_stages
from deploy_kit.cli.parameters import ArtifactPath, Json, Weights

if TYPE_CHECKING:
    from deploy_kit.parity.proof import Proof


def command(
    artifact: ArtifactPath,
    weights: Weights = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Where the folder of calibration images is now, if it has moved.")
    ] = None,
    json: Json = False,
) -> None:
    """Prove ARTIFACT again against the model that its manifest names. Exit code 1 if it is wrong."""
    from deploy_kit.api import verify

    with show_stages() as stages:
        proof = verify(artifact, weights=weights, calibration=calibration, stages=stages)
    if json:
        print_json(proof)
    else:
        print_proof(proof)


def print_proof(proof: Proof) -> None:
    """Print a proof case by case."""
    limits = ", ".join(f"{name} {value:g}" for name, value in proof.limits if value is not None)
    print_table(
        f"{'proven' if proof.passed else 'NOT proven'} by {proof.verified_by}, against {proof.reference}, "
        f"as {proof.precision} (limits: {limits})",
        ["case", "kind", "error", "x float32's", "SNR dB", "top-1 agrees"],
        [
            (
                case.case,
                case.kind,
                format_error(case.max_relative_error),
                format_number(case.noise_ratio, 1),
                format_number(case.snr_db, 0),
                None if case.top1_agrees is None else "yes" if case.top1_agrees else "no",
            )
            for case in proof.cases
        ],
    )
    for failure in proof.failures:
        print_note(failure)
    if proof.source is not None:
        print_proof(proof.source)
