"""What a report has, as plain data; the page and ``--json`` come from the same."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from deploy_kit.benchmarks.comparison import Ratio
from deploy_kit.cells.result import GOOD
from deploy_kit.check.findings import Finding, Level
from deploy_kit.outcome import Outcome

SCHEMA: Literal[1] = 1


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Score(_Record):
    """Labelled inputs that an artifact has right, of how many."""

    right: int
    total: int

    @property
    def share(self) -> float:
        """The part that is right."""
        return self.right / self.total if self.total else 0.0


class Count(_Record):
    """The ARM instructions of an inference, and what the count holds for."""

    count: int
    pins: dict[str, str]


class Export(_Record):
    """One export of a cell; what is not known is None, and ``unavailable`` says why of what was asked for.

    ``origin`` is the source that told of it, ``run`` the run in a store or the check that it belongs to.
    """

    origin: str
    run: str | None = None
    created: str
    commit: str | None = None
    host: str | None = None
    outcome: Outcome
    reason: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    snr_db: float | None = None
    noise_ratio: float | None = None
    max_relative_error: float | None = None
    top1_agreement: float | None = None
    operators: dict[str, int] | None = None
    undelegated: dict[str, int] | None = None
    delegated_share: float | None = None
    accuracy: Score | None = None
    instructions: Count | None = None
    unavailable: dict[str, str] = {}
    toolchain: dict[str, str] = {}
    seconds: float | None = None
    stages: dict[str, float] = {}
    peak_kb: int | None = None
    artifact: str | None = None
    ratio: Ratio | None = None
    """How many times as long it takes as a baseline's, where a check measured that."""

    @property
    def works(self) -> bool:
        """Whether there is an artifact that may be shipped."""
        return self.outcome in GOOD


class Used(_Record):
    """The energy of an inference, and what it was measured by."""

    mj: float
    method: str
    scope: str
    window_s: float
    baseline_mw: float


class Condition(_Record):
    """One condition of a measurement, in words."""

    name: str
    text: str


class Timing(_Record):
    """One measurement of a cell's artifact on a device.

    ``setup`` names what has to be the same for two latencies to be beside each other: the device, the threads and the
    cores. ``samples_ms`` are in time, at most `SAMPLES` of them. ``valid`` is false where there is any reason against
    the figures, which are shown all the same.
    """

    origin: str
    run: str | None = None
    started: str
    setup: str
    device: str
    described: str
    threads: int
    cores: str | None
    runtime: str
    runner: str
    protocol: str
    sha256: str
    bytes: int
    samples: int
    p50_ms: float
    mean_ms: float
    std_ms: float | None
    p90_ms: float
    min_ms: float
    max_ms: float
    first_ms: float
    load_ms: float | None
    memory_kb: int | None
    samples_ms: list[float]
    energy: Used | None
    outputs: str | None
    unavailable: dict[str, str]
    conditions: list[Condition]
    valid: bool
    reasons: list[str]
    command: str


SAMPLES = 60


def is_of(device: str, setup: str) -> bool:
    """Whether a setup is that of a failure, which is called by its device and its threads, but for one thread."""
    named = device if device.endswith(" threads") else f"{device}, 1 thread"
    return f"{setup}, ".startswith(f"{named}, ")


class Rewrites(_Record):
    """What a pass rewrote: how often, and where; ``modules`` are the first of them."""

    name: str
    count: int
    modules: list[str]


class Case(_Record):
    """One case of a proof."""

    name: str
    max_relative_error: float | None
    snr_db: float | None
    noise_ratio: float | None
    top1_agrees: bool | None
    problem: str | None


class Proven(_Record):
    """A proof: by what, against what, by which limits, and each case."""

    passed: bool
    verified: bool
    verified_by: str
    reference: str
    limits: str
    failures: list[str]
    cases: list[Case]
    diverges_at: str | None


class File(_Record):
    """One file of an artifact."""

    path: str
    bytes: int
    sha256: str


class Described(_Record):
    """What the manifest of a cell's artifact says, as far as a page shows it."""

    folder: str
    created: str
    source: str
    weights: str
    inputs: list[str]
    outputs: list[str]
    preprocessing: str | None
    parameters: int
    macs: int | None
    operators_before: int
    operators_after: int
    options: dict[str, str]
    notes: list[str]
    rewrites: list[Rewrites]
    files: list[File]
    proof: Proven
    tuning: str | None


