"""Manifests and measurements as a page shows them: what is long is summed up, what is a condition is said in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.measurement import Measurement, Round
from deploy_kit.manifest import FusionRecord, TensorRecord, TuningRecord
from deploy_kit.parity.compare import Limits
from deploy_kit.parity.proof import Proof
from deploy_kit.report.data import (
    SAMPLES,
    Case,
    Condition,
    Described,
    File,
    Proven,
    Rewrites,
    Timing,
    Used,
)

MODULES = 8
"""Modules of a pass that are listed."""

FILES = 20
"""Files of an artifact that are listed."""


def described(artifact: Artifact) -> Described:
    """What the manifest of an artifact says."""
    manifest = artifact.manifest
    model = manifest.model
    approximation = [] if model.approximation is None else [f"approximated: {model.approximation.description}"]
    embedded = ["takes uint8 images, and normalises them inside"] if model.embeds_preprocessing else []
    return Described(
        folder=str(artifact.folder),
        created=manifest.created,
        source=model.source,
        weights=model.weights.description,
        inputs=[_tensor(each) for each in manifest.inputs],
        outputs=[_tensor(each) for each in manifest.outputs],
        preprocessing=_values(manifest.preprocessing.model_dump(mode="json")) if manifest.preprocessing else None,
        parameters=manifest.fusion.after.parameters,
        macs=manifest.fusion.after.macs,
        operators_before=manifest.fusion.before.operator_count,
        operators_after=manifest.fusion.after.operator_count,
        options={name: _text(value) for name, value in manifest.options.items() if value not in (None, [], False)},
        notes=[*approximation, *embedded, *manifest.notes],
        rewrites=_rewrites(manifest.fusion),
        files=[File(path=each.path, bytes=each.bytes, sha256=each.sha256) for each in manifest.files[:FILES]],
        proof=_proven(manifest.proof),
        tuning=_tuning(manifest.tuning),
    )


def _tensor(record: TensorRecord) -> str:
    shape = " x ".join("free" if size is None else str(size) for size in record.shape)
    return f"{record.name}: {record.dtype} {shape or 'scalar'}"


def _values(values: dict[str, Any]) -> str:
    return "; ".join(f"{name}: {_text(value)}" for name, value in values.items() if value is not None)


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _rewrites(fusion: FusionRecord) -> list[Rewrites]:
    """What each pass rewrote, in the order of the policy; a pass that found nothing is left out."""
    places: dict[str, list[str]] = {}
    for rewrite in fusion.rewrites:
        places.setdefault(rewrite.pass_name, []).append(rewrite.module)
    order = [*fusion.passes, *places]
    return [
        Rewrites(name=name, count=len(places[name]), modules=list(dict.fromkeys(places[name]))[:MODULES])
        for name in dict.fromkeys(order)
        if name in places
    ]


def _proven(proof: Proof) -> Proven:
    """A proof; of an artifact that nothing here can run, the cases of what it was made from."""
    of = proof.source or proof
    by = proof.verified_by if proof.source is None else f"{proof.verified_by}; its source by {of.verified_by}"
    return Proven(
        passed=proof.passed,
        verified=proof.verified,
        verified_by=by,
        reference=proof.reference,
        limits=_limits(proof.limits),
        failures=proof.failures,
        cases=[
            Case(
                name=case.case,
                max_relative_error=finite(case.max_relative_error),
                snr_db=finite(case.snr_db),
                noise_ratio=finite(case.noise_ratio),
                top1_agrees=case.top1_agrees,
                problem=case.problem,
            )
            for case in of.cases
        ],
        diverges_at=proof.diverges_at,
    )


def finite(value: float | None) -> float | None:
    """A number; None where it is none."""
    return value if value is not None and math.isfinite(value) else None


def _limits(limits: Limits) -> str:
    parts = []
    if limits.noise_ratio is not None:
        parts.append(f"at most {limits.noise_ratio:g} times float32's own error")
    if limits.snr_db is not None:
        parts.append(f"at least {limits.snr_db:g} dB")
    if limits.top1 is not None:
        parts.append(f"the first class agrees in {limits.top1:.0%} of the cases")
    return ", ".join(parts)


def _tuning(tuning: TuningRecord | None) -> str | None:
    if tuning is None:
        return None
    taken = ", ".join(tuning.taken) or "the target's own form was kept"
    of = "" if tuning.complete else f" of {len(tuning.trials)}"
    how = f"{tuning.tried}{of} changes tried on {tuning.device} ({tuning.described}), by {tuning.unit}"
    faster = tuning.faster
    gain = "" if faster is None else f"; {faster.median:.3f} times ({faster.lowest:.3f} to {faster.highest:.3f}) faster"
    disturbed = f"; not good meanwhile: {'; '.join(tuning.conditions)}" if tuning.conditions else ""
    return f"{how}: {taken}{gain}{disturbed}"


def timing_of(measurement: Measurement, origin: str, run: str | None = None) -> Timing:
    """A measurement as a page shows it."""
    device, protocol, summary = measurement.device, measurement.protocol, measurement.summary
    result = measurement.rounds[0].result if measurement.rounds else None
    rounds = "" if protocol.rounds == 1 else f", {protocol.rounds} rounds"
    energy = measurement.energy
    reasons = list(dict.fromkeys(measurement.reasons))
    if not measurement.valid and not reasons:
        reasons = ["the harness called it invalid, and gave no reason"]
    return Timing(
        origin=origin,
        run=run,
        started=measurement.started,
        setup=setup_of(measurement),
        device=device.spec,
        described=f"{device.description}{', emulated' if device.emulated else ''}",
        threads=protocol.threads,
        cores=protocol.cores,
        runtime=f"{result.engine} {result.runtime}" if result else "not told",
        runner=result.runner if result else "not told",
        protocol=f"{protocol.iterations} inferences after {protocol.warmup}{rounds}",
        sha256=measurement.artifact.sha256,
        bytes=measurement.artifact.bytes,
        samples=summary.samples,
        **{name: getattr(summary, name) for name in ("p50_ms", "mean_ms", "std_ms", "p90_ms", "min_ms", "max_ms")},
        first_ms=measurement.first_ms,
        load_ms=measurement.load_ms,
        memory_kb=measurement.memory_over_baseline_kb,
        samples_ms=_samples(measurement.rounds),
        energy=Used(
            mj=energy.mj_per_inference,
            method=energy.method,
            scope=energy.scope,
            window_s=energy.window_s,
            baseline_mw=energy.baseline_mw,
        )
        if energy
        else None,
        outputs=measurement.outputs.verdict if measurement.outputs else None,
        unavailable=measurement.unavailable,
        conditions=list(_conditions(measurement.rounds)),
        valid=measurement.valid and not reasons,
        reasons=reasons,
        command=measurement.command,
    )


def setup_of(measurement: Measurement) -> str:
    """Where and how: latencies of one setup may stand beside each other."""
    protocol = measurement.protocol
    threads = f"{protocol.threads} thread{'s' if protocol.threads > 1 else ''}"
    return ", ".join([measurement.device.spec, threads, *([f"cores {protocol.cores}"] if protocol.cores else [])])


def _samples(rounds: Sequence[Round]) -> list[float]:
    """At most `SAMPLES` of the inferences, in time, evenly taken."""
    values = [value for each in rounds for value in each.result.samples_ns]
    count = min(len(values), SAMPLES)
    return [float(f"{values[index * len(values) // count] / 1e6:.4g}") for index in range(count)]


def _conditions(rounds: Sequence[Round]) -> Iterator[Condition]:
    if not rounds:
        return
    first, last = rounds[0], rounds[-1]
    yield Condition(name="cores", text=_cores(first.result.affinity))
    yield Condition(name="clocks", text=_clocks(rounds))
    hottest = [max(each.temperatures_c.values(), default=None) for each in (first.before, last.after)]
    known = " before, ".join(f"{value:.0f} °C" for value in hottest if value is not None)
    missing = first.before.unavailable.get("temperatures_c", "the device does not tell")
    yield Condition(name="hottest sensor", text=f"{known} after" if None not in hottest else f"not known: {missing}")
    for name, title in (("thermal_status", "thermal status"), ("charging", "external power"), ("load", "load before")):
        value = getattr(first.before, name)
        why = first.before.unavailable.get(name, "the device does not tell")
        shown = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
        yield Condition(name=title, text=f"not known: {why}" if value is None else _text(shown))
    if first.before.runnable is not None:
        yield Condition(name="threads that wanted to run", text=str(first.before.runnable))


def _cores(affinity: list[int] | None) -> str:
    return "not told" if affinity is None else ", ".join(map(str, affinity))


def _clocks(rounds: Sequence[Round]) -> str:
    """The lowest and highest clock of the cores that were used."""
    used = rounds[0].result.affinity
    seen = [
        mhz
        for each in rounds
        for look in each.result.clocks_mhz
        for core, mhz in look.mhz.items()
        if used is None or core in used
    ]
    return f"{min(seen)} to {max(seen)} MHz" if seen else "not told"
