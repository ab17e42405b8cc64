"""Models from timm, where it is installed."""

from __future__ import annotations

import functools
import importlib
import math
import sys
from typing import Any

import torch
from torch import Tensor, nn

from deploy_kit.errors import MissingDependencyError, UserError, unknown_name
from deploy_kit.preprocessing import Preprocessing


def create_timm_model(
    name: str, *, num_classes: int | None, seed: int, pretrained: bool = False
) -> tuple[nn.Module, tuple[int, ...]]:
    """A timm model, and the shape [1, C, H, W] that it was made for.

    Its weights are random and seeded, or ``pretrained``: those that timm fetches, or has fetched before.

    Raises:
        MissingDependencyError: timm is not installed, or cannot be imported.
        UserError: timm has no model of that name, or cannot fetch its weights.
    """
    timm = _import_timm()
    if name.partition(".")[0] not in timm.list_models():
        raise unknown_name("timm model", name, timm.list_models())
    options = {} if num_classes is None else {"num_classes": num_classes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = timm.create_model(name, pretrained=pretrained, **options)
        except Exception as error:  # of its network, hub, file and weights libraries
            if not pretrained:
                raise
            raise UserError(
                f"timm cannot fetch its weights of {name}: {' '.join(str(error).split())[:300]}",
                fix="check the network, or fetch the checkpoint elsewhere and pass its file with --weights",
            ) from error
    return model, (1, *model.pretrained_cfg["input_size"])


def fetch_timm_weights(name: str) -> tuple[dict[str, Tensor], Preprocessing]:
    """timm's pretrained weights called ``name``, in timm's layout, and the preprocessing of their images.

    Raises:
        MissingDependencyError: timm is not installed, or cannot be imported.
        UserError: timm cannot fetch them.
    """
    model, _ = create_timm_model(name, num_classes=None, seed=0, pretrained=True)
    return model.state_dict(), timm_preprocessing(model)


def timm_name(model: nn.Module) -> str:
    """timm's name of a model with that of its pretrained weights, such as ``resnet18.a1_in1k``."""
    config: Any = model.pretrained_cfg
    return f"{config['architecture']}.{config['tag']}"


def timm_preprocessing(model: nn.Module) -> Preprocessing:
    """How the images of a timm model's weights are made."""
    config: Any = model.pretrained_cfg
    _, height, width = config["input_size"]
    return Preprocessing(
        resize=math.floor(max(height, width) / config["crop_pct"]),
        crop=(height, width),
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
        mean=config["mean"],
        std=config["std"],
    )


def _import_timm() -> Any:
    try:
        _prepare_torchvision()
        return importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:
        raise MissingDependencyError(
            f"timm models need timm, which cannot be imported: {error}", fix="pip install 'deploy-kit[timm]'"
        ) from error


def _prepare_torchvision() -> None:
    """Make torchvision importable beside a torch that its compiled operators do not fit.

    timm imports torchvision for its image transforms, and torchvision registers shapes of operators
    that are missing then. They are declared, and never called.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        _declare_vision_operators()
        for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[module]
        importlib.import_module("torchvision")


@functools.cache
def _declare_vision_operators() -> torch.library.Library:
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
