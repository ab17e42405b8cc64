"""Inputs from a model's own domain: to measure the ranges of its values on, and to judge what is left of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import PIL.Image
from torch import Tensor

from deploy_kit.errors import UserError
from deploy_kit.parity.inputs import Case, Draw, make_cases, noise, photographs
from deploy_kit.preprocessing import Preprocessing, read_image

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
LARGEST_SET, HELD_OUT = 128, 8
"""So many images of a folder are calibrated on at most, and so many others kept for the proof."""


@dataclass(frozen=True)
class Calibration:
    """``inputs`` to measure on, ``cases`` that were not measured on, and where they come from."""

    inputs: tuple[tuple[Tensor, ...], ...]
    cases: list[Case]
    description: str


def load_calibration(
    shapes: list[tuple[int, ...]], preprocessing: Preprocessing | None, folder: Path | None, own: Draw | None = None
) -> Calibration:
    """Calibration inputs of a model, and the cases to prove a calibrated artifact on.

    From a folder: its images in order of name, spread over all of it; those for the proof are not calibrated on.
    Without one: crops of the two photographs, proven on the whole photographs and their middles. A model
    that takes no images is calibrated on what ``own`` makes of seeds, or on noise.

    Raises:
        UserError: the model takes no images, or the folder holds too few.
    """
    batch = shapes[0][0]
    if folder is None:
        if own is not None:
            seeded = tuple(own(100 + index) for index in range(8))
            return Calibration(seeded, make_cases(shapes, None, own=own), f"{len(seeded)} seeded inputs")
        if preprocessing is None or len(shapes) != 1:
            inputs = tuple(noise(shapes, seed=100 + index) for index in range(8))
            cases = [Case("noise", "noise", noise(shapes, seed=0))]
            return Calibration(inputs, cases, "noise, because the model takes no images")
        inputs = tuple((_batched(image, batch),) for image in _crops(preprocessing))
        cases = [Case(name, "photograph", (_batched(x, batch),)) for name, x in photographs(preprocessing)]
        return Calibration(inputs, cases, f"{len(inputs)} crops of two photographs")
    if preprocessing is None or len(shapes) != 1:
        raise UserError("--calibration is a folder of images, and this model takes no image", fix="leave it out")
    files = _choose(find_images(folder))
    images = [preprocessing.apply(read_image(file)) for file in files]
    step = len(images) // HELD_OUT
    held = range(0, step * HELD_OUT, step)
    inputs = tuple((_batched(image, batch),) for index, image in enumerate(images) if index not in held)
    cases = [Case(files[index].name, "photograph", (_batched(images[index], batch),)) for index in held]
    return Calibration(inputs, cases, f"{len(inputs)} images of {folder}")


def find_images(folder: Path) -> list[Path]:
    """The image files in a folder, in order of name; `UserError` where there are too few to calibrate on."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {str(folder)!r}", fix="pass a folder of images with --calibration")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGES and file.is_file())
    if len(files) < 2 * HELD_OUT:
        raise UserError(
            f"{str(folder)!r} holds {len(files)} images ({', '.join(IMAGES)}), and calibration needs {2 * HELD_OUT}",
            fix="add some hundred images such as the model will meet",
        )
    return files


def _choose(files: list[Path]) -> list[Path]:
    """At most as many files as are used, spread evenly."""
    wanted = min(len(files), LARGEST_SET + HELD_OUT)
    return [files[index * len(files) // wanted] for index in range(wanted)]


def _crops(preprocessing: Preprocessing) -> Iterator[Tensor]:
    from sklearn.datasets import load_sample_image

    for name in ("china.jpg", "flower.jpg"):
        image = PIL.Image.fromarray(load_sample_image(name))
        width, height = image.size
        for left in (0, width // 2):
            for top in (0, height // 2):
                yield preprocessing.apply(image.crop((left, top, left + width // 2, top + height // 2)))


def _batched(image: Tensor, batch: int) -> Tensor:
    return image.expand(batch, *(-1 for _ in image.shape[1:])).contiguous()
