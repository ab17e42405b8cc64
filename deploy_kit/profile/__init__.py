"""Where an artifact's time goes: by operator of its runtime, by module and by kind, against the machine's peaks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy_kit.api import lower, parse_options, reload_model
from deploy_kit.artifact import Artifact, open_artifact
from deploy_kit.benchmarks.timing import machine
from deploy_kit.errors import ExportError
from deploy_kit.exporters import get_exporter
from deploy_kit.exporters.base import Exporter, Options
from deploy_kit.fusion.policy import policy_of
from deploy_kit.graph import Graph
from deploy_kit.outcome import Outcome
from deploy_kit.profile.attribution import Work, works
from deploy_kit.profile.kinds import KINDS, MEMORY_BOUND, Kind
from deploy_kit.profile.roofline import Peaks, Rates, rates
from deploy_kit.profile.runtimes import OperatorTime, Timed, require_profiler, time_operators
from deploy_kit.sources import LoadedModel
from deploy_kit.stages import Stages
from deploy_kit.statistics import count
from deploy_kit.worker import WorkerError, run_worker

WORKER = Path(__file__).with_name("peaks_worker.py")

ITERATIONS = 30
"""Inferences that are profiled if nobody says how many."""


@dataclass(frozen=True)
class Part:
    """What a part of an inference costs: a kind, an operator, a module, or all of it.

    ``kind`` is None where operators of several are in it; ``share`` is its part of the operators' time, None where
    no time could be told from 0. ``name`` is None for the operators that no module is known of.
    """

    name: str | None
    kind: Kind | None
    calls: int
    ms: float
    share: float | None
    macs: int | None
    bytes: int | None
    rates: Rates


@dataclass(frozen=True)
class Profile:
    """One artifact's profile.

    ``plain_ms`` and ``profiled_ms`` are medians of whole inferences without and with the profiler, in turn;
    ``operators_ms`` is the sum of the operators' own times, which every share is of. ``notes`` say what is not known,
    and why.
    """

    model: str
    target: str
    precision: str
    runtime: str
    machine: str
    threads: int
    iterations: int
    plain_ms: float
    profiled_ms: float
    operators_ms: float
    memory_bound_share: float | None
    compute_share: float | None
    without_module_share: float | None
    peaks: Peaks
    total: Part
    kinds: list[Part]
    by_operator: list[Part]
    by_module: list[Part]
    operators: list[OperatorTime]
    notes: list[str]


def profile(
    artifact: str | Path | Artifact,
    *,
    loaded: LoadedModel | None = None,
    weights: str | Path | None = None,
    threads: int = 1,
    iterations: int = ITERATIONS,
    stages: Stages | None = None,
) -> Profile:
    """Time an artifact operator by operator in its runtime, and this machine's peaks.

    Args:
        artifact: its folder, or the object.
        loaded: its model, where that is at hand; None builds it again as the manifest says.
        weights: where the checkpoint is now, if it has moved since.
        threads: of the runtime, and of what the peaks are measured with.
        iterations: inferences to take the medians of.
        stages: to time and announce the work; None does so silently.

    Raises:
        UserError: no artifact, its model cannot be built again, or its target cannot be profiled here.
        ExportError: the runtime failed.
    """
    stages = stages or Stages()
    opened = artifact if isinstance(artifact, Artifact) else open_artifact(artifact)
    manifest = opened.manifest
    exporter = get_exporter(manifest.target)
    require_profiler(exporter)
    options = parse_options(exporter, manifest.options)
    if loaded is None:
        with stages.stage("load the model"):
            loaded = reload_model(manifest, weights)
    graph = lower(loaded, exporter, options, stages, policy_of(manifest.fusion.passes))
    with stages.stage("time the operators"):
        timed = time_operators(opened, graph, exporter, options, threads, iterations)
    with stages.stage("measure the machine's peaks"):
        peaks = measure_peaks(threads)
    return summarise(manifest.model.name, exporter, options, timed, graph, peaks, threads, iterations)


def measure_peaks(threads: int) -> Peaks:
    """What this machine reaches at best with so many threads, measured in a process of its own."""
    variables = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    job = {"threads": threads}
    try:
        return Peaks(**run_worker([sys.executable, "-P", WORKER], job, timeout=120, environment=variables))
    except WorkerError as error:
        raise ExportError(f"the machine's peaks could not be measured: {error}", outcome=Outcome.RUN_FAILED) from error


def summarise(
    model: str,
    exporter: Exporter,
    options: Options,
    timed: Timed,
    graph: Graph,
    peaks: Peaks,
    threads: int,
    iterations: int,
) -> Profile:
    """Put a runtime's times, what its graph costs and the machine's peaks together."""
    precision = exporter.precision(options)
    operators, calls = timed.operators, works(graph)
    whole = sum(operator.ms for operator in operators)
    make = _Parts(whole, peaks if precision == "fp32" else None)
    kinds = [make.of_kind(kind, operators, calls.values()) for kind in KINDS]
    kinds = [kind for kind in kinds if kind.calls]
    by_operator = make.grouped(operators, lambda operator: operator.operator)
    by_module = make.grouped(operators, lambda operator: operator.module)
    parts = [*kinds, *by_operator, *by_module]
    nowhere = sum(operator.ms for operator in operators if operator.module is None)
    return Profile(
        model=model,
        target=exporter.name,
        precision=precision,
        runtime=timed.runtime,
        machine=machine(),
        threads=threads,
        iterations=iterations,
        plain_ms=timed.plain_ms,
        profiled_ms=timed.profiled_ms,
        operators_ms=whole,
        memory_bound_share=make.share(sum(part.ms for part in kinds if part.kind in MEMORY_BOUND)),
        compute_share=make.share(sum(part.ms for part in kinds if part.kind == "compute")),
        without_module_share=make.share(nowhere),
        peaks=peaks,
        total=make.part("all", None, operators, count(graph).macs),
        kinds=kinds,
        by_operator=by_operator,
        by_module=by_module,
        operators=sorted(operators, key=lambda operator: -operator.ms),
        notes=[*_note_on_time(timed, whole), *timed.notes, *_notes(operators, parts, precision, make.share(nowhere))],
    )


@dataclass(frozen=True)
class _Parts:
    """Makes parts of an inference whose operators take ``whole`` ms together."""

    whole: float
    peaks: Peaks | None

    def share(self, ms: float) -> float | None:
        return ms / self.whole if self.whole else None

    def part(
        self,
        name: str | None,
        kind: Kind | None,
        operators: Sequence[OperatorTime],
        macs: int | None,
        moved: int | None = None,
    ) -> Part:
        """The operators together; ``moved`` is for where their own bytes are not known."""
        ms = sum(operator.ms for operator in operators)
        own = _sum(operator.bytes for operator in operators)
        moved = moved if own is None else own
        return Part(
            name=name,
            kind=kind,
            calls=sum(operator.calls for operator in operators),
            ms=ms,
            share=self.share(ms),
            macs=macs,
            bytes=moved,
            rates=rates(ms, macs, moved, self.peaks),
        )

    def of_kind(self, kind: Kind, operators: Sequence[OperatorTime], calls: Iterable[Work]) -> Part:
        """All operators of a kind: whichever computes which call, together they compute the graph's."""
        mine = [work for work in calls if work.kind == kind]
        own = [operator for operator in operators if operator.kind == kind]
        moved = sum(work.bytes for work in mine) if kind == "compute" and self.peaks is not None else None
        return self.part(kind, kind, own, _sum(work.macs for work in mine), moved)

    def grouped(self, operators: Sequence[OperatorTime], key: Callable[[OperatorTime], str | None]) -> list[Part]:
        """A part for each value of a key, the slowest first."""
        groups: dict[str | None, list[OperatorTime]] = {}
        for operator in operators:
            groups.setdefault(key(operator), []).append(operator)
        parts = []
        for name, group in groups.items():
            kinds = {operator.kind for operator in group}
            kind = kinds.pop() if len(kinds) == 1 else None
            parts.append(self.part(name, kind, group, _sum(operator.macs for operator in group)))
        return sorted(parts, key=lambda part: -part.ms)


