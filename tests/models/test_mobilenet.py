from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
import torch
from torch import nn

from deploy_kit.models import create_model, load_checkpoint
from deploy_kit.sources import load_model
from tests.golden.golden import Golden
from tests.models.faithful import activations, check_deploys, golden_error, golden_layout, layout, run

GOLDEN = ("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small")


@pytest.mark.parametrize("name", GOLDEN)
def test_computes_what_torchvision_computes(name: str) -> None:
    assert golden_error(name) <= 1e-9


@pytest.mark.parametrize("name", GOLDEN)
def test_has_the_keys_shapes_and_types_of_torchvision_s_checkpoints(name: str) -> None:
    assert layout(create_model(name)) == golden_layout(name)


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small"])
def test_its_graph_has_four_axes_at_most_and_no_shapes(name: str) -> None:
    check_deploys(create_model(name), (224, 224))


def timm_name(key: str) -> str:
    """What timm calls an entry of MobileNetV2's checkpoint."""
    depths = (1, 2, 3, 4, 3, 3, 1)
    outer = {"features.0.0": "conv_stem", "features.0.1": "bn1", "features.18.0": "conv_head", "features.18.1": "bn2"}
    module, _, leaf = key.rpartition(".")
    if module in outer:
        return f"{outer[module]}.{leaf}"
    if module == "classifier.1":
        return f"classifier.{leaf}"
    number, layer = re.fullmatch(r"features\.(\d+)\.conv\.([\d.]+)", module).groups()
    stage, block = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)][int(number) - 1]
    first = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}
    other = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2": "conv_pwl", "3": "bn3"}
    return f"blocks.{stage}.{block}.{(other if stage else first)[layer]}.{leaf}"


def test_takes_timm_s_names_of_the_same_weights() -> None:
    """timm's V3 has another epsilon in its norms, so that only its V2 is the same function."""
    official = Golden.load("mobilenet_v2").state_dict()
    model = create_model("mobilenet_v2")
    load_checkpoint(model, {timm_name(key): value for key, value in official.items()})
    assert all(value.equal(official[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small"])
@pytest.mark.parametrize("size", [(1, 1), (33, 50)])
def test_takes_images_of_any_size_and_other_classes(name: str, size: tuple[int, int]) -> None:
    model = create_model(name, input_size=size, num_classes=7)
    assert run(model, torch.zeros(2, 3, *size)).shape == (2, 7)


def test_the_activation_is_chosen_where_the_authors_is_not_plain_relu() -> None:
    def kinds(name: str, activation: str | None) -> Mapping[type[nn.Module], int]:
        return activations(create_model(name, activation=activation))

    assert kinds("mobilenet_v2", None) == {nn.ReLU6: 35}
    assert kinds("mobilenet_v2", "gelu") == {nn.GELU: 35}
    small = kinds("mobilenet_v3_small", None)
    assert small == {nn.ReLU: 14, nn.Hardswish: 19, nn.Hardsigmoid: 9}
    assert kinds("mobilenet_v3_small", "gelu") == {**{k: v for k, v in small.items() if k != nn.Hardswish}, nn.GELU: 19}


def test_a_manifest_s_activation_builds_the_model_again() -> None:
    loaded = load_model("mobilenet_v2", input_size=32)
    assert loaded.record.activation == "relu6"
    again = create_model("mobilenet_v2", input_size=32, activation=loaded.record.activation)
    x = torch.randn(1, 3, 32, 32)
    assert run(again, x).equal(run(loaded.module, x))
