"""``deploykit profile``."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy_kit.cli.console import (
    format_number,
    format_percent,
    print_json,
    print_line,
    print_note,
    print_table,
    show_stages,
)
from deploy_kit.cli.parameters import Activation, Classes, InputSize, Json, Seed, Weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploy_kit.profile import Part, Profile
    from deploy_kit.stages import Stages

COLUMNS = ["calls", "ms", "share", "MMACs", "MB moved", "GFLOP/s", "GB/s", "FLOP/byte", "of roofline"]


def command(
    source: Annotated[
        str,
        typer.Argument(metavar="ARTIFACT|MODEL", help="The folder of an artifact; or, with --target, a model."),
    ],
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="A target: MODEL is exported to it first, and not kept.")
    ] = None,
    weights: Weights = None,
    activation: Activation = None,
    num_classes: Classes = None,
    input_size: InputSize = None,
    seed: Seed = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime, and of the measured peaks.")] = 1,
    iterations: Annotated[int, typer.Option(min=1, help="Inferences to profile; times are their medians.")] = 30,
    top: Annotated[int, typer.Option(min=1, help="How many operators, and modules, the tables show.")] = 10,
    plot: Annotated[Path | None, typer.Option(help="Also draw the roofline into this .svg or .html file.")] = None,
    json: Json = False,
) -> None:
    """Say where the time of an inference goes: by operator, by module, and by compute against memory-bound work.

    GFLOP/s count two for each multiply-accumulate, and nothing else.
    Bytes are those of an operator's inputs, weights and outputs, each once.
    The roofline is what a large product and a large copy reach here, measured with as many threads.
    A dash is what is not known.
    """
    from deploy_kit.profile.plot import check_plot, write_plot

    if plot is not None:
        check_plot(plot)
    with show_stages() as stages:
        if target is None:
            _refuse(activation=activation, num_classes=num_classes, input_size=input_size, seed=seed or None)
            found = _profile_artifact(source, weights, threads, iterations, stages)
        else:
            chosen = Chosen(weights, activation, num_classes, input_size, seed)
            found = _profile_model(source, target, chosen, threads, iterations, stages)
        if plot is not None:
            write_plot(found, plot)
    if json:
        print_json(found)
    else:
        _report(found, top)


@dataclass(frozen=True)
class Chosen:
    """What was chosen of a model."""

    weights: Path | None
    activation: str | None
    num_classes: int | None
    input_size: str | None
    seed: int


def _refuse(**given: object) -> None:
    """Raise `UserError` where something was chosen of the model of an artifact."""
    from deploy_kit.errors import UserError

    names = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if names:
        raise UserError(
            f"an artifact has its model already: {' and '.join(names)} is for a MODEL",
            fix="leave it out, or name a --target to export the model to",
        )


def _profile_artifact(source: str, weights: Path | None, threads: int, iterations: int, stages: Stages) -> Profile:
    from deploy_kit.errors import UserError
    from deploy_kit.profile import profile

    if not Path(source).exists():
        raise UserError(
            f"there is no artifact at {source!r}", fix="name a --target to profile a model, or export it first"
        )
    return profile(source, weights=weights, threads=threads, iterations=iterations, stages=stages)


def _profile_model(source: str, target: str, chosen: Chosen, threads: int, iterations: int, stages: Stages) -> Profile:
    from deploy_kit.api import export
    from deploy_kit.errors import UserError
    from deploy_kit.exporters import get_exporter
    from deploy_kit.manifest import MANIFEST
    from deploy_kit.profile import profile
    from deploy_kit.profile.runtimes import require_profiler
    from deploy_kit.sources import load_model

    if (Path(source) / MANIFEST).is_file():
        raise UserError(f"{source!r} is an artifact, which has its target", fix="leave out --target")
    require_profiler(get_exporter(target))
    with stages.stage(f"load {source}"):
        loaded = load_model(source, **vars(chosen))
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
        artifact = export(loaded, target, out=scratch, stages=stages)
        return profile(artifact, loaded=loaded, threads=threads, iterations=iterations, stages=stages)


def _report(found: Profile, top: int) -> None:
    peaks = found.peaks
    print_table(
        f"{found.model} on {found.target}, {found.precision}, {found.runtime}, {found.threads} "
        f"thread{'s' * (found.threads > 1)}; this machine: {peaks.gflops:.0f} GFLOP/s ({peaks.products_by}'s product), "
        f"{peaks.gbytes:.1f} GB/s",
        ["kind", *COLUMNS],
        _rows([*found.kinds, found.total]),
    )
    print_table(
        "operators, the slowest first", ["operator", "kind", *COLUMNS], _rows(found.by_operator[:top], kinds=True)
    )
    if found.without_module_share != 1:
        print_table(
            "modules, the slowest first", ["module", "kind", *COLUMNS], _rows(found.by_module[:top], kinds=True)
        )
    print_line(
        f"an inference took {found.plain_ms:.3f} ms, and {found.profiled_ms:.3f} ms with the profiler (medians of "
        f"{found.iterations}); its operators {found.operators_ms:.3f} ms together, which the shares are of"
    )
    print_line(
        f"memory-bound: {format_percent(found.memory_bound_share) or '-'}, "
        f"compute: {format_percent(found.compute_share) or '-'}"
    )
    for note in found.notes:
        print_note(note)


def _rows(parts: Sequence[Part], *, kinds: bool = False) -> list[list[object]]:
    names = {None: "(not known)", "": "(the model)"}
    return [
        [
            names.get(part.name, part.name),
            *([part.kind or "several"] if kinds else []),
            part.calls,
            format_number(part.ms, 3),
            format_percent(part.share),
            None if part.macs is None else format_number(part.macs / 1e6, 1),
            None if part.bytes is None else format_number(part.bytes / 1e6, 2),
            format_number(part.rates.gflops, 1),
            format_number(part.rates.gbytes, 1),
            format_number(part.rates.intensity, 1),
            format_percent(part.rates.of_roofline),
        ]
        for part in parts
    ]
