"""One measurement: an artifact, a device, a runner and a protocol become raw samples with their conditions."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.measurement import ArtifactRecord, Measurement, Output, Round, RunnerResult
from deploy_kit.benchmarks.protocol import Protocol, chosen_cores
from deploy_kit.benchmarks.runners.base import Runner, write_input
from deploy_kit.benchmarks.summary import summarise
from deploy_kit.benchmarks.validity import reasons
from deploy_kit.devices.base import Completed, Device, DeviceError, DeviceInfo, DeviceState
from deploy_kit.errors import UserError
from deploy_kit.manifest import TensorRecord

LIMIT = 1800.0
"""Seconds that a round may take."""

POLL = 5.0
"""Seconds between two looks at the temperature of a device that cools down."""

LARGEST_RESULT = 64 << 20
"""Bytes of a result that is read at all."""


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
    announce: Callable[[str], None] = lambda text: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Measured:
    """Time an artifact on a device.

    Args:
        artifact: its main file is brought to the device, with every file beside it.
        command: what repeats the measurement; it is kept.
        announce: told what is being done.

    Raises:
        DeviceError: the device or the runner failed, or the runner's document is damaged; nothing is left there.
        UserError: cores that the device does not have, or an artifact that is a package.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    with placed(artifact, device, runner, protocol, announce) as there:
        rounds = []
        for _ in range(protocol.rounds):
            cool(device, protocol, announce, sleep)
            rounds.append(there.round())
        outputs = there.outputs(rounds[-1].result.outputs)
    return Measured(_measurement(artifact, there.info, protocol, started, rounds, command), outputs)


@contextmanager
def placed(
    artifact: Artifact,
    device: Device,
    runner: Runner,
    protocol: Protocol,
    announce: Callable[[str], None] = lambda text: None,
) -> Iterator[Placed]:
    """An artifact and its runner on a device, ready for rounds, and gone from it afterwards."""
    info = device.info()
    cores = chosen_cores(protocol.cores, info)
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch, device.scratch() as folder:
        announce(f"copy to {info.spec}")
        for file in runner.files:
            device.push(file, f"{folder}/{file.name}")
        for record in artifact.manifest.files:
            if "/" in record.path:
                raise UserError(
                    f"the artifact's {record.path!r} is a part of a package, which no runner of {info.spec} loads",
                    fix="choose an artifact of plain files, or another device",
                )
            device.push(artifact.folder / record.path, f"{folder}/{record.path}")
        inputs = _bring_inputs(example_inputs(artifact.manifest.inputs), device, folder, Path(scratch))
        yield Placed(artifact, device, info, runner, protocol, cores, folder, inputs, Path(scratch))


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
    """A runner and an artifact that are in ``folder`` on a device; ``inputs`` are the runner's words for them."""

    artifact: Artifact
    device: Device
    info: DeviceInfo
    runner: Runner
    protocol: Protocol
    cores: tuple[int, ...] | None
    folder: str
    inputs: list[str]
    scratch: Path

    def round(self) -> Round:
        """One run of the runner, between two looks at the device."""
        before = self.device.state()
        result = self._run()
        return Round(before=before, after=self.device.state(), result=result)

    def _run(self) -> RunnerResult:
        """Run the runner and read its document."""
        protocol, result = self.protocol, f"{self.folder}/result.json"
        command = [
            *self.runner.words(self.folder),
            *("--model", f"{self.folder}/{self.artifact.manifest.main_file}"),
            *(word for given in self.inputs for word in ("--input", given)),
            *("--threads", str(protocol.threads), "--warmup", str(protocol.warmup)),
            *("--iterations", str(protocol.iterations)),
            *(() if self.cores is None else ("--cores", ",".join(map(str, self.cores)))),
            *("--outputs", self.folder, "--result", result),
        ]
        ended = self.device.run(command, timeout=LIMIT, environment=self.runner.environment)
        if ended.returncode != 0:
            raise DeviceError(
                f"the runner ({self.runner.name}) failed on {self.info.spec}: {last_words(ended)}",
                fix="see that the artifact is one for this runtime and its version, and try again",
            )
        local = self.scratch / "result.json"
        local.unlink(missing_ok=True)
        self.device.pull(result, local)
        found = read_result(local, self.runner.name)
        _check(found, self.artifact, protocol)
        return found

    def outputs(self, records: Sequence[Output]) -> list[np.ndarray]:
        """The outputs of the last inference; none where the runner kept none."""
        arrays = []
        for record in records:
            if record.file is None:
                return []
            local = self.scratch / record.file
            self.device.pull(f"{self.folder}/{PurePosixPath(record.file).name}", local)
            try:
                arrays.append(np.frombuffer(local.read_bytes(), dtype=record.dtype).reshape(record.shape))
            except (TypeError, ValueError) as error:
                raise DeviceError(f"the runner's output {record.file} is not what it says it is: {error}") from None
        return arrays


def read_result(file: Path, runner: str) -> RunnerResult:
    """A runner's document; `DeviceError` where it is damaged, or says what cannot be."""
    if file.stat().st_size > LARGEST_RESULT:
        raise DeviceError(f"the runner ({runner}) wrote a result of {file.stat().st_size} bytes, which is none")
    try:
        return RunnerResult.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise DeviceError(
            f"the runner ({runner}) wrote a damaged result: {where}: {first['msg']}",
            fix="measure again; a runner of your own has to write what RunnerResult in benchmarks/measurement.py says",
        ) from None


def last_words(ended: Completed) -> str:
    """What a program said last, or how it ended."""
    lines = [line for line in (ended.stderr.strip() or ended.stdout.strip()).splitlines() if line.strip()]
    said = lines[-1].removeprefix("error: ")[:500] if lines else "it said nothing"
    return said if ended.returncode == 1 and lines else f"exit code {ended.returncode}: {said}"


def _check(result: RunnerResult, artifact: Artifact, protocol: Protocol) -> None:
    """Raise `DeviceError` where a document is of something else than was asked for."""
    wanted = (protocol.warmup, protocol.iterations)
    if (len(result.warmup_ns), len(result.samples_ns)) != wanted:
        raise DeviceError(
            f"the runner was asked for {wanted[0]} and {wanted[1]} inferences, and wrote the times of "
            f"{len(result.warmup_ns)} and {len(result.samples_ns)}"
        )
    if result.engine != artifact.manifest.target:
        raise DeviceError(f"the runner is one of {result.engine}, the artifact one of {artifact.manifest.target}")


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
    unavailable = {"energy": "no meter was asked for"}
    if not peaks:
        unavailable["memory_over_baseline_kb"] = "the runner cannot read its memory on this device"
    if summary.p99_ms is None:
        unavailable["summary.p99_ms"] = "fewer than 100 samples"
    return Measurement(
        artifact=record_of(artifact),
        device=info,
        protocol=protocol,
        started=started,
        rounds=rounds,
        summary=summary,
        load_ms=statistics.median(each.result.load_ns for each in rounds) / 1e6,
        first_ms=statistics.median(each.result.first_ns for each in rounds) / 1e6,
        memory_over_baseline_kb=max(peaks, default=None),
        unavailable=unavailable,
        valid=not found,
        reasons=found,
        notes=[],
        command=command,
    )


def record_of(artifact: Artifact) -> ArtifactRecord:
    """Which artifact it is."""
    manifest = artifact.manifest
    main = next(file for file in manifest.files if file.path == manifest.main_file)
    return ArtifactRecord(
        model=manifest.model.name,
        target=manifest.target,
        precision=str(manifest.options.get("precision", "fp32")),
        file=main.path,
        sha256=main.sha256,
        bytes=artifact.size,
    )
