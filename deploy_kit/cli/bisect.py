"""``deploykit bisect``."""

from __future__ import annotations

import typer

from deploy_kit.cli.console import format_error, format_number, print_json, print_line, print_table, show_stages
from deploy_kit.cli.parameters import ArtifactPath, Json, Weights

SHOWN = 12
"""How many tensors before the wrong one are printed."""


def command(artifact: ArtifactPath, weights: Weights = None, json: Json = False) -> None:
    """Find the first module at which ARTIFACT leaves the float64 reference. Exit code 1 if it does."""
    from deploy_kit.bisect import bisect

    with show_stages() as stages:
        found = bisect(artifact, weights=weights, stages=stages)
    if json:
        print_json(found)
    else:
        if found.taps:
            print_table(
                "tensors in order of execution, as the runtime computes them",
                ["module", "operator", "error", "x float32's", "SNR dB", "wrong"],
                [
                    (
                        tap.module,
                        tap.operator,
                        format_error(tap.comparison.max_relative_error),
                        format_number(tap.comparison.noise_ratio, 1),
                        format_number(tap.comparison.snr_db, 0),
                        "yes" if tap.failure else None,
                    )
                    for tap in found.taps[-SHOWN:]
                ],
            )
        print_line(found.verdict)
    ran = found.proof if found.proof.verified else found.proof.source
    if ran is not None and not ran.passed:
        raise typer.Exit(1)
