"""The suites that show what `compare` and the harness are worth."""

from __future__ import annotations

import time

from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.harness import installed, placed
from deploy_kit.benchmarks.protocol import Protocol
from deploy_kit.benchmarks.runners.local import local_runner
from deploy_kit.benchmarks.suites import harness_overhead, real_verdicts
from deploy_kit.benchmarks.suites.slower_runner import slower
from deploy_kit.devices.local import Local


class Sleeper:
    """An engine whose inference takes five milliseconds."""

    def __init__(self, threads: int):
        self.threads = threads

    def prepare(self, inputs: object) -> object:
        return lambda: (time.sleep(0.005), "outputs")[1]


def test_the_slower_runner_works_on_for_its_share() -> None:
    run = slower(Sleeper, 1.0)(1).prepare([])
    start = time.perf_counter()
    assert run() == "outputs"
    assert time.perf_counter() - start >= 0.01


def test_the_slower_runner_is_the_runner_of_this_machine(tiny_onnx: Artifact) -> None:
    runner = real_verdicts.slower(local_runner("onnx", 1), 0.05)
    assert runner.command[-2:] == ("--engine", "onnx")
    device, protocol = Local(), Protocol(warmup=1, iterations=4)
    with installed(runner, device) as home, placed(tiny_onnx, device, runner, protocol, home) as there:
        result = there.round().result
    assert (result.engine, len(result.samples_ns)) == ("onnx", 4)


def test_the_harness_and_a_loop_are_measured_in_turn(tiny_onnx: Artifact) -> None:
    found = harness_overhead.measure(tiny_onnx, 2, Protocol(warmup=1, iterations=3))
    assert found.harness_ms > 0
    assert found.loop_ms > 0
    assert found.outside_s > 0
    assert found.target == "onnx"
