"""What a runner writes and what the harness makes of it: raw samples, their conditions, and whether they count."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from deploy_kit.benchmarks.protocol import Protocol
from deploy_kit.benchmarks.summary import Summary
from deploy_kit.devices.base import DeviceInfo, DeviceState

SCHEMA = 1
"""The version of a runner's document, and of a measurement."""

Nanoseconds = Annotated[int, Field(gt=0)]
Text = Annotated[str, Field(max_length=200)]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Memory(Frozen):
    """The runner's resident memory in kB: before loading, after it, and at its highest; None where not told."""

    baseline_kb: int | None
    loaded_kb: int | None
    peak_kb: int | None


class Clocks(Frozen):
    """The clock of each core in MHz at a moment of the runner's own monotonic clock."""

    at_ns: int
    mhz: dict[int, int]


class Output(Frozen):
    """One output of the last inference; ``file`` is None where it was not asked for."""

    file: Annotated[str, Field(pattern=r"^\d{1,3}\.bin$")] | None
    dtype: Literal["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"]
    shape: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=16)]


class RunnerResult(Frozen):
    """The document that every runner writes; it comes from a device, so nothing in it is taken on trust.

    ``load_ns`` is from opening the file to a loaded model, None where it is not told; ``first_ns`` the first
    inference. ``affinity`` are the cores that were in force; None where the system has none. ``window_ns`` is when the
    timed inferences began and ended, in nanoseconds since the device was started (CLOCK_BOOTTIME); None where the
    runner cannot tell. The clocks are those before, between and after the timed inferences, at most one look in 100 ms.
    """

    schema_version: Annotated[int, Field(alias="schema", ge=SCHEMA, le=SCHEMA)]
    runner: Text
    engine: Text
    runtime: Text
    abi: Text
    threads: Annotated[int, Field(ge=1)]
    affinity: Annotated[list[int], Field(max_length=1024)] | None
    load_ns: Nanoseconds | None
    first_ns: Nanoseconds
    warmup_ns: Annotated[list[Nanoseconds], Field(max_length=1_000_000)]
    samples_ns: Annotated[list[Nanoseconds], Field(min_length=1, max_length=1_000_000)]
    window_ns: tuple[Nanoseconds, Nanoseconds] | None = None
    memory: Memory
    clocks_mhz: Annotated[list[Clocks], Field(max_length=100_000)]
    outputs: Annotated[list[Output], Field(max_length=1000)]


class Round(Frozen):
    """One run of the runner, and the device's state before and after it; ``wall_ns`` is how long it all took here."""

    before: DeviceState
    after: DeviceState
    result: RunnerResult
    wall_ns: int | None = None


class Energy(Frozen):
    """The energy of an inference by a meter: that of the timed inferences, less the idle device's in the same time.

    It is of a run of its own, whose median is ``p50_ms``. ``total_mj`` is all that was used in the window, and
    ``baseline_mw`` the power of the idle device over ``baseline_s`` seconds before the run. ``parts_mj`` are of an
    inference, by what the meter tells apart. ``sampling_hz`` is how often the meter had something new; the powers are
    the lowest and highest of its samples, or the mean where it has several parts. ``clock_doubt_s`` is by how much the
    window may be shifted.
    """

    method: str
    scope: str
    mj_per_inference: float
    parts_mj: dict[str, float]
    iterations: int
    window_s: float
    total_mj: float
    baseline_mw: float
    baseline_s: float
    sampling_hz: float
    samples: int
    lowest_mw: float
    highest_mw: float
    clock_doubt_s: float
    p50_ms: float


class OutputCheck(Frozen):
    """Whether the outputs of the last timed inference are right, by the limits of the artifact's precision.

    ``against`` says what they were compared with. ``noise_ratio`` is None where that is no float64 reference.
    """

    verdict: Literal["right", "wrong"]
    against: str
    precision: str
    snr_db: float | None
    noise_ratio: float | None
    max_relative_error: float | None
    failure: str | None = None


class ArtifactRecord(Frozen):
    """Which artifact was timed."""

    model: str
    target: str
    precision: str
    file: str
    sha256: str
    bytes: int


class Measurement(Frozen):
    """A latency, with all that is needed to believe it, or to know why not.

    ``valid`` is false where a reason is in ``reasons``; the figures are there all the same. ``command`` repeats it.
    """

    schema_version: int = SCHEMA
    artifact: ArtifactRecord
    device: DeviceInfo
    protocol: Protocol
    started: str
    """UTC, ISO 8601, by this machine's clock."""
    rounds: list[Round]
    summary: Summary
    load_ms: float | None
    """The median over the rounds; None where the runner does not tell it."""
    first_ms: float
    """The median over the rounds."""
    memory_over_baseline_kb: int | None
    """The highest peak less its baseline, over the rounds."""
    overhead_ms: float | None = None
    """The median over the rounds of what is neither loading, nor warm-up, nor timed: starting the runner, reading
    inputs, looking at the clocks, fetching the result."""
    energy: Energy | None = None
    outputs: OutputCheck | None = None
    """Of the last round."""
    unavailable: dict[str, str] = {}
    """Of each field that is None, why."""
    valid: bool
    reasons: list[str]
    command: str
