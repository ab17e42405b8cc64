"""What the command line calls, and a program may call as well: fuse, export, verify."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn
from torch.utils._pytree import tree_leaves

from deploy_kit.approximation import approximate
from deploy_kit.artifact import Artifact, check_free, describe_files, open_artifact, workspace
from deploy_kit.calibration import Calibration, load_calibration
from deploy_kit.disk import explained
from deploy_kit.errors import DeployKitError, ExportError, ProofError, UserError, unknown_name
from deploy_kit.exporters import get_exporter
from deploy_kit.exporters.base import Exported, Exporter, Options
from deploy_kit.fusion import Policy, Rewrite, fuse_graph
from deploy_kit.graph import Graph
from deploy_kit.manifest import MANIFEST, FusionRecord, Manifest, RewriteRecord, TensorRecord
from deploy_kit.outcome import Outcome
from deploy_kit.parity.compare import LIMITS
from deploy_kit.parity.inputs import Case, make_cases
from deploy_kit.parity.locate import locate
from deploy_kit.parity.origin import Origin
from deploy_kit.parity.proof import Proof, judge, unprovable, unverified
from deploy_kit.parity.reduced import fault, simulate
from deploy_kit.parity.reference import Reference, compute_references
from deploy_kit.precision import Lowered
from deploy_kit.sources import TIMM, LoadedModel, embed_preprocessing, load_model
from deploy_kit.stages import Stages
from deploy_kit.statistics import count

DEFAULT_FOLDER = Path("artifacts")

REFERENCE, PROVE = "compute the float64 reference", "prove"
"""The stages of a proof, which an export has beside those that make its files."""


@dataclass(frozen=True)
class Fused:
    """A model's graph before and after a target's passes, and what was rewritten."""

    model: LoadedModel
    before: Graph
    after: Graph
    record: FusionRecord


def fuse(
    model: str | nn.Module | LoadedModel,
    target: str,
    options: Mapping[str, Any] | None = None,
    stages: Stages | None = None,
    policy: Policy | None = None,
) -> Fused:
    """Capture a model and apply the passes that ``target`` gains from.

    Args:
        model: a source that `load_model` takes, or what it returned.
        target: a name from `deploy_kit.exporters.list_targets`.
        options: of the target, by name.
        policy: which passes; None is the target's own policy.
        stages: to time and announce the work; None does so silently.
    """
    stages = stages or Stages()
    exporter = get_exporter(target)
    chosen = parse_options(exporter, options or {})
    loaded = _load(model, stages)
    return _fuse(loaded, exporter, chosen, stages, policy)


def _fuse(
    loaded: LoadedModel, exporter: Exporter, options: Options, stages: Stages, policy: Policy | None = None
) -> Fused:
    with stages.stage("capture"):
        before = loaded.capture(dynamic_batch=exporter.dynamic_batch(options))
    policy = policy or exporter.policy(options)
    with stages.stage("fuse"):
        after, rewrites = fuse_graph(before, policy)
    record = FusionRecord(
        passes=policy.names,
        rewrites=[_rewrite_record(rewrite) for rewrite in rewrites],
        before=count(before),
        after=count(after),
    )
    return Fused(loaded, before, after, record)


def _rewrite_record(rewrite: Rewrite) -> RewriteRecord:
    return RewriteRecord(pass_name=rewrite.pass_name, module=rewrite.module, detail=rewrite.detail)


@explained()
def export(
    model: str | nn.Module | LoadedModel,
    target: str,
    *,
    out: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    force: bool = False,
    allow_lossy: bool = False,
    stages: Stages | None = None,
) -> Artifact:
    """Fuse a model, export it to a target, prove the result and publish it with its manifest.

    Args:
        model: a source that `load_model` takes, or what it returned.
        target: a name from `deploy_kit.exporters.list_targets`.
        out: the folder that gets ``MODEL/TARGET/``; None is ``artifacts``.
        options: of the target, by name.
        force: replace an artifact that is there.
        allow_lossy: publish an artifact of reduced precision that loses more than its limits, as ``lossy``.
        stages: to time and announce the work; None does so silently.

    Raises:
        ProofError: the artifact does not compute what the model computes; nothing is published.
        ExportError: a stage failed; the message names it.
        UserError: what was asked for cannot be.
    """
    stages = stages or Stages()
    exporter = get_exporter(target)
    chosen = parse_options(exporter, options or {})
    loaded = _load(model, stages)
    folder = artifact_folder(loaded, target, out)
    check_free(folder, force=force)
    try:
        with workspace(folder, force=force) as temporary:
            manifest = build(loaded, exporter, chosen, temporary, stages)
            if manifest.outcome == Outcome.MISMATCH or (manifest.outcome == Outcome.LOSSY and not allow_lossy):
                raise _proof_error(manifest)
            (temporary / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    except ExportError as error:
        raise ExportError(f"{loaded.name} for {target}: {error}", fix=error.fix, outcome=error.outcome) from error
    return Artifact(folder, manifest)


def artifact_folder(loaded: LoadedModel, target: str, out: str | Path | None = None) -> Path:
    """Where a model's artifact for a target goes: ``MODEL/TARGET`` under ``out`` or ``artifacts``."""
    return (DEFAULT_FOLDER if out is None else Path(out)) / loaded.name / target


