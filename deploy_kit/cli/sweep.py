"""``deploykit sweep``."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy_kit.cli.console import format_bytes, format_number, print_json, print_line, print_note, print_table
from deploy_kit.cli.parameters import Json

if TYPE_CHECKING:
    from deploy_kit.benchmarks.measurement import Measurement
    from deploy_kit.cells.recipe import Recipe
    from deploy_kit.sweep.drive import Progress, SweepReport


def command(
    recipe: Annotated[
        Path, typer.Argument(metavar="[RECIPE]", help="A TOML file of models, targets, precisions and [bench].")
    ] = Path("deploykit.toml"),
    store: Annotated[
        str,
        typer.Option(metavar="URL", help="sqlite:///FILE, or postgresql://USER:PASSWORD@HOST/DATABASE."),
    ] = "sqlite:///deploykit.db",
    artifacts: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the artifacts in DIR/RUN; else they go at the end.")
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(metavar="HOSTS", help="ray://HOST:PORT, auto (the Ray of this host) or local (a Ray of its own)."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Of --on local: units at a time.")] = None,
    new: Annotated[bool, typer.Option("--new", help="Begin another run, though one is not finished.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Do again what failed, and measurements that do not count.")
    ] = False,
    json: Json = False,
) -> None:
    """Export, prove and measure all cells of a RECIPE, and keep what comes of each in a database.

    The same command again goes on where the last one ended, however it ended: nothing that was done is done twice. A
    recipe whose cells are all done begins another run. The exit code is 1 where a cell or a measurement failed; they
    stay in the results.
    """
    from deploy_kit.cells.recipe import read_recipe
    from deploy_kit.errors import UserError
    from deploy_kit.sweep.drive import sweep
    from deploy_kit.sweep.ray_hosts import ray_hosts
    from deploy_kit.sweep.store import open_store

    if new and retry_failed:
        raise UserError("--new begins a run, in which nothing has failed yet", fix="leave out one of the two")
    if workers is not None and on != "local":
        raise UserError("--workers are those of a Ray of its own", fix="add --on local")
    wanted = read_recipe(recipe)
    check(wanted)
    opened = open_store(store)
    try:
        with redirect_stdout(sys.stderr):
            report = sweep(
                wanted,
                opened,
                artifacts=artifacts,
                hosts=None if on is None else partial(ray_hosts, address=on, workers=workers, note=print_note),
                new=new,
                retry_failed=retry_failed,
                progress=_show,
                note=print_note,
            )
    except KeyboardInterrupt:  # typer turns it into exit code 130
        print_note("interrupted; what was done is kept, and the same command goes on")
        raise
    finally:
        opened.close()
    if json:
        print_json(report.model_dump(mode="json", by_alias=True))
    else:
        print_report(report)
    if report.failed:
        raise typer.Exit(1)


def check(recipe: Recipe) -> None:
    """Raise `UserError` for what no sweep can be of, before anything is done."""
    from deploy_kit.benchmarks.energy.measure import check_name
    from deploy_kit.benchmarks.protocol import protocol_of
    from deploy_kit.cells.ready import require_files_and_models
    from deploy_kit.devices.registry import KINDS
    from deploy_kit.errors import UserError, unknown_name

    require_files_and_models(recipe)
    if recipe.bench is None:
        print_note("the recipe has no [bench]: cells are exported and proven, and not measured")
        return
    for device in recipe.bench.devices:
        kind = device.partition(":")[0]
        if kind not in KINDS:
            raise unknown_name("kind of device", kind, KINDS)
    check_name(recipe.bench.energy)
    for threads in recipe.bench.threads:
        protocol_of(
            warmup=recipe.bench.warmup,
            iterations=recipe.bench.iterations,
            rounds=recipe.bench.rounds,
            threads=threads,
            cores=recipe.bench.cores,
            cool_to_c=recipe.bench.cool_to,
        )
    runner = recipe.bench.runner
    if runner is not None and not runner.startswith("app") and not Path(runner).is_file():
        raise UserError(f"there is no program {runner!r}", fix="name an executable file in [bench], or `app`")


def print_report(report: SweepReport) -> None:
    """Print a row for each cell, with what each device takes for it, and the reasons of what is not there."""
    columns = sorted({_column(each) for entry in report.entries for each in entry.measurements})
    rows = []
    for entry in report.entries:
        result, times = entry.result, {_column(each): each for each in entry.measurements}
        size = None if result.bytes is None else format_bytes(result.bytes)
        row = [*result.cell.id.rsplit("/", 2), str(result.outcome), size, format_number(result.snr_db, 1)]
        for column in columns:
            found = times.get(column)
            number = None if found is None else format_number(found.summary.p50_ms, 3)
            row.append(f"{number} (invalid)" if found and not found.valid else number)
        rows.append(row)
    head = ["model", "target", "precision", "outcome", "size", "SNR, dB", *(f"{name}: p50, ms" for name in columns)]
    print_table(f"run {report.run}", head, rows)
    for group, word in ((report.failed, "failed"), (report.invalid, "invalid"), (report.impossible, "not possible")):
        for name, reason in group.items():
            print_note(f"{name}: {word}: {reason}")
    print_line(
        f"{report.done_now} done now in {_duration(report.seconds)}, {report.done_before} before; "
        f"{len(report.failed)} failed, {len(report.invalid)} invalid; kept in {report.store}"
    )


def _column(measurement: Measurement) -> str:
    threads = measurement.protocol.threads
    return measurement.device.spec + ("" if threads == 1 else f", {threads} threads")


def _show(progress: Progress) -> None:
    from deploy_kit.sweep.drive import called

    unit, rest = progress.unit, progress.rest_s
    about = "" if rest is None or progress.done == progress.total else f"; about {_duration(rest)} left"
    words = f"{unit.outcome}, {unit.seconds or 0.0:.1f} s{about}"
    print(f"[{progress.done}/{progress.total}] {called(unit.key)}: {words}", file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
