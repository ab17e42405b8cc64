"""What every target has in common."""

from __future__ import annotations

import pytest

from deploy_kit.errors import UserError
from deploy_kit.exporters import get_exporter, list_targets
from deploy_kit.exporters.base import Options
from deploy_kit.fusion import PASSES


def test_the_targets_are_listed_in_order() -> None:
    assert {"onnx", "torchscript-lite"} <= set(list_targets())
    assert list_targets() == sorted(list_targets())


@pytest.mark.parametrize("name", ["onnx", "torchscript-lite"])
def test_a_target_says_what_it_is_takes_and_needs(name: str) -> None:
    exporter = get_exporter(name)
    assert exporter.name == name
    assert exporter.summary
    assert issubclass(exporter.options_type, Options)
    assert all(need.name and need.purpose and need.install for need in exporter.requirements())


@pytest.mark.parametrize("name", ["onnx", "torchscript-lite"])
def test_every_pass_of_a_policy_exists_and_has_a_reason(name: str) -> None:
    exporter = get_exporter(name)
    policy = exporter.policy(exporter.options_type())
    assert set(policy.names) <= set(PASSES)
    assert len(policy.names) == len(set(policy.names))
    assert all(choice.why for choice in policy.passes)


def test_an_unknown_target_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="no target called 'torchscript'") as caught:
        get_exporter("torchscript")
    assert "torchscript-lite" in caught.value.fix