def build(
    loaded: LoadedModel,
    exporter: Exporter,
    options: Options,
    folder: Path,
    stages: Stages,
    policy: Policy | None = None,
    expected: Expected | None = None,
) -> Manifest:
    """Write a model's files into ``folder`` and prove them, whatever comes of it; the manifest is not written.

    Args:
        policy: which passes; None is the target's own policy.
        expected: what `expect` returned for this model and these options; None computes it.
    """
    fused, lowered = prepare(loaded, exporter, options, stages, policy)
    exported = exporter.export(lowered.graph, folder, options, stages)
    details = {**exported.details, **lowered.details}
    expected = expected or expect(loaded, exporter, options, stages)
    proof = prove(loaded, exporter, folder / exported.main_file, options, details, stages, expected)
    outcome = _outcome(proof, exported)
    origin = Origin(loaded, fused.record.passes, fused.after, lowered.graph, exporter, options)
    if outcome == Outcome.LOSSY:
        with stages.stage("compare it with PyTorch in the same precision"):
            wrong = fault(proof, simulate(origin, expected.cases, expected.references))
        if wrong is not None:
            outcome, proof = Outcome.MISMATCH, proof.model_copy(update={"failures": [*proof.failures, wrong]})
    if outcome == Outcome.MISMATCH:
        with stages.stage("find where it diverges"):
            proof = proof.model_copy(update={"diverges_at": locate(origin, proof, expected.cases)})
    if outcome == Outcome.LOSSY and lowered.explain is not None:
        with stages.stage("find the modules that lose most"):
            details["losses"] = [asdict(loss) for loss in lowered.explain()]
    batch = exporter.dynamic_batch(options)
    toolchain = {"deploykit": version("deploy-kit"), "python": platform.python_version(), **exported.toolchain}
    return Manifest(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        toolchain=toolchain,
        target=exporter.name,
        outcome=outcome,
        options=options.model_dump(mode="json"),
        model=loaded.record,
        inputs=_tensor_records(fused.after, "placeholder", "input", exporter, free_batch=batch),
        outputs=_tensor_records(fused.after, "output", "output", exporter, free_batch=batch),
        preprocessing=loaded.preprocessing,
        fusion=fused.record,
        operators=exported.operators,
        delegated_share=exported.delegated_share,
        details=details,
        notes=[*exported.notes, *lowered.notes],
        main_file=exported.main_file,
        files=describe_files(folder),
        proof=proof,
    )


def lower(
    loaded: LoadedModel, exporter: Exporter, options: Options, stages: Stages, policy: Policy | None = None
) -> Graph:
    """The graph that a target is given: captured, fused and in the precision of the artifact."""
    return prepare(loaded, exporter, options, stages, policy)[1].graph


def prepare(
    loaded: LoadedModel, exporter: Exporter, options: Options, stages: Stages, policy: Policy | None = None
) -> tuple[Fused, Lowered]:
    """A model's graph fused for a target, and that in the precision of the artifact."""
    fused = _fuse(loaded, exporter, options, stages, policy)
    return fused, _lower(loaded, fused.after, exporter, options, stages)


