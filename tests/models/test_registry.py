from __future__ import annotations

import pytest
import torch
from torch import nn

from deploy_kit.errors import UserError
from deploy_kit.models import create_model, get_architecture, list_models
from deploy_kit.models.layers import ACTIVATIONS, randomize_
from deploy_kit.models.registry import within_memory


def test_lists_the_models_in_order() -> None:
    names = list_models()
    assert [name for name in names if name.startswith("edgevit_")] == ["edgevit_xxs", "edgevit_xs", "edgevit_s"]


def test_every_architecture_describes_itself() -> None:
    for name in list_models():
        architecture = get_architecture(name)
        assert architecture.name == name
        assert architecture.summary
        assert architecture.num_classes is None or architecture.num_classes > 0
        assert architecture.activation in ACTIVATIONS
        step = architecture.size_multiple or 1
        assert all(side % step == 0 for side in architecture.input_size)
        assert architecture.published.paper.startswith("https://")


def test_models_are_in_evaluation_mode() -> None:
    assert not any(module.training for module in create_model("edgevit_xxs").modules())


def test_one_seed_gives_one_model() -> None:
    first, again, other = (create_model("edgevit_xxs", seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(first[key].equal(again[key]) for key in first)
    assert not first["head.weight"].equal(other["head.weight"])


def test_no_weight_or_statistic_is_left_at_its_neutral_value() -> None:
    state = create_model("edgevit_xxs").state_dict()
    assert all(value.unique().numel() > 1 for key, value in state.items() if "num_batches" not in key)


def test_randomizing_leaves_the_global_random_state_alone() -> None:
    model, before = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), torch.get_rng_state()
    randomize_(model, seed=0)
    assert torch.get_rng_state().equal(before)
    assert (model[1].running_var >= 0.5).all()


@pytest.mark.parametrize("classes", [1, 37])
def test_takes_a_number_of_classes(classes: int) -> None:
    assert create_model("edgevit_xxs", num_classes=classes).state_dict()["head.weight"].shape[0] == classes


def test_refuses_no_classes() -> None:
    with pytest.raises(UserError, match="at least one class"):
        create_model("edgevit_xxs", num_classes=0)


@pytest.mark.parametrize("classes", [10**12, 10**20])
def test_refuses_more_classes_than_memory_has_room_for(classes: int) -> None:
    with pytest.raises(UserError, match=f"with {classes} classes is too large for this machine's memory"):
        create_model("edgevit_xxs", num_classes=classes)


@pytest.mark.parametrize("seed", [-1, 2**63, 99999999999999999999])
def test_refuses_what_is_no_seed(seed: int) -> None:
    with pytest.raises(UserError, match=f"{seed} is no seed") as error:
        create_model("edgevit_xxs", seed=seed)
    assert "2**63" in error.value.fix


def test_an_error_that_is_not_of_memory_stays_itself() -> None:
    with pytest.raises(RuntimeError, match="a bug"), within_memory("it"):
        raise RuntimeError("a bug")


def test_an_unknown_model_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(UserError, match="no model called 'edgevit_xxl'") as error:
        create_model("edgevit_xxl")
    assert "edgevit_xxs" in error.value.fix


def test_an_unknown_activation_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(UserError, match="no activation called 'hardswitch'") as error:
        create_model("edgevit_xxs", activation="hardswitch")
    assert "hardswish" in error.value.fix
