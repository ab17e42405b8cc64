from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.harness import bench
from deploy_kit.benchmarks.protocol import Protocol
from deploy_kit.benchmarks.runners.choice import choose_runner
from deploy_kit.benchmarks.runners.local import local_runner
from deploy_kit.devices.local import Local
from deploy_kit.devices.qemu import QEMU, Qemu
from deploy_kit.devices.registry import get_device
from deploy_kit.errors import MissingDependencyError, UserError

needs_qemu = pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is not installed")


@needs_qemu
def test_it_says_that_it_is_emulated() -> None:
    info = get_device("qemu:aarch64").info()
    assert (info.spec, info.abi, info.emulated) == ("qemu:aarch64", "aarch64", True)
    assert info.model is not None
    assert info.model.startswith("qemu ")


@needs_qemu
def test_it_tells_no_state_and_why() -> None:
    state = Qemu().state()
    assert state.temperatures_c == {}
    assert state.unavailable["charging"] == "an emulated device has none"


@needs_qemu
def test_a_program_of_this_machine_is_refused() -> None:
    ended = Qemu().run(["/bin/true"], timeout=30)
    assert ended.returncode != 0


def test_other_processors_are_not_emulated() -> None:
    with pytest.raises(UserError, match="no emulated device qemu:riscv64") as error:
        get_device("qemu:riscv64")
    assert error.value.fix == "choose qemu:aarch64"


def test_without_qemu_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError) as error:
        get_device("qemu:aarch64")
    assert error.value.fix == "sudo apt-get install qemu-user"


@pytest.mark.slow
@needs_qemu
def test_an_arm_runner_computes_what_this_machine_computes_and_its_time_does_not_count(tiny_lite: Artifact) -> None:
    device, protocol = Qemu(), Protocol(warmup=1, iterations=2)
    try:
        runner = choose_runner(device, "torchscript-lite", 1)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    emulated = bench(tiny_lite, device, runner, protocol, command="x")
    here = bench(tiny_lite, Local(), local_runner("torchscript-lite", 1), protocol, command="x")
    assert emulated.outputs[0] == pytest.approx(here.outputs[0], rel=1e-4, abs=1e-5)
    assert not emulated.measurement.valid
    assert "emulated: the time of an emulator is no latency" in emulated.measurement.reasons