def _lower(loaded: LoadedModel, graph: Graph, exporter: Exporter, options: Options, stages: Stages) -> Lowered:
    """The graph with calibration inputs, where a precision needs them, and in that precision."""
    if exporter.precision(options) == "fp32":
        return exporter.lower(graph, options)
    with stages.stage("measure ranges and reduce the precision"):
        calibration = _calibration(loaded, options)
        lowered = exporter.lower(replace(graph, calibration=calibration.inputs), options)
        return replace(lowered, details={"calibration": calibration.description, **lowered.details})


def _calibration(loaded: LoadedModel, options: Options) -> Calibration:
    folder = getattr(options, "calibration", None)
    return load_calibration(loaded.input_shapes, loaded.preprocessing, folder, loaded.draw)


def _cases(loaded: LoadedModel, exporter: Exporter, options: Options) -> list[Case]:
    """What to prove an artifact on. Noise is outside of the ranges that int8 was calibrated for."""
    if exporter.precision(options) == "int8":
        return _calibration(loaded, options).cases
    batch = exporter.dynamic_batch(options)
    return make_cases(loaded.input_shapes, loaded.preprocessing, dynamic_batch=batch, own=loaded.draw)


@dataclass(frozen=True)
class Expected:
    """What an artifact is asked to compute, and what the model computes."""

    cases: list[Case]
    references: list[Reference]


def expect(loaded: LoadedModel, exporter: Exporter, options: Options, stages: Stages) -> Expected:
    """What a model computes in float64; `ExportError` where no artifact could be told from a wrong one by it."""
    with stages.stage(REFERENCE):
        cases = _cases(loaded, exporter, options)
        references = compute_references(loaded.module, cases)
        reason = unprovable(references, LIMITS[exporter.precision(options)])
        if reason is not None:
            raise ExportError(f"nothing can be proven: {reason}")
    return Expected(cases, references)


def prove(
    loaded: LoadedModel,
    exporter: Exporter,
    file: Path,
    options: Options,
    details: dict[str, Any],
    stages: Stages,
    expected: Expected | None = None,
) -> Proof:
    """Compare an artifact's file, run by its runtime, with float64 of the original model."""
    expected = expected or expect(loaded, exporter, options, stages)
    cases, references, precision = expected.cases, expected.references, exporter.precision(options)
    with stages.stage(PROVE):
        ran = exporter.run(file, [case.inputs for case in cases], options, details)
        if ran.outputs is not None:
            return judge(cases, references, ran.outputs, ran.verified_by, precision)
        if ran.source is None or ran.source.outputs is None:
            return unverified(ran.verified_by, precision, ran.reason)
        source = judge(cases, references, ran.source.outputs, ran.source.verified_by, precision)
        return unverified(ran.verified_by, precision, ran.reason, source) if source.passed else source


def _outcome(proof: Proof, exported: Exported) -> Outcome:
    if not proof.verified:
        return Outcome.EMITTED_UNVERIFIED
    if not proof.passed:
        comparable = all(case.problem is None for case in proof.cases)
        return Outcome.LOSSY if proof.precision != "fp32" and comparable else Outcome.MISMATCH
    return Outcome.OK_UNDELEGATED if exported.undelegated else Outcome.OK


def _proof_error(manifest: Manifest) -> ProofError:
    proof = manifest.proof
    if manifest.outcome == Outcome.LOSSY:
        losses = manifest.details.get("losses", [])[:5]
        worst = ", ".join(f"{loss['module']} ({loss['snr_db']:.1f} dB alone)" for loss in losses)
        where = f"; these modules lose most: {worst}" if worst else ""
        keep = f"keep modules with --keep-fp32 {losses[0]['module']}, let --auto-mixed choose them, " if losses else ""
        return ProofError(
            f"the {manifest.target} artifact of {manifest.model.name} loses more than {proof.precision} may "
            f"({proof.verified_by}): {'; '.join(proof.failures)}{where}",
            fix=f"{keep}{_milder(manifest)}, or take it as it is with --allow-lossy",
            outcome=Outcome.LOSSY,
        )
    where = f"; it diverges at {proof.diverges_at}" if proof.diverges_at else ""
    return ProofError(
        f"the {manifest.target} artifact of {manifest.model.name} does not compute what the model computes "
        f"({proof.verified_by}): {'; '.join(proof.failures)}{where}",
        fix="do not ship it; export the model again, and report the failure if it stays",
    )


