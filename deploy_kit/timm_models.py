"""Models from timm, where it is installed."""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any

import torch
from torch import nn

from deploy_kit.errors import MissingDependencyError, unknown_name


def create_timm_model(name: str, *, num_classes: int | None, seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    """A timm model with seeded random weights, and the shape [1, C, H, W] that it was made for.

    Raises:
        MissingDependencyError: timm is not installed, or cannot be imported.
        UserError: timm has no model of that name.
    """
    timm = _import_timm()
    if name not in timm.list_models():
        raise unknown_name("timm model", name, timm.list_models())
    options = {} if num_classes is None else {"num_classes": num_classes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model(name, pretrained=False, **options)
    return model, (1, *model.pretrained_cfg["input_size"])


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
