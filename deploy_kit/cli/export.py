"""``deploykit export``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy_kit.cli.console import (
    format_bytes,
    format_error,
    format_number,
    format_percent,
    print_error,
    print_json,
    print_line,
    print_note,
    print_table,
)
from deploy_kit.cli.parameters import Activation, Classes, InputSize, Json, Model, Seed, Targets, Weights
from deploy_kit.cli.tuning import print_tuning

if TYPE_CHECKING:
    from deploy_kit.artifact import Artifact
    from deploy_kit.errors import DeployKitError
    from deploy_kit.manifest import TuningRecord
    from deploy_kit.parity.proof import Proof
    from deploy_kit.sources import LoadedModel
    from deploy_kit.stages import Stages


ALL = "all"
"""The name that stands for every installed target."""

LOCAL = "local"
"""The device that tuning measures on, where none is named."""


@dataclass(frozen=True)
class ExportResult:
    """What became of one target; what was not measured is None."""

    model: str
    target: str
    weights: str
    outcome: str
    artifact: str | None
    bytes: int | None
    verified_by: str | None
    max_relative_error: float | None
    noise_ratio: float | None
    snr_db: float | None
    top1_agreement: float | None
    operators: int | None
    delegated_share: float | None
    seconds: float | None
    tuning: TuningRecord | None
    notes: list[str]
    error: str | None


def command(
    model: Model,
    target: Targets,
    weights: Weights = None,
    out: Annotated[Path, typer.Option(help="The folder that gets MODEL/TARGET/.")] = Path("artifacts"),
    activation: Activation = None,
    num_classes: Classes = None,
    input_size: InputSize = None,
    seed: Seed = 0,
    embed_preprocessing: Annotated[
        bool, typer.Option("--embed-preprocessing", help="Take uint8 images [B, H, W, C], and normalise them inside.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an artifact that is there.")] = False,
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16 or int8, of the targets that offer it; none is the target's default.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="A folder of images to measure the ranges of int8 and fp16 on; none is two photographs."),
    ] = None,
    keep_fp32: Annotated[
        list[str] | None, typer.Option(help="A module that stays in float32, with all inside of it; repeat for more.")
    ] = None,
    auto_mixed: Annotated[
        bool | None, typer.Option("--auto-mixed", help="int8: keep the fewest modules in float32 that it needs.")
    ] = None,
    allow_lossy: Annotated[
        bool, typer.Option("--allow-lossy", help="Keep an fp16 or int8 artifact that loses more than its limits.")
    ] = False,
    approximate: Annotated[
        str | None,
        typer.Option(help="Consent to gelu_to_tanh or gelu_to_sigmoid; how far that is from MODEL is measured."),
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Measure equivalent forms, each proven, and keep the fastest.")
    ] = False,
    tune_budget: Annotated[
        str | None, typer.Option(help="Of --tune: when to try no more forms, such as 90s or 10m; none is 120s.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="What --tune measures on; none is local, this machine.")] = None,
    opset: Annotated[int | None, typer.Option(help="onnx: version of the operator set.")] = None,
    dynamic_batch: Annotated[bool | None, typer.Option("--dynamic-batch", help="onnx: leave the batch free.")] = None,
    ort_format: Annotated[
        bool | None,
        typer.Option("--ort-format", help="onnx: also write model.ort for mobile builds, and the operators it needs."),
    ] = None,
    bytecode_version: Annotated[
        int | None, typer.Option(help="torchscript-lite: 4 to 8; 5 for PyTorch Mobile 1.9, 7 for 1.10 and 1.11.")
    ] = None,
    mobile_python: Annotated[
        str | None, typer.Option(help="torchscript-lite: a Python whose torch has XNNPACK, to prepack and prove with.")
    ] = None,
    delegate: Annotated[
        str | None, typer.Option(help="executorch: xnnpack, coreml, vulkan or portable; none is xnnpack.")
    ] = None,
    strict: Annotated[
        bool | None, typer.Option("--strict", help="executorch: fail where a heavy operator is not delegated.")
    ] = None,
    bundle_io: Annotated[
        bool | None, typer.Option("--bundle-io", help="executorch: also write a program bundled with a test case.")
    ] = None,
    keep_out: Annotated[
        list[str] | None,
        typer.Option(help="executorch: leave gelu or softmax to its own kernels, not to XNNPACK's; repeat for both."),
    ] = None,
    ios: Annotated[int | None, typer.Option(help="coreml: the oldest iOS that loads it, 15 to 18.")] = None,
    compress: Annotated[
        str | None, typer.Option(help="coreml: weights as int8, palette8, palette6 or palette4; from --ios 16 on.")
    ] = None,
    compute_capability: Annotated[
        str | None, typer.Option(help="tensorrt: the GPUs to build for ahead of time, such as 8.6,8.9.")
    ] = None,
    json: Json = False,
) -> None:
    """Fuse MODEL, export it to each target, prove each artifact and write its manifest."""
    from deploy_kit.api import artifact_folder, export
    from deploy_kit.approximation import approximate as approximated
    from deploy_kit.artifact import check_free
    from deploy_kit.benchmarks.tuning import tune as search
    from deploy_kit.cli.console import show_stages
    from deploy_kit.errors import ExportError, MissingDependencyError, ProofError
    from deploy_kit.exporters import list_targets
    from deploy_kit.outcome import Outcome
    from deploy_kit.sources import embed_preprocessing as embed
    from deploy_kit.sources import load_model

    given = {
        "precision": precision,
        "calibration": calibration.resolve() if calibration else None,
        "keep_fp32": keep_fp32 or None,
        "auto_mixed": auto_mixed,
        "opset": opset,
        "dynamic_batch": dynamic_batch,
        "ort_format": ort_format,
        "bytecode_version": bytecode_version,
        "mobile_python": mobile_python,
        "delegate": delegate,
        "strict": strict,
        "bundle_io": bundle_io,
        "keep_out": keep_out or None,
        "ios": ios,
        "compress": compress,
        "compute_capability": compute_capability,
    }
    budget = _tuning_budget(tune, tune_budget, device, allow_lossy)
    names = list_targets() if target == [ALL] else target
    options, refused = split_options(names, {name: value for name, value in given.items() if value is not None})
    if budget is not None:
        options, untimed = _timed(options, device or LOCAL)
        refused |= untimed
    results = []
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
            loaded = embed(loaded) if embed_preprocessing else loaded
            loaded = loaded if approximate is None else approximated(loaded, approximate)
        for name in options:
            check_free(artifact_folder(loaded, name, out), force=force)
        for name, chosen in options.items():
            first = len(stages.finished)
            try:
                if budget is None:
                    artifact = export(
                        loaded,
                        name,
                        out=out,
                        options=chosen,
                        force=force,
                        allow_lossy=allow_lossy,
                        stages=_prefixed(stages, name),
                    )
                else:
                    artifact = search(
                        loaded,
                        name,
                        device=device or LOCAL,
                        budget=budget,
                        out=out,
                        options=chosen,
                        force=force,
                        stages=_prefixed(stages, name),
                    )
                results.append(_success(loaded, artifact, stages, first))
            except (ExportError, ProofError, MissingDependencyError) as error:
                if len(options) + len(refused) == 1:
                    raise
                print_error(error)
                results.append(_failure(loaded, name, error, _seconds(stages, first)))
        for name, refusal in refused.items():
            print_error(refusal)
            results.append(_failure(loaded, name, refusal, None))
    _report(results, loaded, json)
    harmless = {Outcome.UNAVAILABLE} if target == [ALL] else set()
    if any(result.error and result.outcome not in harmless for result in results):
        raise typer.Exit(1)


def _tuning_budget(tune: bool, budget: str | None, device: str | None, allow_lossy: bool) -> float | None:
    """Seconds to search for the fastest form in; None where there is no search."""
    from deploy_kit.benchmarks.timers import get_timer
    from deploy_kit.benchmarks.tuning import is_budget
    from deploy_kit.errors import UserError

    if not tune:
        for name, value in (("tune-budget", budget), ("device", device)):
            if value is not None:
                raise UserError(f"--{name} means nothing without --tune", fix="add --tune, or leave it out")
        return None
    if allow_lossy:
        raise UserError("--tune compares forms that are proven, and none is lossy", fix="leave out --allow-lossy")
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h)", "120s" if budget is None else budget)
    seconds = float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]] if found else 0.0
    if not is_budget(seconds):
        raise UserError(f"--tune-budget {budget!r} is no time to search in", fix="write it as 90s, 10m or 1h")
    get_timer(device or LOCAL)
    return seconds


def _timed(
    options: dict[str, dict[str, Any]], device: str
) -> tuple[dict[str, dict[str, Any]], dict[str, DeployKitError]]:
    """The targets that a device can time, and why it cannot time the others; `UserError` where it can time none."""
    from deploy_kit.benchmarks.timers import get_timer
    from deploy_kit.errors import UserError

    timed: dict[str, dict[str, Any]] = {}
    refused: dict[str, DeployKitError] = {}
    timer = get_timer(device)
    for name, chosen in options.items():
        try:
            timer.require(name)
            timed[name] = chosen
        except UserError as error:
            refused[name] = error
    if not timed:
        raise next(iter(refused.values()))
    return timed, refused


def split_options(
    targets: list[str], given: dict[str, Any]
) -> tuple[dict[str, dict[str, Any]], dict[str, DeployKitError]]:
    """The options that each target takes, checked, and why a target cannot do what was asked for.

    Raises:
        UserError: an option means nothing to any target, or no target can do what was asked for.
    """
    from deploy_kit.api import parse_options
    from deploy_kit.errors import UserError
    from deploy_kit.exporters import get_exporter

    exporters = {name: get_exporter(name) for name in dict.fromkeys(targets)}
    for name in given:
        if not any(name in exporter.options_type.model_fields for exporter in exporters.values()):
            raise UserError(f"--{name.replace('_', '-')} means nothing to {' or '.join(exporters)}", fix="leave it out")
    chosen: dict[str, dict[str, Any]] = {}
    refused: dict[str, DeployKitError] = {}
    for name, exporter in exporters.items():
        mine = {key: value for key, value in given.items() if key in exporter.options_type.model_fields}
        try:
            if "precision" not in mine and given.get("precision", "fp32") != "fp32":
                raise UserError(f"the target {name} writes fp32 alone", fix="leave out --precision")
            parse_options(exporter, mine)
        except UserError as error:
            if len(exporters) == 1:
                raise
            refused[name] = error
        else:
            chosen[name] = mine
    if not chosen:
        raise next(iter(refused.values()))
    return chosen, refused


def _prefixed(stages: Stages, target: str) -> Stages:
    """The same stages, announced with the target's name before theirs."""
    from dataclasses import replace

    return replace(stages, on_start=lambda name: stages.on_start(f"{target}: {name}"))


