"""``deploykit compare``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy_kit.cli.console import format_number, print_json, print_line, print_note, print_table, show_stages
from deploy_kit.cli.parameters import Json
from deploy_kit.cli.results import check_out, write

if TYPE_CHECKING:
    from deploy_kit.benchmarks.comparison import Comparison


def command(
    a: Annotated[Path, typer.Argument(metavar="A", help="The folder of an artifact.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The folder of another one.")],
    device: Annotated[str, typer.Option("--device", "-d", help="As for bench.")] = "local",
    pairs: Annotated[
        int | None, typer.Option(help="How often each is run, in turn; none is until the interval is narrow.")
    ] = None,
    warmup: Annotated[int, typer.Option(min=0, help="Inferences before those that count, of each run.")] = 10,
    iterations: Annotated[int, typer.Option(min=1, help="Inferences that count, of each run.")] = 50,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    cores: Annotated[str | None, typer.Option(help="prime, big, little, several, or a mask such as 0xf0.")] = None,
    cool_to: Annotated[
        float | None, typer.Option(metavar="CELSIUS", help="Wait before each run until no sensor is warmer.")
    ] = None,
    runner: Annotated[str | None, typer.Option(help="As for bench, for both.")] = None,
    check_outputs: Annotated[
        bool, typer.Option("--check-outputs/--no-check-outputs", help="Compare the outputs with the models'.")
    ] = True,
    out: Annotated[Path | None, typer.Option(help="Also write the comparison into this .json file.")] = None,
    fail_if_slower: Annotated[bool, typer.Option(help="Exit with 1 where B is shown to be slower.")] = False,
    json: Json = False,
) -> None:
    """Say whether B is faster or slower than A on a device, or that no difference was shown.

    Both are run in turn, 30 times or as often as the device's noise makes necessary. The exit code is 1 where outputs
    are wrong, and with --fail-if-slower where B is shown to be slower.
    """
    from deploy_kit.artifact import open_artifact
    from deploy_kit.benchmarks.comparison import Verdict, compare
    from deploy_kit.benchmarks.protocol import protocol_of
    from deploy_kit.benchmarks.runners.choice import choose_runner
    from deploy_kit.devices.registry import get_device

    protocol = protocol_of(warmup=warmup, iterations=iterations, threads=threads, cores=cores, cool_to_c=cool_to)
    if out is not None:
        check_out(out)
    first, second, chosen = open_artifact(a), open_artifact(b), get_device(device)
    with show_stages() as stages, stages.stage(f"run both in turn on {chosen.spec}"):
        runners = [choose_runner(chosen, each.manifest.target, threads, runner) for each in (first, second)]
        words = shlex.join(["deploykit", *sys.argv[1:]])
        found = compare(
            (first, second), (runners[0], runners[1]), chosen, protocol, pairs, command=words, check=check_outputs
        )
    document = found.model_dump(mode="json", by_alias=True)
    if json:
        print_json(document)
    else:
        _report(found)
    if out is not None:
        write(out, document)
    if not found.right or (fail_if_slower and found.verdict == Verdict.SLOWER):
        raise typer.Exit(1)


def _report(found: Comparison) -> None:
    from deploy_kit.benchmarks.summary import summarise

    rows = []
    for name, record, index in (("A", found.a, 0), ("B", found.b, 1)):
        summary = summarise([pair[index].result.samples_ns for pair in found.pairs])
        times = (summary.p50_ms, summary.p90_ms, summary.min_ms)
        rows.append(
            (name, record.model, record.target, record.precision, *(format_number(value, 3) for value in times))
        )
    print_table(f"{found.device.spec}", ["", "model", "target", "precision", "p50, ms", "p90", "min"], rows)
    ratio = found.ratio
    print_line(
        f"B takes {ratio.estimate:.3f} times as long as A ({ratio.low:.3f} to {ratio.high:.3f} at "
        f"{ratio.confidence:.1%} confidence, {len(found.pairs)} pairs): {found.verdict}"
    )
    for name, check in found.outputs.items():
        if check is not None and check.verdict == "wrong":
            print_note(f"{name}: wrong outputs: {check.failure}")
    for note in found.notes:
        print_note(note)
