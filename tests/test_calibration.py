from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from deploy_kit.calibration import HELD_OUT, LARGEST_SET, load_calibration
from deploy_kit.errors import UserError
from deploy_kit.preprocessing import Preprocessing

SHAPES = [(1, 3, 32, 32)]
PREPROCESSING = Preprocessing.for_input(SHAPES[0])


def write_images(folder: Path, count: int) -> Path:
    generator = np.random.default_rng(0)
    folder.mkdir()
    for index in range(count):
        pixels = generator.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{index:04}.png")
    return folder


def test_a_folder_gives_inputs_and_others_to_prove_on(tmp_path: Path) -> None:
    calibration = load_calibration(SHAPES, PREPROCESSING, write_images(tmp_path / "images", 20))
    assert len(calibration.cases) == HELD_OUT
    assert len(calibration.inputs) == 20 - HELD_OUT
    for case in calibration.cases:
        assert not any(torch.equal(case.inputs[0], image[0]) for image in calibration.inputs)
    assert str(tmp_path / "images") in calibration.description


def test_a_large_folder_is_sampled_evenly(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 2 * (LARGEST_SET + HELD_OUT))
    calibration = load_calibration(SHAPES, PREPROCESSING, folder)
    assert len(calibration.inputs) == LARGEST_SET
    assert max(int(case.name.removesuffix(".png")) for case in calibration.cases) > LARGEST_SET


def test_the_default_proves_on_other_images_than_it_measures_on() -> None:
    calibration = load_calibration([(2, 3, 32, 32)], PREPROCESSING, None)
    assert len(calibration.inputs) == 8
    assert all(image[0].shape == (2, 3, 32, 32) for image in calibration.inputs)
    for case in calibration.cases:
        assert not any(torch.equal(case.inputs[0], image[0]) for image in calibration.inputs)


def test_a_model_that_takes_no_image_is_calibrated_on_noise() -> None:
    calibration = load_calibration([(1, 6), (1, 5)], None, None)
    assert [len(inputs) for inputs in calibration.inputs] == [2] * 8
    assert "noise" in calibration.description


def test_a_model_that_makes_its_own_inputs_is_calibrated_on_others_than_it_is_proven_on() -> None:
    calibration = load_calibration([(4,)], None, None, lambda seed: (torch.tensor([seed, 0, 1, 2]),))
    measured = {int(inputs[0][0]) for inputs in calibration.inputs}
    assert len(measured) == 8
    assert measured.isdisjoint(int(case.inputs[0][0]) for case in calibration.cases)
    assert calibration.description == "8 seeded inputs"


@pytest.mark.parametrize("count", [0, 15])
def test_too_few_images_are_an_error(tmp_path: Path, count: int) -> None:
    with pytest.raises(UserError, match=f"holds {count} images"):
        load_calibration(SHAPES, PREPROCESSING, write_images(tmp_path / "images", count))


def test_a_missing_folder_and_a_model_without_images_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        load_calibration(SHAPES, PREPROCESSING, tmp_path / "nowhere")
    with pytest.raises(UserError, match="takes no image"):
        load_calibration([(1, 6)], None, write_images(tmp_path / "images", 16))


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 16)
    (folder / "0003.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"0003\.png"):
        load_calibration(SHAPES, PREPROCESSING, folder)
