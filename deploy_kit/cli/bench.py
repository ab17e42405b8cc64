"""``deploykit bench``."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy_kit.cli.console import (
    format_bytes,
    format_number,
    print_error,
    print_json,
    print_line,
    print_note,
    print_table,
    show_stages,
)
from deploy_kit.cli.parameters import Json
from deploy_kit.cli.results import check_out, write

if TYPE_CHECKING:
    from deploy_kit.artifact import Artifact
    from deploy_kit.benchmarks.measurement import ArtifactRecord, Measurement
    from deploy_kit.benchmarks.protocol import Protocol
    from deploy_kit.devices.base import Device
    from deploy_kit.errors import DeployKitError
    from deploy_kit.stages import Stages

PAPERS = ("edgevit_xxs", "edgevit_xs", "edgevit_s")
PAPERS_TARGET = "torchscript-lite"
"""What the EdgeViT paper times on a phone; exported where there is nothing to bench."""

METRICS = ("latency", "instructions")
COUNTED = "qemu:aarch64"

OF_LATENCY = (
    *("warmup", "iterations", "rounds", "threads", "cores", "cool_to", "cool_seconds"),
    *("runner", "energy", "check_outputs"),
)
"""Parameters that have no meaning where instructions are counted."""


@dataclass(frozen=True)
class Counted:
    """The instructions of several inferences of an artifact, and what they were counted with."""

    artifact: ArtifactRecord
    counts: list[int]
    pins: dict[str, str]


def command(
    context: typer.Context,
    artifacts: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[ARTIFACT]...",
            help="Folders that `deploykit export` made; none are all in the default folder that the device can run.",
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            "--device", "-d", help="local, adb:SERIAL (adb: the only one), ssh:USER@HOST, ios:UDID or qemu:aarch64."
        ),
    ] = "local",
    warmup: Annotated[int, typer.Option(min=0, help="Inferences before those that count.")] = 10,
    iterations: Annotated[int, typer.Option(min=1, help="Inferences that count, of each round.")] = 50,
    rounds: Annotated[int, typer.Option(min=1, help="How often all is done, each time by a new process.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    cores: Annotated[
        str | None, typer.Option(help="prime, big, little, several (prime+big), or a mask such as 0xf0.")
    ] = None,
    cool_to: Annotated[
        float | None, typer.Option(metavar="CELSIUS", help="Wait before each round until no sensor is warmer.")
    ] = None,
    cool_seconds: Annotated[float, typer.Option(min=0, help="How long to wait for a warm device at most.")] = 300,
    runner: Annotated[
        str | None,
        typer.Option(help="A program that you built, or app (for CoreML also app:cpuOnly and so on)."),
    ] = None,
    energy: Annotated[
        str, typer.Option(help="auto, none, monsoon, rails (Pixels), battery or rapl (this machine).")
    ] = "auto",
    check_outputs: Annotated[
        bool, typer.Option("--check-outputs/--no-check-outputs", help="Compare the outputs with the model's.")
    ] = True,
    metric: Annotated[
        str, typer.Option(help="latency, or instructions: ARM instructions of an inference, on qemu:aarch64.")
    ] = "latency",
    out: Annotated[Path | None, typer.Option(help="Also write the measurements into this .json file.")] = None,
    json: Json = False,
) -> None:
    """Time ARTIFACTs on a device, by the protocol of the mobile vision transformer papers.

    A measurement whose conditions were not good is printed with the reasons, and the exit code is 1. An artifact that
    cannot be measured ends in an error after the others were measured. What was measured is printed and kept, however
    the command ends.
    """
    from deploy_kit.artifact import open_artifact
    from deploy_kit.benchmarks.energy.measure import check_name
    from deploy_kit.benchmarks.protocol import protocol_of
    from deploy_kit.devices.registry import get_device
    from deploy_kit.errors import DeployKitError

    protocol = protocol_of(
        warmup=warmup,
        iterations=iterations,
        rounds=rounds,
        threads=threads,
        cores=cores,
        cool_to_c=cool_to,
        cool_seconds=cool_seconds,
    )
    if out is not None:
        check_out(out)
    _check_metric(metric, device, context)
    check_name(energy)
    chosen = get_device(device)
    measured: list[Measurement] = []
    failures: list[DeployKitError] = []
    try:
        with show_stages() as stages:
            opened = [open_artifact(path) for path in artifacts] if artifacts else _found(chosen, runner, stages)
            counted = [_count(artifact, stages) for artifact in opened] if metric == "instructions" else []
            for artifact in opened if metric == "latency" else ():
                try:
                    measured.append(
                        _measure(artifact, chosen, runner, protocol, stages, energy=energy, check=check_outputs)
                    )
                except DeployKitError as error:
                    failures.append(_of(artifact, error))
                else:
                    if out is not None:
                        write(out, _documents(measured))
    finally:
        if measured and json:
            print_json(_documents(measured))
        elif measured:
            _report(measured, energy, check=check_outputs)
    if counted:
        _report_counts(counted, json=json, out=out)
        return
    for failure in failures[1:]:
        print_error(failure)
    if failures:
        raise failures[0]
    if not all(each.valid for each in measured):
        raise typer.Exit(1)


def _documents(measured: list[Measurement]) -> list[dict[str, Any]]:
    return [each.model_dump(mode="json", by_alias=True) for each in measured]


def _of(artifact: Artifact, error: DeployKitError) -> DeployKitError:
    """The error with the name of the artifact that it is of."""
    error.args = (f"{artifact.manifest.model.name}, {artifact.manifest.target}: {error}",)
    return error


def _found(device: Device, runner: str | None, stages: Stages) -> list[Artifact]:
    """The artifacts in the default folder that a device can run; the papers' suite, exported, where there are none.

    One that cannot be opened is left out with a note.
    """
    from deploy_kit.api import DEFAULT_FOLDER, export
    from deploy_kit.artifact import open_artifact
    from deploy_kit.benchmarks.runners.choice import targets_of
    from deploy_kit.errors import DeployKitError
    from deploy_kit.manifest import MANIFEST

    targets = targets_of(device, runner)
    fitting = []
    for path in sorted(DEFAULT_FOLDER.glob(f"*/*/{MANIFEST}")):
        try:
            artifact = open_artifact(path.parent)
        except DeployKitError as error:
            print_note(f"{path.parent} is left out: {error}")
            continue
        if artifact.manifest.target in targets:
            fitting.append(artifact)
    if fitting:
        return fitting
    print_line(f"{DEFAULT_FOLDER} has nothing that {device.spec} can run: the papers' models are exported first")
    target = PAPERS_TARGET if PAPERS_TARGET in targets else targets[0]
    return [export(model, target, stages=stages) for model in PAPERS]


def _measure(
    artifact: Artifact,
    device: Device,
    program: str | None,
    protocol: Protocol,
    stages: Stages,
    *,
    energy: str,
    check: bool,
) -> Measurement:
    from deploy_kit.benchmarks.harness import bench
    from deploy_kit.benchmarks.runners.choice import choose_runner

    target = artifact.manifest.target
    with stages.stage(f"measure {artifact.manifest.model.name}, {target}, on {device.spec}"):
        runner = choose_runner(device, target, protocol.threads, program)
        return bench(
            artifact,
            device,
            runner,
            protocol,
            command=shlex.join(["deploykit", *sys.argv[1:]]),
            energy=energy,
            check=check,
            announce=_announce,
        ).measurement


def _check_metric(metric: str, device: str, context: typer.Context) -> None:
    from deploy_kit.errors import UserError, unknown_name

    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    if metric == "instructions" and device != COUNTED:
        raise UserError(
            f"instructions are counted on an emulated processor, not on {device}", fix=f"--device {COUNTED}"
        )
    given = [name for name in OF_LATENCY if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"]
    if metric == "instructions" and given:
        names = ", ".join(f"--{name}".replace("_", "-") for name in given)
        raise UserError(
            f"instructions are counted in a way of their own: {names} would change nothing", fix="leave it out"
        )


def _count(artifact: Artifact, stages: Stages) -> Counted:
    from deploy_kit.benchmarks.harness import example_inputs, record_of
    from deploy_kit.benchmarks.instructions import count_instructions
    from deploy_kit.benchmarks.native import build_runner

    target = artifact.manifest.target
    with stages.stage(f"count the instructions of {artifact.manifest.model.name}, {target}"):
        inputs = example_inputs(artifact.manifest.inputs)
        found = count_instructions(build_runner(target, "aarch64"), artifact.main_file, inputs)
    return Counted(record_of(artifact), list(found.counts), found.pins)


def _report_counts(counted: list[Counted], *, json: bool, out: Path | None) -> None:
    if out is not None:
        write(out, [_plain(each) for each in counted])
    if json:
        print_json([_plain(each) for each in counted])
        return
    print_table(
        f"ARM instructions of one inference, {COUNTED}, one thread: a cost, not a time",
        ["model", "target", "instructions", "size"],
        [
            (
                each.artifact.model,
                each.artifact.target,
                f"{each.counts[-1]:,}",
                format_bytes(each.artifact.bytes),
            )
            for each in counted
        ],
    )


def _plain(each: Counted) -> dict[str, Any]:
    return {"artifact": each.artifact.model_dump(mode="json"), "counts": each.counts, "pins": each.pins}


def _announce(text: str) -> None:
    if text.startswith("wait"):
        print(f"  {text}", file=sys.stderr)


def _report(measured: list[Measurement], meter: str, *, check: bool) -> None:
    device = measured[0].device
    print_line(f"{device.spec}: {device.description}")
    protocol = measured[0].protocol
    print_table(
        f"{protocol.iterations} inferences after {protocol.warmup}, {protocol.rounds} round(s), "
        f"{protocol.threads} thread(s){f', cores {protocol.cores}' if protocol.cores else ''}",
        [
            "model",
            "target",
            "p50, ms",
            "mean",
            "std",
            "p90",
            "min",
            "first",
            "load",
            "memory",
            "mJ",
            "size",
            "outputs",
            "valid",
        ],
        [_row(each) for each in measured],
    )
    for each in measured:
        missing = [] if meter in ("auto", "none") or each.energy else [f"no energy: {each.unavailable['energy']}"]
        if check and each.outputs is None:
            missing.append(f"outputs not checked: {each.unavailable['outputs']}")
        for text in [*each.reasons, *missing]:
            print_note(f"{each.artifact.model}, {each.artifact.target}: {text}")


def _row(each: Measurement) -> list[str | None]:
    summary = each.summary
    memory = each.memory_over_baseline_kb
    precision = "" if each.artifact.precision == "fp32" else f" {each.artifact.precision}"
    return [
        each.artifact.model,
        f"{each.artifact.target}{precision}",
        *(format_number(value, 2) for value in (summary.p50_ms, summary.mean_ms, summary.std_ms, summary.p90_ms)),
        *(format_number(value, 2) for value in (summary.min_ms, each.first_ms, each.load_ms)),
        None if memory is None else format_bytes(memory * 1024),
        None if each.energy is None else format_number(each.energy.mj_per_inference, 2),
        format_bytes(each.artifact.bytes),
        None if each.outputs is None else each.outputs.verdict,
        "yes" if each.valid else "no",
    ]
