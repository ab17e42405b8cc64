"""The table of reference architectures, filled by the ``@register`` decorator in each model's file."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deploy_kit.errors import UserError, unknown_name
from deploy_kit.models.layers import ACTIVATIONS, randomize_
from deploy_kit.preprocessing import Preprocessing


@dataclass(frozen=True)
class Latency:
    """A published time of one inference in milliseconds, on a device with a runtime, and where it stands."""

    ms: float
    device: str
    runtime: str
    source: str


@dataclass(frozen=True)
class Published:
    """What the authors report: paper, ImageNet-1k top-1 in percent, multiply-accumulates of one input.

    ``quality`` is for a model with another task, such as ``mIoU 75.7 on Cityscapes``; ``macs_note`` says why
    ``macs`` is over 1% off what is counted here (`counted_macs`). What they do not report is None. Of a model that
    was trained here: the paper of its architecture, and top-1 on the images held out.
    """

    paper: str
    top1: float | None = None
    macs: float | None = None
    quality: str | None = None
    latency: Latency | None = None
    macs_note: str | None = None


ROUNDED = "the published figure is rounded"
"""The most frequent `Published.macs_note`: rounded to the digits of ``macs``, the count is the published figure."""


@dataclass(frozen=True)
class Trained:
    """Weights that come with the package: a file in ``models/weights``, and its sha256."""

    file: str
    sha256: str

    @property
    def path(self) -> Path:
        """Where the file is installed."""
        return Path(__file__).with_name("weights") / self.file


IMAGENET = Preprocessing(resize=256, crop=(224, 224))
"""The usual preprocessing of ImageNet's images."""


@dataclass(frozen=True)
class Architecture:
    """One model: how to build it and what it takes; ``trained`` is None for the published ones.

    Images have sides that are multiples of ``size_multiple``, at least ``least_size``; with ``size_multiple`` None,
    of ``input_size`` only. A builder with a parameter ``input_size`` (height, width) is given it.

    Of a model that takes something else than one image, ``draw(seed, input_size)`` makes its inputs, valid for
    any seed, and ``takes`` is the word for what ``input_size`` counts.

    ``gain`` is the variance that a layer with random weights keeps: so much that the outputs still depend on
    the inputs, which a proof needs, and so little that rounding does not drown them.

    ``timm`` is timm's name of pretrained weights, where it has some that make the published function.
    ``preprocessing`` is the authors'.
    """

    name: str
    build: Callable[..., nn.Module]
    published: Published
    input_size: tuple[int, ...]
    size_multiple: int | None
    least_size: int = 1
    trained: Trained | None = None
    draw: Callable[[int, tuple[int, ...]], tuple[Tensor, ...]] | None = None
    takes: str = "images"
    gain: float = 0.5
    timm: str | None = None
    preprocessing: Preprocessing = IMAGENET

    @property
    def activation(self) -> str:
        """The activation that the authors use."""
        return inspect.signature(self.build).parameters["activation"].default

    @property
    def num_classes(self) -> int | None:
        """The number of classes of the published checkpoint; None for a model without a classifier."""
        parameter = inspect.signature(self.build).parameters.get("num_classes")
        return None if parameter is None else parameter.default

    def build_for(self, input_size: tuple[int, ...], **options: Any) -> nn.Module:
        """The model for inputs of ``input_size``, with its initial weights; ``num_classes=None`` is left out."""
        if options.get("num_classes", 0) is None:
            del options["num_classes"]
        if "input_size" in inspect.signature(self.build).parameters:
            options["input_size"] = input_size
        return self.build(**options)

    def without_values(self) -> nn.Module:
        """The published model with shapes alone, which takes no memory."""
        with torch.device("meta"):
            return self.build_for(self.input_size).eval()

    @property
    def parameters(self) -> int:
        """How many parameters the published model has."""
        return sum(parameter.numel() for parameter in self.without_values().parameters())

    @property
    def summary(self) -> str:
        """One line about the model."""
        return (self.build.__doc__ or "").strip().splitlines()[0]


_ARCHITECTURES: dict[str, Architecture] = {}


