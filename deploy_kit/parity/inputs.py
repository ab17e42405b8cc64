"""What an artifact is asked to compute in its proof: seeded noise or integers, and real photographs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from deploy_kit.preprocessing import Preprocessing

Draw = Callable[[int], tuple[Tensor, ...]]
"""Makes a model's inputs from a seed, where noise of their shapes would not do."""

Kind = Literal["noise", "photograph", "seeded"]
"""What a case is: the last are inputs that the model makes itself, or integers that it takes."""

SMALL = 10
"""Integers are drawn from below this where nobody says which a model takes."""


class InputType(BaseModel):
    """What an input holds: normal numbers, or integers from 0 to below ``bound`` (None: `SMALL`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Literal["float32", "int32", "int64"] = "float32"
    bound: int | None = None

    @property
    def largest(self) -> int:
        """The largest integer that is drawn."""
        return (self.bound or SMALL) - 1

    def __str__(self) -> str:
        bound = "" if self.bound is None else f":{self.bound}"
        return f"{self.dtype}{bound}"


@dataclass(frozen=True)
class Case:
    """One set of inputs (float32, the uint8 pixels of an image, or integers), with a name to report it by."""

    name: str
    kind: Kind
    inputs: tuple[Tensor, ...]


def make_cases(
    shapes: list[tuple[int, ...]],
    preprocessing: Preprocessing | None,
    *,
    dynamic_batch: bool = False,
    own: Draw | None = None,
) -> list[Case]:
    """Noise of two strengths for any model, and four photographs for one that takes images.

    Args:
        shapes: of the inputs, batch included.
        preprocessing: of the model's images; None for a model that takes none. Embedded, the inputs are uint8.
        dynamic_batch: add a case with a batch of three.
        own: makes the model's inputs, which are then the only cases.
    """
    if own is not None:
        seeded = [Case(f"seeded inputs {seed}", "seeded", own(seed)) for seed in range(4)]
        if dynamic_batch:
            three = tuple(torch.cat(rows)[:3] for rows in zip(*(own(seed) for seed in (4, 5, 6))))
            seeded.append(Case("seeded inputs, batch of 3", "seeded", three))
        return seeded
    draw = pixels if preprocessing is not None and preprocessing.embedded else noise
    cases = [
        Case("noise", "noise", draw(shapes, seed=0)),
        Case("faint noise", "noise", draw(shapes, seed=1, scale=0.1)),
    ]
    if preprocessing is not None and len(shapes) == 1:
        batch = shapes[0][0]
        for name, image in photographs(preprocessing):
            cases.append(Case(name, "photograph", (image.expand(batch, -1, -1, -1).contiguous(),)))
    if dynamic_batch:
        cases.append(Case("noise, batch of 3", "noise", draw([(3, *shape[1:]) for shape in shapes], seed=2)))
    return cases


def noise(shapes: list[tuple[int, ...]], *, seed: int, scale: float = 1.0) -> tuple[Tensor, ...]:
    """Seeded normal noise of the given shapes; the global random state is not touched."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator) * scale for shape in shapes)


def pixels(shapes: list[tuple[int, ...]], *, seed: int, scale: float = 1.0) -> tuple[Tensor, ...]:
    """Seeded uint8 tensors of the given shapes: all of 0 to 255, or the part ``scale`` of it about its middle."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        ((torch.rand(shape, generator=generator) - 0.5) * scale * 256 + 128).floor().to(torch.uint8) for shape in shapes
    )


def typed(shapes: list[tuple[int, ...]], types: list[InputType], seed: int) -> tuple[Tensor, ...]:
    """Seeded inputs of the given shapes and types: normal noise, and integers of all that an input may hold.

    The last integer of an input is the largest less the seed, so that small inputs differ from seed to seed as well,
    and those of seed 0 tell whether the bound is right.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = []
    for shape, kind in zip(shapes, types):
        if kind.dtype == "float32":
            inputs.append(torch.randn(shape, generator=generator))
            continue
        count = kind.largest + 1
        integers = torch.randint(count, shape, generator=generator, dtype=getattr(torch, kind.dtype))
        integers.view(-1)[-1] = kind.largest - seed % count
        inputs.append(integers)
    return tuple(inputs)


def photographs(preprocessing: Preprocessing) -> list[tuple[str, Tensor]]:
    """The two photographs that scikit-learn ships, whole and as a close-up, as the artifact is given them."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    images = []
    for name in ("china.jpg", "flower.jpg"):
        image = Image.fromarray(load_sample_image(name))
        width, height = image.size
        close = image.crop((width // 4, height // 4, width * 5 // 8, height * 5 // 8))
        stem = name.removesuffix(".jpg")
        images.append((stem, preprocessing.apply(image)))
        images.append((f"{stem}, close-up", preprocessing.apply(close)))
    return images