def _milder(manifest: Manifest) -> str:
    """What to ask for instead of the loss that was asked for."""
    kind = manifest.options.get("compress")
    if kind is None:
        return "export it in a higher --precision"
    return f"export it with a milder --compress than {kind}, or without"


@explained()
def verify(
    artifact: str | Path | Artifact,
    *,
    weights: str | Path | None = None,
    calibration: Path | None = None,
    stages: Stages | None = None,
) -> Proof:
    """Prove a published artifact again, against the model that its manifest names.

    Args:
        artifact: its folder, or the object.
        weights: where the checkpoint is now, if it has moved since.
        calibration: where the folder of calibration images is now, if it has moved since.
        stages: to time and announce the work; None does so silently.

    Raises:
        UserError: no artifact there, changed files, or a model that cannot be built again.
        ProofError: the artifact is wrong.
    """
    stages = stages or Stages()
    with stages.stage("check the files"):
        opened = artifact if isinstance(artifact, Artifact) else open_artifact(artifact)
    manifest = opened.manifest
    with stages.stage("load the model"):
        loaded = reload_model(manifest, weights)
    exporter = get_exporter(manifest.target)
    moved = {} if calibration is None else {"calibration": calibration}
    options = parse_options(exporter, {**manifest.options, **moved})
    proof = prove(loaded, exporter, opened.main_file, options, manifest.details, stages)
    if proof.verified and not proof.passed:
        raise _proof_error(manifest.model_copy(update={"proof": proof}))
    return proof


def reload_model(manifest: Manifest, weights: str | Path | None = None) -> LoadedModel:
    """Build the model that an artifact was made from; `UserError` where that cannot be done exactly."""
    record = manifest.model
    if record.source == "module":
        raise UserError(
            "this artifact was made from a module in memory, which cannot be built again from its manifest",
            fix="export it from package.module:callable to be able to verify it later",
        )
    kept = {"checkpoint": record.weights.path, "timm": record.weights.path and TIMM}.get(record.weights.kind)
    path = weights or kept
    if path not in (None, TIMM) and not Path(path).is_file():
        raise UserError(f"there is no checkpoint {str(path)!r} any more", fix="pass where it is now with --weights")
    named = record.weights.kind in ("random", "checkpoint", "timm") and not re.search("[:/]", record.source)
    loaded = load_model(
        record.source,
        weights=path,
        input_size=None if record.source.endswith(".pt2") else record.input_size,
        activation=record.activation if named else None,
        num_classes=record.num_classes,
        seed=record.weights.seed or 0,
    )
    if loaded.record.weights.sha256 != record.weights.sha256:
        raise UserError(
            "the model's weights are not those that the artifact was made from",
            fix="pass the checkpoint it was made from with --weights, or export it again",
        )
    loaded = embed_preprocessing(loaded) if record.embeds_preprocessing else loaded
    return approximate(loaded, record.approximation.name) if record.approximation else loaded


def parse_options(exporter: Exporter, given: Mapping[str, Any]) -> Options:
    """A target's options from plain values; `UserError` for one that it does not take."""
    known = exporter.options_type.model_fields
    for name in given:
        if name not in known:
            raise unknown_name(f"option of the target {exporter.name}", name, known)
    try:
        return exporter.options_type.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise UserError(f"--{name.replace('_', '-')} {first['input']!r}: {first['msg']}") from error


def _load(model: str | nn.Module | LoadedModel, stages: Stages) -> LoadedModel:
    if isinstance(model, LoadedModel):
        return model
    with stages.stage("load the model"):
        return load_model(model)


def _tensor_records(graph: Graph, op: str, name: str, exporter: Exporter, *, free_batch: bool) -> list[TensorRecord]:
    nodes = [node for node in graph.nodes if node.op == op]
    if op == "output":
        nodes = tree_leaves(nodes[0].args)
    values = [node.meta["val"] for node in nodes]
    return [
        TensorRecord(
            name=name if len(values) == 1 else f"{name}_{index}",
            shape=[None if free_batch and axis == 0 else int(size) for axis, size in enumerate(value.shape)],
            dtype=str(exporter.stored_type(value.dtype)).removeprefix("torch."),
        )
        for index, value in enumerate(values)
    ]


__all__ = ["DeployKitError", "Fused", "export", "fuse", "load_model", "prove", "reload_model", "verify"]
