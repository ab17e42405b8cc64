"""Sources put together: what belongs to one cell, in time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.comparison import Comparison
from deploy_kit.benchmarks.harness import record_of
from deploy_kit.benchmarks.measurement import ArtifactRecord, Measurement
from deploy_kit.cells.entry import Entry
from deploy_kit.cells.recipe import CellSpec
from deploy_kit.cells.result import CellResult
from deploy_kit.check.findings import CheckReport, Finding, Level
from deploy_kit.errors import DeployKitError
from deploy_kit.manifest import MANIFEST, Manifest, read_manifest
from deploy_kit.parity.compare import Precision
from deploy_kit.report import reproduce
from deploy_kit.report.data import (
    Cell,
    Compared,
    Count,
    Described,
    Export,
    Failure,
    FoundHere,
    Page,
    Run,
    Score,
    Side,
    Step,
    Timing,
    Told,
    is_of,
)
from deploy_kit.report.describe import described, timing_of
from deploy_kit.report.history import changes_of, moment
from deploy_kit.report.pareto import fronts
from deploy_kit.report.read import Source
from deploy_kit.sources import artifact_name

Key = tuple[str, str, str, str]
"""Model, target, precision and variant."""


@dataclass
class _Found:
    """A cell while it is put together."""

    key: Key
    exports: list[Export] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    findings: list[FoundHere] = field(default_factory=list)
    failures: dict[str, Failure] = field(default_factory=dict)
    manifests: dict[str, tuple[Described, list[Step]]] = field(default_factory=dict)
    """By the sha256 of the artifact."""
    named: set[str] = field(default_factory=set)
    """Those of the artifacts in folders that were named as sources."""
    counts: dict[str, Count] = field(default_factory=dict)
    """The instructions that ``bench`` counted, by the same."""
    spec: CellSpec | None = None


def gather(sources: Sequence[Source], command: str, options: Collection[str] | None = None) -> Page:
    """Everything in the sources, as a page has it.

    Args:
        command: what makes the report again.
        options: those that ``deploykit export`` takes, for the commands that make artifacts again; None is any.
    """
    cells = _Cells(_names(sources), options)
    runs: list[Run] = []
    for source in sources:
        runs += cells.add_entries(source)
    for source in sources:
        runs += [run for check in source.checks if (run := cells.add_check(check, source.name)) is not None]
    for source in sources:
        cells.add_manifests(source)
    for source in sources:
        cells.add_measurements(source)
    done = sorted((cells.done(found) for found in cells.found.values()), key=_order)
    setups = _setups(done)
    return Page(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        sources=[Told(name=source.name, kind=source.kind, holds=source.holds) for source in sources],
        cells=done,
        setups=setups,
        runs=sorted(runs, key=lambda run: moment(run.created)),
        findings=sorted(cells.findings, key=lambda each: list(Level).index(each.finding.level)),
        changes=changes_of(done),
        comparisons=[_compared(source.name, each, cells) for source in sources for each in source.comparisons],
        pareto=fronts(done, setups),
        notes=[note for source in sources for note in source.notes],
    )


def _order(cell: Cell) -> tuple[str, str, int, str]:
    """By model, target and precision, the most exact first."""
    order = get_args(Precision)
    exact = order.index(cell.precision) if cell.precision in order else len(order)
    return cell.model.lower(), cell.target, exact, cell.id


def _names(sources: Sequence[Source]) -> dict[str, str]:
    """What each model is called, by what was exported: as its artifacts are, but where two would be called the same."""
    given = {each.result.cell.model for source in sources for each in source.entries}
    given |= {each.result.cell.model for source in sources for check in source.checks for each in check.cells}
    given |= {m.model.source for source in sources for _, m in source.manifests if m.model.source != "module"}
    names: dict[str, list[str]] = {}
    for model in sorted(given):
        names.setdefault(artifact_name(model), []).append(model)
    return {model: name if len(models) == 1 else model for name, models in names.items() for model in models}


class _Cells:
    """The cells so far."""

    def __init__(self, names: dict[str, str], options: Collection[str] | None):
        self.names, self.options = names, options
        self.found: dict[Key, _Found] = {}
        self.findings: list[FoundHere] = []
        self.results: dict[str, set[tuple[str, ...]]] = {}
        """Of each run, its results, as `_trace` tells them apart."""

    def at(self, model: str, target: str, precision: str, variant: str = "") -> _Found:
        key = (model, target, precision, variant)
        return self.found.setdefault(key, _Found(key))

    def of_spec(self, spec: CellSpec) -> _Found:
        found = self.at(self.names[spec.model], spec.target, spec.precision)
        found.spec = spec
        return found

    def of_record(self, record: ArtifactRecord) -> _Found:
        """The cell that has the artifact; else the one of its name, and a new one where there is none."""
        return self.known(record) or self.at(record.model, record.target, record.precision)

    def known(self, record: ArtifactRecord) -> _Found | None:
        """The cell that has the artifact, else the one of its name, where there is one."""
        for found in self.found.values():
            if found.key[1] == record.target and any(each.sha256 == record.sha256 for each in found.exports):
                return found
        return self.found.get((record.model, record.target, record.precision, ""))

    def add_entries(self, source: Source) -> list[Run]:
        by_run: dict[str, list[Entry]] = {}
        for entry in source.entries:
            by_run.setdefault(entry.run, []).append(entry)
            found = self.of_spec(entry.result.cell)
            export = _export(entry.result, source.name, entry.created)
            known = {"run": entry.run, "commit": entry.commit, "host": entry.host, "artifact": entry.artifact}
            export = export.model_copy(update=known)
            if export not in found.exports:
                found.exports.append(export)
            for measurement in entry.measurements:
                self._time(found, timing_of(measurement, source.name, entry.run))
            for device, reason in entry.failures.items():
                self._fail(found, device, Failure(reason=reason, run=entry.run, created=entry.created))
            self._local(found, entry.artifact, entry.result.sha256)
        for name, entries in by_run.items():
            self.results[name] = {_trace(entry.result, entry.created) for entry in entries}
        return [_run_of(name, entries, source.name) for name, entries in by_run.items()]

    def add_check(self, check: CheckReport, origin: str) -> Run | None:
        """Add a check; None where a store has told of all its results already."""
        traces = {_trace(each.result, check.created) for each in check.cells}
        known = any(traces <= told for told in self.results.values()) and bool(traces)
        ids = {}
        for checked in check.cells:
            found = self.of_spec(checked.result.cell)
            ids[checked.result.cell.id] = _id(found.key)
            folder = str(checked.artifact) if checked.artifact else None
            if not known:
                export = _export(checked.result, origin, check.created)
                more = {"run": origin, "commit": check.commit, "artifact": folder, "ratio": checked.ratio}
                found.exports.append(export.model_copy(update=more))
            self._local(found, folder, checked.result.sha256)
            found.findings += [_here(each, ids, origin, check) for each in checked.findings]
        self.findings += [_here(each, ids, origin, check) for each in check.all_findings]
        return None if known else _run_of_check(check, origin)

    def add_manifests(self, source: Source) -> None:
        for folder, manifest in source.manifests:
            artifact = Artifact(folder, manifest)
            record = record_of(artifact)
            found = self._place(manifest, record, folder)
            found.named.add(record.sha256)
            found.manifests[record.sha256] = described(artifact), reproduce.of_manifest(manifest, folder, self.options)
            if not any(export.sha256 == record.sha256 for export in found.exports):
                found.exports.append(_export_of(artifact, record.sha256, source.name))

    def _place(self, manifest: Manifest, record: ArtifactRecord, folder: Path) -> _Found:
        """The cell of an artifact: a variant where another folder has another artifact of the same cell."""
        model = self.names.get(manifest.model.source, manifest.model.name)
        found = self.at(model, record.target, record.precision)
        if not found.named - {record.sha256} or any(export.sha256 == record.sha256 for export in found.exports):
            return found
        return self.at(model, record.target, record.precision, str(folder))

    def _local(self, found: _Found, folder: str | None, sha256: str | None) -> None:
        """Read the manifest of an artifact that a run kept, where it is still here and the same."""
        if folder is None or sha256 is None or sha256 in found.manifests or not (Path(folder) / MANIFEST).is_file():
            return
        try:
            artifact = Artifact(Path(folder), read_manifest(Path(folder)))
        except (DeployKitError, OSError):
            return
        if record_of(artifact).sha256 == sha256:
            steps = reproduce.of_manifest(artifact.manifest, artifact.folder, self.options)
            found.manifests[sha256] = described(artifact), steps

    def add_measurements(self, source: Source) -> None:
        for measurement in source.measurements:
            found = self.of_record(measurement.artifact)
            self._time(found, timing_of(measurement, source.name))
        for counted in source.counted:
            if counted.counts:
                found = self.of_record(counted.artifact)
                found.counts[counted.artifact.sha256] = Count(count=counted.counts[-1], pins=counted.pins)
        last = max((each.started for each in source.measurements), key=moment, default=None)
        for model, target, device, reason in source.failed:
            places = [found for key, found in self.found.items() if key[:2] == (model, target)]
            for found in places or [self.at(model, target, "fp32")]:
                self._fail(found, device, Failure(reason=reason, created=last))

    def _fail(self, found: _Found, device: str, failure: Failure) -> None:
        """Keep a failure, unless a later one of the device is known."""
        known = found.failures.get(device)
        if known is None or _when(known) <= _when(failure):
            found.failures[device] = failure

    def _time(self, found: _Found, timing: Timing) -> None:
        same = (timing.sha256, timing.setup, timing.started, timing.p50_ms)
        if same not in {(each.sha256, each.setup, each.started, each.p50_ms) for each in found.timings}:
            found.timings.append(timing)

    def done(self, found: _Found) -> Cell:
        exports = sorted((_counted(each, found.counts) for each in found.exports), key=lambda e: moment(e.created))
        sha256 = exports[-1].sha256 if exports else None
        manifest, steps = found.manifests.get(sha256 or "", (None, []))
        timings = sorted(found.timings, key=lambda timing: moment(timing.started))
        newest = list({timing.setup: timing for timing in timings}.values())
        if not steps and found.spec is not None:
            steps = reproduce.of_cell(found.spec, self.options)
        model, target, precision, variant = found.key
        return Cell(
            id=_id(found.key),
            model=model,
            target=target,
            precision=precision,
            variant=variant,
            exports=exports,
            timings=timings,
            findings=found.findings,
            failures={device: each for device, each in found.failures.items() if not _mended(device, each, timings)},
            manifest=manifest,
            reproduce=[*steps, *reproduce.of_timings(newest)],
        )


def _when(failure: Failure) -> datetime:
    return moment(failure.created or "")


def _mended(device: str, failure: Failure, timings: Iterable[Timing]) -> bool:
    """Whether a device has measured the cell since; what its own run measured there is what failed."""
    later = (timing for timing in timings if failure.run is None or timing.run != failure.run)
    return failure.created is not None and any(
        is_of(device, timing.setup) and moment(timing.started) > _when(failure) for timing in later
    )


def _id(key: Key) -> str:
    model, target, precision, variant = key
    return f"{model}/{target}/{precision}{f'@{variant}' if variant else ''}"


def _trace(result: CellResult, told: str) -> tuple[str, ...]:
    """The cell, when it was told of, when it was exported, which several checks may have alike, and how it ended."""
    return result.cell.id, told, result.created, result.outcome


def _here(finding: Finding, ids: dict[str, str], origin: str, check: CheckReport) -> FoundHere:
    named = finding.model_copy(update={"cell": ids.get(finding.cell, finding.cell)})
    return FoundHere(origin=origin, created=check.created, finding=_finite(named))


def _finite(record: Any) -> Any:
    """A record without numbers that JSON has not: they are not known."""
    wrong = {
        name: None
        for name, value in record
        if isinstance(value, float) and not math.isfinite(value) and type(record).model_fields[name].default is None
    }
    return record.model_copy(update=wrong) if wrong else record


def _export(result: CellResult, origin: str, created: str) -> Export:
    same = set(Export.model_fields) & set(CellResult.model_fields) - {"created", "accuracy", "instructions"}
    accuracy, instructions = result.accuracy, result.instructions
    return _finite(
        Export(
            **{name: getattr(result, name) for name in same},
            origin=origin,
            created=created,
            accuracy=Score(right=accuracy.right, total=accuracy.total) if accuracy else None,
            instructions=Count(count=instructions.count, pins=instructions.pins) if instructions else None,
        )
    )


def _export_of(artifact: Artifact, sha256: str, origin: str) -> Export:
    """What a manifest tells of the export that made it."""
    manifest = artifact.manifest
    proof = manifest.proof.source or manifest.proof
    return _finite(
        Export(
            origin=origin,
            created=manifest.created,
            outcome=manifest.outcome,
            reason="; ".join(manifest.proof.failures) or None,
            bytes=artifact.size,
            sha256=sha256,
            snr_db=proof.snr_db,
            noise_ratio=proof.noise_ratio,
            max_relative_error=proof.max_relative_error,
            top1_agreement=proof.top1_agreement,
            operators=manifest.operators,
            undelegated=manifest.details.get("placement", {}).get("undelegated"),
            delegated_share=manifest.delegated_share,
            toolchain=manifest.toolchain,
            artifact=str(artifact.folder),
        )
    )


def _counted(export: Export, counts: dict[str, Count]) -> Export:
    """An export with the instructions that were counted of its artifact later."""
    if export.instructions is not None or export.sha256 not in counts:
        return export
    return export.model_copy(update={"instructions": counts[export.sha256]})


def _setups(cells: Iterable[Cell]) -> list[str]:
    """The setups that were measured on, the one with the most cells first."""
    counted = Counter(timing.setup for cell in cells for timing in cell.current)
    return [setup for setup, _ in sorted(counted.items(), key=lambda item: (-item[1], item[0]))]


def _run_of(name: str, entries: Sequence[Entry], origin: str) -> Run:
    results = {entry.result.cell.id: entry.result for entry in entries}
    measured = [each for entry in entries for each in entry.measurements]
    first = min(entries, key=lambda entry: moment(entry.created))
    hosts = sorted({entry.host for entry in entries})
    return Run(
        id=name,
        kind=first.kind,
        created=first.created,
        commit=first.commit,
        host=hosts[0] if len(hosts) == 1 else f"{len(hosts)} hosts",
        origin=origin,
        cells=len(results),
        outcomes=dict(Counter(str(result.outcome) for result in results.values()).most_common()),
        working=sum(result.works for result in results.values()),
        measured=len(measured),
        invalid=sum(not _valid(each) for each in measured),
    )


def _valid(measurement: Measurement) -> bool:
    return measurement.valid and not measurement.reasons


def _run_of_check(check: CheckReport, origin: str) -> Run:
    results = [checked.result for checked in check.cells]
    return Run(
        id=origin,
        kind="check",
        created=check.created,
        commit=check.commit,
        host=None,
        origin=origin,
        cells=len(results),
        outcomes=dict(Counter(str(result.outcome) for result in results).most_common()),
        working=sum(result.works for result in results),
        measured=0,
        invalid=0,
    )


def _side(record: ArtifactRecord, cells: _Cells) -> Side:
    known = cells.known(record)
    cell = _id(known.key if known else (record.model, record.target, record.precision, ""))
    return Side(cell=cell, sha256=record.sha256)


def _compared(origin: str, found: Comparison, cells: _Cells) -> Compared:
    return Compared(
        origin=origin,
        started=found.started,
        a=_side(found.a, cells),
        b=_side(found.b, cells),
        device=found.device.spec,
        ratio=found.ratio.estimate,
        low=found.ratio.low,
        high=found.ratio.high,
        confidence=found.ratio.confidence,
        pairs=len(found.pairs),
        verdict=str(found.ratio.verdict),
        right=found.right,
        notes=found.notes,
        command=found.command,
    )
