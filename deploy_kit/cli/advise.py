"""``deploykit advise``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from deploy_kit.cli.console import print_json, print_line, print_note, print_table, show_stages
from deploy_kit.cli.parameters import Activation, Classes, InputSize, Json, Model, Seed, Weights

if TYPE_CHECKING:
    from deploy_kit.advise import Advice, Report


def command(
    model: Model,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", help="A target to measure with; none is all that the device times."),
    ] = None,
    device: Annotated[str, typer.Option(help="What to measure on.")] = "local",
    weights: Weights = None,
    activation: Activation = None,
    num_classes: Classes = None,
    input_size: InputSize = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Measure what other activations, norms, stems and attention would save in MODEL, and say which need retraining."""
    from deploy_kit.advise import advise
    from deploy_kit.sources import load_model

    with show_stages() as stages:
        with stages.stage(f"load {model}"):
            loaded = load_model(
                model,
                weights=weights,
                input_size=input_size,
                activation=activation,
                num_classes=num_classes,
                seed=seed,
            )
        report = advise(loaded, target, device=device, stages=stages)
    if json:
        print_json(report)
    else:
        _print(report)
    if report.failed:
        raise typer.Exit(1)


def _print(report: Report) -> None:
    for name, timing in report.as_it_is.items():
        rows = [row(advice) for advice in report.advice if advice.target == name]
        print_table(
            f"{report.model}, {name}, on {report.device} ({report.described}), {report.threads} thread: "
            f"{timing.median_ms:.2f} ms as it is ({timing.p10_ms:.2f} to {timing.p90_ms:.2f})",
            ["variant", "places", "ms", "saves, ms", "times faster", "what it takes"],
            rows,
        )
    for advice in report.advice:
        if advice.problem is not None:
            print_note(f"{advice.target}, {advice.variant}: {advice.problem}")
    for name, reason in report.failed.items():
        print_note(f"{name}: not measured: {reason}")
    for condition in report.conditions:
        print_note(condition)
    print_line("forms that compute the same are found by: deploykit export --tune")


def row(advice: Advice) -> tuple[object, ...]:
    """What the table says of a variant."""
    if advice.timing is None or advice.faster is None or advice.saved_ms is None:
        return advice.variant, advice.places, None, None, "not measured", advice.effect.advice
    saved = f"{advice.saved_ms:.2f}" if advice.clear else "no clear difference"
    return (
        advice.variant,
        advice.places,
        f"{advice.timing.median_ms:.2f}",
        saved,
        str(advice.faster),
        advice.effect.advice,
    )