class Step(_Record):
    """A command that repeats something, and what; ``note`` says what it needs or leaves out."""

    what: str
    command: str
    note: str = ""


class FoundHere(_Record):
    """A finding of a check, and when and by which file it was told."""

    origin: str
    created: str
    finding: Finding


class Failure(_Record):
    """Why a device did not measure a cell, in which run, and when that was; None is not known."""

    reason: str
    run: str | None = None
    created: str | None = None


class Change(_Record):
    """What differs between two exports of a cell that follow each other; ``level`` as of a finding."""

    cell: str
    what: Literal["outcome", "size", "error", "accuracy", "instructions"]
    level: Level
    message: str
    created: str
    run: str | None
    commit: str | None
    before: float | str
    after: float | str


class Cell(_Record):
    """A model for a target in a precision, all that is known of it.

    ``variant`` tells artifacts of one cell apart. ``exports`` and ``timings`` are oldest first; the last export is
    what the cell is now, and so is the last timing of each setup. ``failures`` are of devices that could not measure
    it (with their threads, where those are more than one), and have not since.
    """

    id: str
    model: str
    target: str
    precision: str
    variant: str
    exports: list[Export]
    timings: list[Timing]
    findings: list[FoundHere]
    failures: dict[str, Failure]
    manifest: Described | None
    reproduce: list[Step]

    @property
    def now(self) -> Export | None:
        """The newest export; None where the cell is known from measurements alone."""
        return self.exports[-1] if self.exports else None

    @property
    def current(self) -> list[Timing]:
        """The newest timing of each setup."""
        return list({timing.setup: timing for timing in self.timings}.values())

    @property
    def sha256(self) -> str | None:
        """Of the artifact that the cell has now."""
        return self.now.sha256 if self.now else None

    @property
    def bytes(self) -> int | None:
        """The size of the artifact that the cell has now; of the measured one where nothing else is known."""
        if self.now is not None:
            return self.now.bytes
        return self.timings[-1].bytes if self.timings else None

    def failure_on(self, setup: str) -> Failure | None:
        """Why it was not measured on a setup."""
        found = (failure for device, failure in self.failures.items() if is_of(device, setup))
        return next(found, None)

    def stale(self, timing: Timing) -> bool:
        """Whether a timing is of another file than the cell has now."""
        return self.sha256 is not None and self.sha256 != timing.sha256


class Run(_Record):
    """A check or a sweep: how its cells ended."""

    id: str
    kind: str
    created: str
    commit: str | None
    host: str | None
    origin: str
    cells: int
    outcomes: dict[str, int]
    working: int
    measured: int
    invalid: int


class Side(_Record):
    """One of two artifacts: its cell, and its main file's hash."""

    cell: str
    sha256: str


class Compared(_Record):
    """What a comparison showed: B takes ``ratio`` times as long as A."""

    origin: str
    started: str
    a: Side
    b: Side
    device: str
    ratio: float
    low: float
    high: float
    confidence: float
    pairs: int
    verdict: str
    right: bool
    notes: list[str]
    command: str


class Point(_Record):
    """A cell that has what a Pareto front needs, measured and valid, all of one file, on one setup.

    ``front`` says that no other is as good in all of accuracy, latency and energy that it has, and better in one.
    """

    cell: str
    accuracy: float
    latency_ms: float
    energy_mj: float | None
    front: bool


class Absent(_Record):
    """Why cells are not on a Pareto front, or have no energy there."""

    what: Literal["accuracy", "latency", "energy"]
    reason: str
    cells: list[str]


class Pareto(_Record):
    """Accuracy, latency and energy on one setup, and what is not there and why."""

    setup: str
    points: list[Point]
    absent: list[Absent]


class Told(_Record):
    """A source of the report, and what it had."""

    name: str
    kind: str
    holds: str


class Page(_Record):
    """The whole report."""

    schema_version: Literal[1] = SCHEMA
    created: str
    command: str
    sources: list[Told]
    cells: list[Cell]
    setups: list[str]
    runs: list[Run]
    findings: list[FoundHere]
    """Every finding, also those of no cell here."""
    changes: list[Change]
    comparisons: list[Compared]
    pareto: list[Pareto]
    notes: list[str]
