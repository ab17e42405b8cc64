"""One measurement: an artifact, a device, a runner and a protocol become raw samples with their conditions."""

from __future__ import annotations

import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.energy.base import MeterError
from deploy_kit.benchmarks.energy.measure import AUTO, check_name, choose_meter, iterations_for, measure_energy
from deploy_kit.benchmarks.measurement import ArtifactRecord, Energy, Measurement, Output, Round, RunnerResult
from deploy_kit.benchmarks.outputs import check_outputs
from deploy_kit.benchmarks.protocol import Protocol, chosen_cores
from deploy_kit.benchmarks.runners.base import Job, Runner, write_input
from deploy_kit.benchmarks.summary import summarise
from deploy_kit.benchmarks.validity import reasons
from deploy_kit.devices.base import Device, DeviceError, DeviceInfo, DeviceState
from deploy_kit.errors import UserError
from deploy_kit.manifest import TensorRecord

POLL = 5.0
"""Seconds between two looks at the temperature of a device that cools down."""

CLOCKS_DIFFER = 0.01
"""The part by which a device's clock may go faster than this machine's."""


@dataclass(frozen=True)
class Measured:
    """A measurement, and the outputs of its last inference."""

    measurement: Measurement
    outputs: list[np.ndarray]


def bench(
    artifact: Artifact,
    device: Device,
    runner: Runner,
    protocol: Protocol,
    *,
    command: str,
    energy: str = AUTO,
    check: bool = True,
    announce: Callable[[str], None] = lambda text: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Measured:
    """Time an artifact on a device.

    Args:
        artifact: its main file is brought to the device, with every file beside it.
        command: what repeats the measurement; it is kept.
        energy: a meter of `deploy_kit.benchmarks.energy.measure.METERS`, ``auto`` or ``none``. With a meter, a run
            more follows the rounds, of as many inferences as it needs; where there is none, or that run fails, the
            energy is None with the reason.
        check: whether the last outputs are compared with the model's.
        announce: told what is being done.

    What fails after the first round loses none that was completed: the measurement is of those, with the failure among
    its reasons.

    Raises:
        DeviceError: the device or the runner failed, or the runner's document is damaged; nothing is left there.
        UserError: cores that the device does not have, a meter that there is not, or an artifact that is a package.
    """
    check_name(energy)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    announce(f"copy to {device.spec}")
    rounds: list[Round] = []
    found: list[str] = []
    used, no_energy = None, "not all rounds could be run"
    try:
        with installed(runner, device) as home, placed(artifact, device, runner, protocol, home) as there:
            for _ in range(protocol.rounds):
                cool(device, protocol, announce, sleep)
                each = there.round()
                outputs = there.outputs(each.result.outputs)
                rounds.append(each)
            used, no_energy = _energy(there, rounds, energy, lambda: cool(device, protocol, announce, sleep), sleep)
    except DeviceError as error:
        if not rounds:
            raise
        complete = len(rounds) == protocol.rounds
        what = "the device was not left clean" if complete else f"round {len(rounds) + 1} of {protocol.rounds} failed"
        found.append(f"{what}: {error}")
    announce("compare the outputs")
    inputs = example_inputs(artifact.manifest.inputs)
    checked, unchecked = check_outputs(artifact, inputs, outputs) if check else (None, "not asked for")
    measured = _measurement(artifact, there.info, protocol, started, rounds, command)
    if checked is not None and checked.verdict == "wrong":
        found.insert(0, f"wrong outputs: {checked.failure}")
    missing = {"energy": no_energy, "outputs": unchecked}
    measurement = measured.model_copy(
        update={
            "energy": used,
            "outputs": checked,
            "unavailable": measured.unavailable | {name: reason for name, reason in missing.items() if reason},
            "valid": measured.valid and not found,
            "reasons": [*found, *measured.reasons],
        }
    )
    return Measured(measurement, outputs)


def _energy(
    there: Placed, rounds: Sequence[Round], wanted: str, ready: Callable[[], None], sleep: Callable[[float], None]
) -> tuple[Energy | None, str]:
    """The energy of an inference, or None and the reason why it is not known; the rounds are not touched by it."""
    expected_ns = statistics.median(sample for each in rounds for sample in each.result.samples_ns)
    try:
        meter = choose_meter(there.device, wanted)
        ready()
        iterations = iterations_for(meter, there.job.iterations, expected_ns)
        longer = replace(there, job=replace(there.job, iterations=iterations))
        return measure_energy(there.device, meter, longer.round, iterations, expected_ns, sleep), ""
    except (MeterError, DeviceError) as error:
        return None, str(error)


@contextmanager
def installed(runner: Runner, device: Device) -> Iterator[str]:
    """The folder on a device that a runner's files are in; gone from it afterwards."""
    with device.scratch() as home:
        for file in runner.files:
            device.push(file, f"{home}/{file.name}")
        yield home


@contextmanager
def placed(
    artifact: Artifact,
    device: Device,
    runner: Runner,
    protocol: Protocol,
    home: str,
    inputs: Sequence[Tensor] | None = None,
) -> Iterator[Placed]:
    """An artifact on a device with its runner at ``home``, ready for rounds, and gone from it afterwards.

    Args:
        inputs: what each inference is given; None are seeded ones of the artifact's signature.
    """
    info = device.info()
    cores = chosen_cores(protocol.cores, info)
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch, device.scratch() as folder:
        for record in artifact.manifest.files:
            if "/" in record.path and not runner.packages:
                raise UserError(
                    f"the artifact's {record.path!r} is a part of a package, which no runner of {info.spec} loads",
                    fix="choose an artifact of plain files, or another device",
                )
            device.push(artifact.folder / record.path, f"{folder}/{record.path}")
        given = example_inputs(artifact.manifest.inputs) if inputs is None else inputs
        job = Job(
            home=home,
            folder=folder,
            model=f"{folder}/{artifact.manifest.main_file}",
            inputs=tuple(_bring_inputs(given, device, folder, Path(scratch))),
            threads=protocol.threads,
            warmup=protocol.warmup,
            iterations=protocol.iterations,
            cores=cores,
            manifest=artifact.manifest,
        )
        yield Placed(artifact, device, info, runner, protocol, job, Path(scratch))


def example_inputs(records: Sequence[TensorRecord]) -> tuple[Tensor, ...]:
    """Seeded inputs of an artifact's signature: normal numbers, or bytes; a free dimension is 1."""
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for record in records:
        shape = [1 if size is None else size for size in record.shape]
        dtype = getattr(torch, record.dtype)
        if dtype.is_floating_point:
            inputs.append(torch.randn(shape, generator=generator).to(dtype))
        elif dtype == torch.uint8:
            inputs.append(torch.randint(0, 256, shape, generator=generator, dtype=dtype))
        else:
            inputs.append(torch.zeros(shape, dtype=dtype))
    return tuple(inputs)


def _bring_inputs(inputs: Sequence[Tensor], device: Device, folder: str, scratch: Path) -> list[str]:
    """Copy inputs to a device; the runner's words for them."""
    words = []
    for index, tensor in enumerate(inputs):
        source = scratch / f"input{index}.bin"
        place = f"{folder}/{source.name}"
        words.append(write_input(tensor, source, place))
        device.push(source, place)
    return words


@dataclass(frozen=True)
class Placed:
    """A runner and an artifact that are on a device; ``scratch`` is a folder here."""

    artifact: Artifact
    device: Device
    info: DeviceInfo
    runner: Runner
    protocol: Protocol
    job: Job
    scratch: Path

    def round(self) -> Round:
        """One run of the runner, between two looks at the device."""
        before = self.device.state()
        begun = time.perf_counter_ns()
        result = self.runner.run(self.device, self.job, self.scratch)
        wall_ns = time.perf_counter_ns() - begun
        _check(result, self.artifact, self.job, wall_ns)
        return Round(before=before, after=self.device.state(), result=result, wall_ns=wall_ns)

    def outputs(self, records: Sequence[Output]) -> list[np.ndarray]:
        """The outputs of the last inference; none where the runner kept none."""
        arrays = []
        for record in records:
            if record.file is None:
                return []
            data = (self.scratch / record.file).read_bytes()
            try:
                arrays.append(np.frombuffer(data, dtype=record.dtype).reshape(record.shape))
            except (TypeError, ValueError) as error:
                raise DeviceError(f"the runner's output {record.file} is not what it says it is: {error}") from None
        return arrays


def _check(result: RunnerResult, artifact: Artifact, job: Job, wall_ns: int) -> None:
    """Raise `DeviceError` where a document is of something else than was asked for, or of more time than passed."""
    wanted = (job.warmup, job.iterations)
    if (len(result.warmup_ns), len(result.samples_ns)) != wanted:
        raise DeviceError(
            f"the runner was asked for {wanted[0]} and {wanted[1]} inferences, and wrote the times of "
            f"{len(result.warmup_ns)} and {len(result.samples_ns)}"
        )
    if result.engine != artifact.manifest.target:
        raise DeviceError(f"the runner is one of {result.engine}, the artifact one of {artifact.manifest.target}")
    if result.threads != job.threads:
        raise DeviceError(f"the runner was asked for {job.threads} threads, and says that it used {result.threads}")
    if job.cores is not None and result.affinity is not None and set(result.affinity) != set(job.cores):
        raise DeviceError(
            f"the runner was asked for the cores {_listed(job.cores)}, and says that it ran on "
            f"{_listed(result.affinity)}"
        )
    told_ns = (result.load_ns or 0) + sum(result.warmup_ns) + sum(result.samples_ns)
    if told_ns > wall_ns * (1 + CLOCKS_DIFFER):
        raise DeviceError(
            f"the runner tells of {told_ns / 1e6:.1f} ms in a run that took {wall_ns / 1e6:.1f} ms: its clock jumped, "
            "or its times are no nanoseconds",
            fix="measure again; a runner of your own has to use a monotonic clock",
        )


def _listed(cores: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(cores)))


