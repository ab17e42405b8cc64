from __future__ import annotations

import pytest

from deploy_kit.benchmarks.measurement import Round
from deploy_kit.benchmarks.summary import summarise
from deploy_kit.benchmarks.validity import reasons
from deploy_kit.devices.base import DeviceState
from tests.benchmarks.support import round_of
from tests.benchmarks.test_protocol import SNAPDRAGON_888 as PHONE

QUIET = [10_000_000 + 1000 * (index * 7 % 13) for index in range(50)]


def found(*rounds: Round, emulated: bool = False) -> list[str]:
    device = PHONE.model_copy(update={"emulated": emulated})
    return reasons(device, rounds, summarise([each.result.samples_ns for each in rounds]))


def clocks(*looks: dict[int, int]) -> list[dict[str, object]]:
    return [{"at_ns": number, "mhz": mhz} for number, mhz in enumerate(looks)]


def test_quiet_samples_count() -> None:
    cool = DeviceState(thermal_status="none", temperatures_c={"soc": 35.0}, charging=False, load=0.4)
    after = cool.model_copy(update={"temperatures_c": {"soc": 39.0}, "load": 1.2})
    assert found(round_of(QUIET, cool, after, clocks_mhz=clocks({0: 2000}, {0: 2010}))) == []


@pytest.mark.parametrize(
    ("each", "reason"),
    [
        (round_of(QUIET, after=DeviceState(thermal_status="moderate")), "throttled: the thermal status was moderate"),
        (round_of(QUIET, before=DeviceState(thermal_status="light")), "throttled: the thermal status was light"),
        (round_of(QUIET, before=DeviceState(charging=True)), "charging: the device was on external power"),
        (
            round_of(
                QUIET, DeviceState(temperatures_c={"a": 30.0}), DeviceState(temperatures_c={"a": 30.0, "b": 45.0})
            ),
            "heated: the hottest sensor rose by 15 degrees",
        ),
        (
            round_of(QUIET, clocks_mhz=clocks({0: 2000, 1: 800}, {0: 1500, 1: 800})),
            "clocks moved: core 0 ran at 1500 to 2000 MHz",
        ),
        (
            round_of(
                QUIET, affinity=[0, 1], clocks_mhz=clocks({0: 2000, 1: 800}, {0: 1990, 1: 600}, {0: 2000, 1: 800})
            ),
            "clocks moved: core 1 ran at 600 to 800 MHz",
        ),
        (
            round_of(QUIET, before=DeviceState(load=2.0)),
            "background load: 2.0 processes wanted to run before it began",
        ),
        (
            round_of(QUIET, before=DeviceState(load=0.4, runnable=2)),
            "background load: 2 threads wanted to run when it began",
        ),
        (
            round_of(QUIET, before=DeviceState(unavailable={"charging": "its values are set by hand"})),
            "it is not known whether the device was on external power: its values are set by hand",
        ),
        (round_of(QUIET, after=DeviceState()), "it is not known whether the device was on external power: it does not"),
        (round_of([*QUIET[:45], *[19_000_000] * 5]), "too noisy"),
        (round_of([*QUIET[:40], *[13_000_000] * 10]), "two modes: some inferences take 10 ms and others 13 ms"),
        (round_of([10_000_000 + 20_000 * index for index in range(50)]), "drift: inferences became 9% slower"),
    ],
)
def test_what_disturbs_is_said(each: Round, reason: str) -> None:
    assert any(text.startswith(reason) for text in found(each)), found(each)


def test_a_clock_of_a_core_that_was_not_used_is_nothing() -> None:
    assert found(round_of(QUIET, affinity=[1], clocks_mhz=clocks({0: 2000, 1: 800}, {0: 500, 1: 800}))) == []


def test_threads_of_a_phones_kernel_that_wait_are_no_load() -> None:
    idle = DeviceState(charging=False, load=6.3, runnable=1)
    assert found(round_of(QUIET, idle, idle)) == []


@pytest.mark.parametrize(
    ("spec", "why", "said"),
    [
        ("ios:0001", "iOS did not tell the app", ["it is not known whether the device was on external power: iOS did"]),
        ("adb:1234", "it has no battery", []),
        ("adb:1234", "it has no battery that the kernel knows", []),
        ("ssh:board", "it says nothing", []),
    ],
)
def test_a_phone_that_may_be_charged_does_not_count(spec: str, why: str, said: list[str]) -> None:
    device, state = PHONE.model_copy(update={"spec": spec}), DeviceState(unavailable={"charging": why})
    reasons_found = reasons(device, [round_of(QUIET, state, state)], summarise([QUIET]))
    assert [text[: len(start)] for text, start in zip(reasons_found, said, strict=True)] == said


def test_an_emulators_time_never_counts() -> None:
    assert found(round_of(QUIET), emulated=True) == ["emulated: the time of an emulator is no latency"]


def test_the_round_is_named_where_there_are_several() -> None:
    assert found(round_of(QUIET), round_of(QUIET, before=DeviceState(charging=True))) == [
        "charging: the device was on external power in round 2"
    ]
