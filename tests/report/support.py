"""Made-up results: runs of many cells in time, a check with findings, and their measurements."""

from __future__ import annotations

import hashlib
import random
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.measurement import ArtifactRecord, Energy, Measurement, OutputCheck
from deploy_kit.benchmarks.protocol import Protocol
from deploy_kit.benchmarks.summary import Summary
from deploy_kit.cells.entry import Entry
from deploy_kit.cells.recipe import CellSpec
from deploy_kit.cells.result import CellResult
from deploy_kit.check.findings import Checked, CheckReport, Finding
from deploy_kit.devices.base import DeviceInfo, DeviceState
from deploy_kit.manifest import MANIFEST, Manifest
from deploy_kit.report.read import Source
from tests.benchmarks.support import round_of

BEGIN = datetime(2026, 3, 1, 8, tzinfo=UTC)
TARGETS = ("onnx", "torchscript-lite", "executorch", "coreml", "openvino")
PRECISIONS = ("fp32", "fp16", "int8")
FAMILIES = ("edgevit", "levit", "mobilevit", "efficientformer", "swin", "poolformer", "efficientvit", "mobilenet")
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\u2028'\""
OPERATORS = {"Conv": 42, "MatMul": 24, "Add": 31, "Mul": 18, "Softmax": 12, "Transpose": 16, "Reshape": 22, "Erf": 8}

PHONE = DeviceInfo(
    spec="adb:R5CT10",
    model="a made-up phone",
    soc="SM0000",
    os="Android 14",
    abi="aarch64",
    clusters=(),
    memory_bytes=None,
)
BOARD = PHONE.model_copy(update={"spec": "ssh:pi@board", "model": "a made-up board", "os": "Debian 13"})


def day(number: int) -> str:
    return (BEGIN + timedelta(days=number)).isoformat(timespec="seconds")


def sha_of(*words: object) -> str:
    return hashlib.sha256(repr(words).encode()).hexdigest()


def spec_of(model: str = "edgevit_xxs", target: str = "onnx", precision: Any = "fp32", **options: Any) -> CellSpec:
    return CellSpec(model=model, target=target, precision=precision, options=options)


def result_of(spec: CellSpec, sha256: str | None = None, **changes: Any) -> CellResult:
    """A cell that works, unless ``changes`` say otherwise."""
    works = {
        "outcome": "ok",
        "bytes": 4_000_000,
        "sha256": sha256 or sha_of(spec.id),
        "snr_db": 120.0,
        "noise_ratio": 1.5,
        "max_relative_error": 4e-7,
        "top1_agreement": 1.0,
        "operators": {"Conv": 12, "MatMul": 4},
        "toolchain": {"deploykit": "0.1.0", "torch": "2.13.0"},
    }
    failed = {"bytes", "sha256", "snr_db", "noise_ratio", "max_relative_error", "top1_agreement", "operators"}
    given = (
        works
        if changes.get("outcome", "ok") in ("ok", "ok_undelegated")
        else {k: v for k, v in works.items() if k not in failed}
    )
    return CellResult.model_validate({**given, "cell": spec, "seconds": 8.0, "created": day(0), **changes})


def entry_of(result: CellResult, run: str = "first", number: int = 0, **changes: Any) -> Entry:
    given = {
        "run": run,
        "kind": "sweep",
        "created": day(number),
        "commit": f"{number:x}" * 12,
        "host": "lab-1",
        "result": result,
    }
    return Entry.model_validate({**given, **changes})


def summary_of(samples_ms: Sequence[float]) -> Summary:
    ordered = sorted(samples_ms)
    mean, std = statistics.fmean(ordered), statistics.stdev(ordered)
    last = len(ordered) - 1
    return Summary(
        samples=len(ordered),
        mean_ms=mean,
        std_ms=std,
        cov=std / mean,
        min_ms=ordered[0],
        p50_ms=statistics.median(ordered),
        p90_ms=ordered[int(0.9 * last)],
        p95_ms=ordered[int(0.95 * last)],
        p99_ms=None,
        max_ms=ordered[-1],
        trimmed_mean_ms=mean,
        modes_ms=None,
        drift=None,
    )