def _success(loaded: LoadedModel, artifact: Artifact, stages: Stages, first: int) -> ExportResult:
    proof = artifact.manifest.proof
    return ExportResult(
        model=loaded.name,
        target=artifact.manifest.target,
        weights=loaded.record.weights.description,
        outcome=artifact.manifest.outcome,
        artifact=str(artifact.main_file),
        bytes=artifact.size,
        verified_by=proof.verified_by,
        max_relative_error=proof.max_relative_error,
        noise_ratio=proof.noise_ratio if proof.precision == "fp32" else None,
        snr_db=proof.snr_db,
        top1_agreement=proof.top1_agreement,
        operators=sum(artifact.manifest.operators.values()),
        delegated_share=artifact.manifest.delegated_share,
        seconds=_seconds(stages, first),
        tuning=artifact.manifest.tuning,
        notes=[*_approximations(loaded), *artifact.manifest.notes, *_notes_on(proof)],
        error=None,
    )


def _approximations(loaded: LoadedModel) -> list[str]:
    found = loaded.record.approximation
    return [] if found is None else [f"approximated, and proven against the approximation: {found.description}"]


def _notes_on(proof: Proof) -> list[str]:
    """What was proven in the place of an artifact that nothing here can run."""
    if proof.source is None:
        return []
    error = format_error(proof.source.max_relative_error)
    found = f"what it was made from is proven by {proof.source.verified_by} (largest relative error {error})"
    return [f"not run: {'; '.join(proof.failures)}; {found}"]