def _sum(values: Iterable[int | None]) -> int | None:
    """The sum; None where one of them is not known."""
    listed = list(values)
    return None if None in listed else sum(value for value in listed if value is not None)


APART = 1.5
"""How many times longer than its operators an inference takes where that is worth a note."""


def _note_on_time(timed: Timed, whole: float) -> list[str]:
    if timed.plain_ms <= APART * whole:
        return []
    return [
        "whole inferences took far longer than their operators: other programs interrupted them, or the runtime is "
        "busy between operators; trust the shares more than the times"
    ]


def _notes(
    operators: Sequence[OperatorTime], parts: Sequence[Part], precision: str, nowhere: float | None
) -> list[str]:
    """What is not known, and what may surprise."""
    notes = []
    if any((part.rates.of_roofline or 0) > 1 for part in parts):
        notes.append("over 100% of the roofline is what stays in the caches, which are faster than memory")
    if nowhere and any(operator.module is not None for operator in operators):
        notes.append(
            f"{nowhere:.0%} of the operators' time has no module: the runtime added those operators, or gave them "
            "names that lead nowhere"
        )
    unknown = sorted({operator.operator for operator in operators if operator.kind == "other"})
    if unknown:
        notes.append(f"neither compute nor memory-bound, for deploykit does not know them: {', '.join(unknown)}")
    if precision != "fp32":
        notes.append(f"no share of the roofline: the peak is of float32, and the artifact is {precision}")
    return notes