def measurement_of(
    artifact: ArtifactRecord,
    p50_ms: float = 5.0,
    *,
    device: DeviceInfo = PHONE,
    threads: int = 1,
    energy_mj: float | None = None,
    reasons: Sequence[str] = (),
    started: str = day(0),
    outputs: str | None = "right",
    command: str = "deploykit bench artifacts/edgevit_xxs/onnx --device adb:R5CT10",
) -> Measurement:
    """A measurement of 50 inferences about ``p50_ms``; it is valid where there are no ``reasons``."""
    samples = [p50_ms * (1 + 0.02 * ((index * 7) % 5 - 2)) for index in range(50)]
    hot = DeviceState(charging=False, thermal_status="none", temperatures_c={"cpu": 36.0}, load=0.1)
    energy = None
    if energy_mj is not None:
        energy = Energy(
            method="monsoon",
            scope="the whole phone",
            mj_per_inference=energy_mj,
            parts_mj={},
            iterations=50,
            window_s=2.0,
            total_mj=energy_mj * 80,
            baseline_mw=640.0,
            baseline_s=5.0,
            sampling_hz=5000.0,
            samples=10000,
            lowest_mw=600.0,
            highest_mw=4000.0,
            clock_doubt_s=0.001,
            p50_ms=p50_ms,
        )
    check = outputs and OutputCheck(
        verdict=outputs,  # type: ignore[arg-type]  # as a test says it
        against="the model in float64",
        precision=artifact.precision,
        snr_db=100.0,
        noise_ratio=1.0,
        max_relative_error=1e-6,
    )
    return Measurement(
        artifact=artifact,
        device=device,
        protocol=Protocol(threads=threads),
        started=started,
        rounds=[round_of([int(value * 1e6) for value in samples], hot, hot)],
        summary=summary_of(samples),
        load_ms=3 * p50_ms,
        first_ms=2 * p50_ms,
        memory_over_baseline_kb=9000,
        energy=energy,
        outputs=check or None,
        unavailable={} if energy else {"energy": "no meter is attached to it"},
        valid=not reasons,
        reasons=list(reasons),
        command=command,
    )


def record_of_cell(result: CellResult, model: str | None = None) -> ArtifactRecord:
    return ArtifactRecord(
        model=model or result.cell.model,
        target=result.cell.target,
        precision=result.cell.precision,
        file="model.onnx",
        sha256=result.sha256 or "",
        bytes=result.bytes or 0,
    )


def check_of(results: Sequence[CellResult], findings: Sequence[Finding] = (), **changes: Any) -> CheckReport:
    """A check of these cells; each finding goes to the cell that it names, the others to the check."""
    ids = {result.cell.id for result in results}
    cells = [
        Checked(result=result, findings=[f for f in findings if f.cell == result.cell.id], key="k", cached=False)
        for result in results
    ]
    given = {
        "created": day(9),
        "commit": "c" * 40,
        "baseline": "deploykit-baseline.json",
        "seconds": 12.0,
        "cells": cells,
        "findings": [f for f in findings if f.cell not in ids],
    }
    return CheckReport.model_validate({**given, **changes})


def models(count: int) -> list[str]:
    names = [f"{family}_{size}" for size in ("xxs", "xs", "s", "m", "l") for family in FAMILIES]
    return names[:count]


def lab(count: int = 40, runs: int = 3) -> list[Source]:
    """``count`` models for five targets in three precisions, so many times: a store, and the last check as a file."""
    dice = random.Random(7)
    entries, last = [], []
    for index, model in enumerate(models(count)):
        for target in TARGETS:
            for precision in PRECISIONS:
                spec = spec_of(model, target, precision)
                cost = (1.09**index) * {"fp32": 1.0, "fp16": 0.74, "int8": 0.52}[precision] * dice.uniform(0.7, 1.4)
                broken = dice.random()
                for number in range(runs):
                    result = _made_up(spec, index, number, cost, broken, runs, dice)
                    measured = [] if not result.works or target == "coreml" else _measured(result, cost, number, dice)
                    failures = {"ios:00008110": "it is not attached"} if target == "coreml" and result.works else {}
                    run = f"2026030{number + 1}-0800-sweep"
                    entry = entry_of(result, run, number, measurements=measured, failures=failures)
                    entries.append(entry)
                last.append(result)
    findings = [_finding(result, place) for place, result in enumerate(last) if place % 53 == 7 and result.works]
    check = check_of(last, findings, created=day(runs))
    return [
        Source("sqlite:///deploykit.db", "store", entries=entries),
        Source("check.json", "check", checks=[check]),
    ]


