"""``deploykit papers``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy_kit.cli.console import format_number, print_json, print_line, print_note, print_table, show_stages
from deploy_kit.cli.parameters import Json

if TYPE_CHECKING:
    from deploy_kit.benchmarks.papers.report import Results
    from deploy_kit.benchmarks.papers.suite import Row


def command(
    device: Annotated[str, typer.Option("--device", "-d", help="As for bench.")] = "local",
    models: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...", help="Reference models; by default EdgeViT and what its paper compares it with."
        ),
    ] = None,
    targets: Annotated[str, typer.Option(metavar="NAME,...", help="Targets.")] = "torchscript-lite",
    out: Annotated[Path, typer.Option(help="The folder that keeps artifacts, measurements and the figure.")] = Path(
        "papers"
    ),
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured, each time by a new process.")] = 1,
    cores: Annotated[str | None, typer.Option(help="prime, big, little, several, or a mask such as 0xf0.")] = None,
    cool_to: Annotated[
        float | None, typer.Option(metavar="CELSIUS", help="Wait before each round until no sensor is warmer.")
    ] = None,
    cool_seconds: Annotated[float, typer.Option(min=0, help="How long to wait for a warm device at most.")] = 300,
    runner: Annotated[
        str | None, typer.Option(help="A program that you built for the device, or app: the installed one.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure once more what is kept and is not valid.")] = False,
    json: Json = False,
) -> None:
    """Reproduce the papers' figure: accuracy against latency and energy, beside what is published.

    Each model is exported, timed by the papers' protocol (50 inferences after 10, one thread) and kept as soon as it is
    measured: the same command again goes on where one was ended.
    The exit code is 1 where a model failed or a measurement is not valid.
    """
    from deploy_kit.benchmarks.papers import figure, report, suite
    from deploy_kit.benchmarks.protocol import chosen_cores, protocol_of
    from deploy_kit.benchmarks.runners.choice import choose_runner
    from deploy_kit.devices.registry import get_device
    from deploy_kit.exporters import get_exporter

    chosen_models, chosen_targets = _names(models) if models is not None else list(suite.MODELS), _names(targets)
    suite.check_models(chosen_models)
    for target in chosen_targets:
        get_exporter(target)
    protocol = protocol_of(rounds=rounds, cores=cores, cool_to_c=cool_to, cool_seconds=cool_seconds)
    chosen = get_device(device)
    info = chosen.info()
    chosen_cores(cores, info)
    runners = {target: choose_runner(chosen, target, protocol.threads, runner) for target in chosen_targets}
    suite.check_folder(out)
    words = shlex.join(["deploykit", *sys.argv[1:]])
    with show_stages() as stages:
        what = suite.Suite(chosen, info, runners, protocol, out, words, stages, _announce, again)
        results = report.results_of(words, info, protocol, suite.run_suite(what, chosen_models))
    files = {
        "results.json": report.to_json(results),
        "results.csv": report.to_csv(results),
        "figure.svg": figure.draw(results),
        "figure.html": figure.page(results),
    }
    for name, text in files.items():
        suite.write_whole(out / name, text)
    if json:
        print_json(results.model_dump(mode="json", by_alias=True))
    else:
        _report(results, out)
    if not all(row.valid for row in results.rows):
        raise typer.Exit(1)


def _names(text: str) -> list[str]:
    """The names between commas, each once."""
    from deploy_kit.errors import UserError

    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UserError(f"{text!r} names nothing", fix="put names between commas")
    return names


def _announce(text: str) -> None:
    print(f"  {text}", file=sys.stderr)


def _report(results: Results, out: Path) -> None:
    from deploy_kit.benchmarks.papers.report import ACCURACY, describe_device, lacks_of, reasons_of

    protocol = results.protocol
    print_line(f"measured on {describe_device(results.device)}")
    print_table(
        f"{protocol.iterations} inferences after {protocol.warmup}, {protocol.rounds} round(s), "
        f"{protocol.threads} thread(s){f', cores {protocol.cores}' if protocol.cores else ''}",
        ["model", "target", "published top-1, %", "p50, ms", "mean", "std", "energy, mJ", "valid"],
        [_row(row) for row in results.rows],
    )
    wanted = {row.model for row in results.rows}
    print_table(
        "published, on other devices",
        ["model", "published top-1, %", "ms", "mJ", "device", "source"],
        [
            (point.model, point.top1, f"{point.latency_ms:g}", point.energy_mj, source.device, source.url)
            for source in results.published
            for point in source.points
            if point.model in wanted
        ],
    )
    print_line(ACCURACY)
    print_line(f"written: {', '.join(str(out / name) for name in ('results.json', 'results.csv', 'figure.html'))}")
    for row in results.rows:
        for reason in reasons_of(row):
            print_note(f"{row.model}, {row.target}: {reason}")
    for lack in dict.fromkeys(lack for row in results.rows if row.failure is None for lack in lacks_of(row)):
        print_note(lack)


def _row(row: Row) -> list[object]:
    summary = None if row.measurement is None else row.measurement.summary
    return [
        row.model,
        row.target,
        row.top1,
        format_number(row.latency_ms, 2),
        format_number(None if summary is None else summary.mean_ms, 2),
        format_number(None if summary is None else summary.std_ms, 2),
        format_number(row.energy_mj, 2),
        "failed" if summary is None else "yes" if row.valid else "no",
    ]