def _failure(loaded: LoadedModel, target: str, error: DeployKitError, seconds: float | None) -> ExportResult:
    """What is said of a target that failed; without ``seconds`` it was not tried."""
    from deploy_kit.outcome import Outcome

    return ExportResult(
        model=loaded.name,
        target=target,
        weights=loaded.record.weights.description,
        outcome=Outcome.UNAVAILABLE if seconds is None else getattr(error, "outcome", Outcome.EXPORT_FAILED),
        artifact=None,
        bytes=None,
        verified_by=None,
        max_relative_error=None,
        noise_ratio=None,
        snr_db=None,
        top1_agreement=None,
        operators=None,
        delegated_share=None,
        seconds=seconds,
        tuning=None,
        notes=[],
        error=str(error),
    )


def _seconds(stages: Stages, first: int) -> float:
    return sum(stage.seconds for stage in stages.finished[first:])


def _report(results: list[ExportResult], loaded: LoadedModel, json: bool) -> None:
    if json:
        print_json(results)
        return
    title = f"{loaded.name}, weights: {loaded.record.weights.description}"
    if len(results) == 1:
        rows = _row(results[0]) | {"file": results[0].artifact}
        print_table(title, ["result", results[0].target], [(name, rows[name]) for name in rows])
    else:
        table = [{"target": result.target} | _row(result) for result in results]
        print_table(title, list(table[0]), [tuple(row.values()) for row in table])
        for result in results:
            if result.artifact is not None:
                print_line(f"{result.target}: {result.artifact}")
    for result in results:
        if result.tuning is not None:
            print_tuning(result.target, result.tuning)
    for result in results:
        for note in result.notes:
            print_note(f"{result.target}: {note}")


def _row(result: ExportResult) -> dict[str, object]:
    """What the table says of a target, by column."""
    return {
        "outcome": result.outcome,
        "verified by": result.verified_by,
        "error": format_error(result.max_relative_error),
        "x float32's": format_number(result.noise_ratio, 1),
        "SNR, dB": format_number(result.snr_db, 0),
        "top-1": format_percent(result.top1_agreement),
        "size": None if result.bytes is None else format_bytes(result.bytes),
        "operators": result.operators,
        "delegated": format_percent(result.delegated_share),
        "time": None if result.seconds is None else f"{result.seconds:.1f} s",
    }