def _made_up(
    spec: CellSpec, index: int, number: int, cost: float, broken: float, runs: int, dice: random.Random
) -> CellResult:
    if broken < 0.04:
        reason = "unsupported operator aten::_scaled_dot_product_attention at blocks3.0.GlobalSparseAttn"
        return result_of(spec, outcome="export_failed", reason=reason)
    if broken > 0.985 and number == runs - 1:
        return result_of(spec, outcome="mismatch", reason="noise: the error is 4.1e+05 times float32's own")
    if broken > 0.97:
        return result_of(spec, outcome="too_slow", reason="not done after 900 s")
    noise = {"fp32": 4e-7, "fp16": 9e-4, "int8": 3e-2}[spec.precision] * dice.uniform(0.5, 2.5)
    grown = 1.07 if number == runs - 1 and 0.5 < broken < 0.52 else 1.0
    right = min(
        int(560 + 80 * cost**0.3 - {"fp32": 0, "fp16": 1, "int8": 14}[spec.precision] + dice.randrange(-20, 20)), 990
    )
    return result_of(
        spec,
        sha256=sha_of(spec.id, number if grown > 1 or broken > 0.8 else 0),
        outcome="ok_undelegated" if spec.target == "executorch" and broken > 0.7 else "ok",
        bytes=int((3e6 + 2e6 * cost) * grown),
        max_relative_error=noise,
        snr_db={"fp32": 122.0, "fp16": 58.0, "int8": 27.0}[spec.precision],
        accuracy={"right": right, "total": 1000},
        operators=OPERATORS,
        undelegated={"aten.gelu": 4} if spec.target == "executorch" and broken > 0.7 else None,
        created=day(number),
    )


def _measured(result: CellResult, cost: float, number: int, dice: random.Random) -> list[Measurement]:
    speed = {"onnx": 2.0, "openvino": 1.7, "executorch": 2.3, "torchscript-lite": 2.9}[result.cell.target]
    p50 = speed * cost * dice.uniform(0.95, 1.05)
    reasons = ["throttled: the thermal status was moderate"] if dice.random() < 0.08 else []
    artifact = record_of_cell(result)
    energy = p50 * 2.1 if result.cell.target != "openvino" else None
    return [measurement_of(artifact, p50, energy_mj=energy, reasons=reasons, started=day(number))]


def _finding(result: CellResult, place: int) -> Finding:
    kinds: list[dict[str, Any]] = [
        {
            "kind": "size",
            "level": "error",
            "message": "the files are 7.0% larger, over the tolerance of 1.0%",
            "before": 3_700_000,
            "after": 3_959_000,
        },
        {
            "kind": "latency",
            "level": "error",
            "message": "it takes 1.102 times as long (1.081 to 1.124)",
            "before": 1.0,
            "after": 1.102,
        },
        {
            "kind": "undelegated",
            "level": "warning",
            "message": "4 more operators are left to slow kernels: aten.gelu",
            "before": 0,
            "after": 4,
        },
        {
            "kind": "size",
            "level": "note",
            "message": "the files are 3.1% smaller",
            "before": 4_100_000,
            "after": 3_972_900,
        },
    ]
    chosen = kinds[place % len(kinds)]
    fix = "if that is wanted: deploykit check --update-baseline" if chosen["level"] != "note" else ""
    return Finding(cell=result.cell.id, fix=fix, **chosen)


def artifact_in(folder: Path, like: Artifact, name: str = "edgevit_xxs", **changes: Any) -> Path:
    """A folder that has a manifest like another's, and no files: what a report reads."""
    folder.mkdir(parents=True)
    document = like.manifest.model_dump(mode="json")
    document["model"] |= {"name": name, "source": name}
    manifest = Manifest.model_validate({**document, **changes})
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return folder