def register(
    *,
    published: Published,
    input_size: tuple[int, ...] = (224, 224),
    size_multiple: int | None = 1,
    least_size: int = 1,
    trained: Trained | None = None,
    draw: Callable[[int, tuple[int, ...]], tuple[Tensor, ...]] | None = None,
    takes: str = "images",
    gain: float = 0.5,
    timm: str | None = None,
    preprocessing: Preprocessing = IMAGENET,
) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Register the decorated builder ``f(num_classes=..., activation=...)``, or ``f(..., input_size=...)``,
    under its own name; see `Architecture` for the sizes. One without a classifier has no ``num_classes``."""

    def add(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        name = build.__name__
        _ARCHITECTURES[name] = Architecture(
            name,
            build,
            published,
            input_size,
            size_multiple,
            least_size,
            trained=trained,
            draw=draw,
            takes=takes,
            gain=gain,
            timm=timm,
            preprocessing=preprocessing,
        )
        return build

    return add


def list_models() -> list[str]:
    """Names of the published models, in order of registration."""
    return [name for name, architecture in _ARCHITECTURES.items() if architecture.trained is None]


def get_architecture(name: str) -> Architecture:
    """The architecture called ``name``; `UserError` with the nearest names where there is none."""
    if name not in _ARCHITECTURES:
        raise unknown_name("model", name, _ARCHITECTURES)
    return _ARCHITECTURES[name]


COUNTS = Path(__file__).with_name("macs.json")


@cache
def counted_macs() -> dict[str, int]:
    """Multiply-accumulates of each listed model on one input of its default size, attention included.

    They take long to count, so they are data, which ``python -m deploy_kit.benchmarks.suites.model_table`` writes.
    """
    return json.loads(COUNTS.read_text(encoding="utf-8"))


def check_input_size(architecture: Architecture, input_size: tuple[int, ...]) -> None:
    """Raise `UserError` where the architecture cannot take inputs of ``input_size``, height and width of images."""
    step, least, default = architecture.size_multiple, architecture.least_size, architecture.input_size
    given, usual = ("x".join(map(str, size)) for size in (input_size, default))
    if step is None:
        if input_size != default:
            raise UserError(
                f"{architecture.name} takes {usual} {architecture.takes} only", fix="leave out --input-size"
            )
        return
    if len(input_size) != len(default) or any(side <= 0 or side % step or side < least for side in input_size):
        at_least = f" from {least} on" if least > step else ""
        wanted = "a height and width that are multiples" if len(default) == 2 else "a multiple"
        raise UserError(
            f"{architecture.name} cannot take {given} {architecture.takes}",
            fix=f"choose {wanted} of {step}{at_least}, such as {usual}",
        )


def check_seed(seed: int) -> None:
    """Raise `UserError` for a seed that random generators do not take."""
    if not 0 <= seed < 2**63:
        raise UserError(f"{seed} is no seed", fix="choose one from 0 to 2**63 - 1")


@contextmanager
def within_memory(what: str) -> Iterator[None]:
    """Raise `UserError` where the body asks for tensors that do not fit into memory, or into a size's 63 bits."""
    try:
        yield
    except (RuntimeError, TypeError, OverflowError, MemoryError) as error:  # torch raises the first two as well
        if isinstance(error, RuntimeError | TypeError) and not re.search("allocate memory|overflow", str(error), re.I):
            raise
        raise UserError(f"{what} is too large for this machine's memory", fix="choose a smaller one") from error


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    input_size: int | tuple[int, ...] | None = None,
    activation: str | None = None,
    seed: int = 0,
) -> nn.Module:
    """Build a reference model in evaluation mode, with seeded random weights.

    Args:
        name: one of `list_models`, or a model that was trained here.
        num_classes: outputs of the classifier; None is the published number.
        input_size: side, or height and width, of the images that it will take (of `Architecture.takes`, how many);
            None is published.
        activation: one of ``relu relu6 gelu gelu_tanh hardswish silu``; None is the published one.
        seed: of the weights; two models of one name and seed are equal.

    Raises:
        UserError: unknown name or activation, a size that the architecture cannot take, no seed, or
            more classes than memory has room for.
    """
    architecture = get_architecture(name)
    size = architecture.input_size if input_size is None else input_size
    size = (size,) * len(architecture.input_size) if isinstance(size, int) else size
    check_input_size(architecture, size)
    if activation is not None and activation not in ACTIVATIONS:
        raise unknown_name("activation", activation, ACTIVATIONS)
    if num_classes is not None and architecture.num_classes is None:
        raise UserError(f"{name} has no classifier", fix="leave out --num-classes")
    if num_classes is not None and num_classes < 1:
        raise UserError(f"a classifier needs at least one class, not {num_classes}")
    check_seed(seed)
    classes = architecture.num_classes if num_classes is None else num_classes
    with within_memory(name if classes is None else f"{name} with {classes} classes"):
        model = architecture.build_for(size, num_classes=classes, activation=activation or architecture.activation)
        randomize_(model, seed, architecture.gain)
    return model.eval()


def smallest_models(models: Sequence[str]) -> list[str]:
    """The model with the least to compute of each family: of each file, and in it of each kind of result."""
    counts = counted_macs()
    families: dict[tuple[str, bool], str] = {}
    for name in models:
        architecture = get_architecture(name)
        family = (architecture.build.__module__, architecture.published.quality is None)
        if family not in families or counts.get(name, math.inf) < counts.get(families[family], math.inf):
            families[family] = name
    return [name for name in models if name in families.values()]