def cool(
    device: Device,
    protocol: Protocol,
    announce: Callable[[str], None] = lambda text: None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until a device is cool; where it does not become so in time, the measurement will say that it was not."""
    waited = 0.0
    while waited < protocol.cool_seconds and (reason := _too_warm(device.state(), protocol)):
        announce(f"wait for {device.spec} to cool: {reason}")
        sleep(POLL)
        waited += POLL


def _too_warm(state: DeviceState, protocol: Protocol) -> str:
    if state.thermal_status not in (None, "none"):
        return f"thermal status {state.thermal_status}"
    hottest = max(state.temperatures_c.values(), default=None)
    if protocol.cool_to_c is not None and hottest is not None and hottest > protocol.cool_to_c:
        return f"{hottest:.0f} degrees"
    return ""


def _measurement(
    artifact: Artifact, info: DeviceInfo, protocol: Protocol, started: str, rounds: list[Round], command: str
) -> Measurement:
    summary = summarise([each.result.samples_ns for each in rounds])
    found = reasons(info, rounds, summary)
    if protocol.cool_to_c is not None and not all(each.before.temperatures_c for each in rounds):
        found.append("the device tells no temperature, so it was not waited for")
    elif protocol.cool_to_c is not None:
        hottest = max(max(each.before.temperatures_c.values()) for each in rounds)
        if hottest > protocol.cool_to_c:
            found.append(f"not cool: {hottest:.0f} degrees before a round, asked were {protocol.cool_to_c:g}")
    peaks = [
        each.result.memory.peak_kb - each.result.memory.baseline_kb
        for each in rounds
        if each.result.memory.peak_kb is not None and each.result.memory.baseline_kb is not None
    ]
    unavailable = {}
    if not peaks:
        unavailable["memory_over_baseline_kb"] = "the runner tells no peak of its memory"
    loads = [each.result.load_ns for each in rounds if each.result.load_ns is not None]
    if not loads:
        unavailable["load_ms"] = "the runner does not tell how long loading took"
    overheads = [outside for each in rounds if (outside := _outside_ns(each)) is not None]
    if not overheads:
        unavailable["overhead_ms"] = "the runner does not tell all of its own times"
    if summary.p99_ms is None:
        unavailable["summary.p99_ms"] = "fewer than 100 samples"
    return Measurement(
        artifact=record_of(artifact),
        device=info,
        protocol=protocol,
        started=started,
        rounds=rounds,
        summary=summary,
        load_ms=statistics.median(loads) / 1e6 if loads else None,
        first_ms=statistics.median(each.result.first_ns for each in rounds) / 1e6,
        memory_over_baseline_kb=max(peaks, default=None),
        overhead_ms=statistics.median(overheads) / 1e6 if overheads else None,
        unavailable=unavailable,
        valid=not found,
        reasons=found,
        command=command,
    )


def _outside_ns(each: Round) -> int | None:
    """What of a round is neither loading, nor warm-up, nor timed; None where that is not told."""
    result = each.result
    if each.wall_ns is None or result.load_ns is None:
        return None
    return each.wall_ns - result.load_ns - sum(result.warmup_ns) - sum(result.samples_ns)


def record_of(artifact: Artifact) -> ArtifactRecord:
    """Which artifact it is."""
    manifest = artifact.manifest
    return ArtifactRecord(
        model=manifest.model.name,
        target=manifest.target,
        precision=str(manifest.options.get("precision", "fp32")),
        file=manifest.main_file,
        sha256=_main_sha256(artifact),
        bytes=artifact.size,
    )


def _main_sha256(artifact: Artifact) -> str:
    """Of the main file; of a package, that of its files' own in `sha256sum`'s format, by path."""
    main = artifact.manifest.main_file
    parts = {file.path: file.sha256 for file in artifact.manifest.files}
    if main in parts:
        return parts[main]
    lines = [f"{sha256}  {path}\n" for path, sha256 in sorted(parts.items()) if path.startswith(f"{main}/")]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
