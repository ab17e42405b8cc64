from __future__ import annotations

import pytest
from pydantic import ValidationError

from deploy_kit.benchmarks.protocol import Protocol, chosen_cores, protocol_of
from deploy_kit.devices.base import Cluster, DeviceInfo
from deploy_kit.errors import UserError

SNAPDRAGON_888 = DeviceInfo(
    spec="adb:1234",
    model="Phone",
    soc="SM8350",
    os="Android 12",
    abi="aarch64",
    clusters=(
        Cluster(name="little", cores=(0, 1, 2, 3), max_mhz=1804),
        Cluster(name="big", cores=(4, 5, 6), max_mhz=2419),
        Cluster(name="prime", cores=(7,), max_mhz=2841),
    ),
    memory_bytes=None,
)


@pytest.mark.parametrize(
    ("cores", "numbers"),
    [
        (None, None),
        ("prime", (7,)),
        ("big", (4, 5, 6)),
        ("little", (0, 1, 2, 3)),
        ("prime+big", (4, 5, 6, 7)),
        ("0xf0", (4, 5, 6, 7)),
        ("0X1", (0,)),
    ],
)
def test_cores_by_cluster_or_mask(cores: str | None, numbers: tuple[int, ...] | None) -> None:
    assert chosen_cores(cores, SNAPDRAGON_888) == numbers


@pytest.mark.parametrize("cores", ["huge", "prime,big", "0x100", "0x0", "", "7", "0x", "; reboot"])
def test_cores_that_are_not_there(cores: str) -> None:
    with pytest.raises(UserError) as error:
        chosen_cores(cores, SNAPDRAGON_888)
    assert "prime (7)" in error.value.fix


def test_a_device_that_does_not_tell_its_clusters() -> None:
    silent = SNAPDRAGON_888.model_copy(update={"clusters": ()})
    assert chosen_cores("0x3", silent) == (0, 1)
    with pytest.raises(UserError, match="no cores called 'big'"):
        chosen_cores("big", silent)


@pytest.mark.parametrize(
    ("wrong", "option"),
    [
        ({"iterations": 2_000_000}, "--iterations 2000000"),
        ({"cool_to_c": float("inf")}, "--cool-to inf"),
        ({"cool_seconds": -1.0}, "--cool-seconds -1.0"),
    ],
)
def test_an_option_that_cannot_be_is_named(wrong: dict[str, float], option: str) -> None:
    with pytest.raises(UserError, match=f"^{option} cannot be: Input should be "):
        protocol_of(**wrong)


def test_the_papers_protocol_is_the_default() -> None:
    protocol = Protocol()
    assert (protocol.warmup, protocol.iterations, protocol.rounds, protocol.threads) == (10, 50, 1, 1)


@pytest.mark.parametrize("wrong", [{"iterations": 0}, {"warmup": -1}, {"threads": 0}, {"rounds": 0}, {"speed": 1}])
def test_what_is_no_protocol(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Protocol(**wrong)  # type: ignore[arg-type]
