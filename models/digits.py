"""scikit-learn's 1,797 handwritten digits: a real task to measure accuracy on, with nothing to download."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deploy_kit.errors import UserError
from deploy_kit.models.edgevit import DIGIT_IMAGES

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 64
HELD_OUT = 360


@dataclass(frozen=True)
class Digits:
    """Images as `edgevit_digits` takes them, float32 [N, 3, 64, 64], and their labels, int64 [N]."""

    images: Tensor
    labels: Tensor


def load_digits_split() -> tuple[Digits, Digits]:
    """The 1,437 digits to train on, and the 360 held out: every class has its share of both, always the same."""
    training, held_out = _split()
    return _tensors(training), _tensors(held_out)


def write_digit_images(folder: str | Path, count: int) -> list[Path]:
    """Write the first ``count`` digits to train on as 64x64 RGB files ``0000_LABEL.png`` into ``folder``.

    The files, preprocessed, are the tensors of `load_digits_split`. The folder is made where there is none.
    """
    training, _ = _split()
    if not 0 < count <= len(training):
        raise UserError(f"there are {len(training)} digits to train on, not {count}", fix="ask for 1 or more of them")
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = []
    for index, (image, label) in enumerate(training[:count]):
        paths.append(Path(folder, f"{index:04}_{label}.png"))
        image.save(paths[-1])
    return paths


def count_right(model: Callable[[Tensor], Tensor], digits: Digits, batch: int = 60) -> int:
    """How many digits ``model`` (images in, class scores out) puts in the right class, ``batch`` at a time."""
    with torch.no_grad():
        pairs = zip(digits.images.split(batch), digits.labels.split(batch))
        return sum(int((model(images).argmax(1) == labels).sum()) for images, labels in pairs)


def _split() -> tuple[list[tuple[Image, int]], list[tuple[Image, int]]]:
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    data = datasets.load_digits()
    pairs = [(_image(pixels), int(label)) for pixels, label in zip(data.images, data.target)]
    training, held_out = train_test_split(pairs, test_size=HELD_OUT, random_state=0, stratify=data.target)
    return training, held_out


def _image(pixels: object) -> Image:
    """An image, 64x64 RGB, of 8x8 numbers from 0 to 16."""
    import numpy as np
    import PIL.Image

    gray = PIL.Image.fromarray(np.rint(np.asarray(pixels) * (255 / 16)).astype(np.uint8))
    return gray.resize((SIDE, SIDE), PIL.Image.Resampling.BILINEAR).convert("RGB")


def _tensors(pairs: list[tuple[Image, int]]) -> Digits:
    images = torch.cat([DIGIT_IMAGES.apply(image) for image, _ in pairs])
    return Digits(images, torch.tensor([label for _, label in pairs]))
