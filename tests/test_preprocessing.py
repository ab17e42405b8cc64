from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from PIL.Image import Image

from deploy_kit.errors import UserError
from deploy_kit.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, read_image


def plain(color: tuple[int, int, int], size: tuple[int, int] = (300, 200)) -> Image:
    return PIL.Image.new("RGB", size, color)


def test_a_pixel_is_scaled_and_normalised_by_channel_in_rgb_order() -> None:
    tensor = Preprocessing(resize=256, crop=(224, 224)).apply(plain((255, 0, 51)))
    assert tensor.shape == (1, 3, 224, 224)
    assert tensor.dtype == torch.float32
    expected = [(v - m) / s for v, m, s in zip((1, 0, 0.2), IMAGENET_MEAN, IMAGENET_STD)]
    assert torch.allclose(tensor[0, :, 100, 100], torch.tensor(expected), atol=1e-6)


def test_it_is_imagenets_evaluation_with_pillows_bicubic() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (100, 150, 3), dtype=np.uint8)
    image = PIL.Image.fromarray(pixels)
    resized = image.resize((96, 64), PIL.Image.Resampling.BICUBIC).crop((20, 4, 76, 60))
    expected = (torch.from_numpy(np.array(resized)).permute(2, 0, 1) / 255 - 0.5) / 0.25
    preprocessing = Preprocessing(resize=64, crop=(56, 56), mean=(0.5,) * 3, std=(0.25,) * 3)
    assert torch.allclose(preprocessing.apply(image)[0], expected, atol=1e-6)


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (17, 4000), (4000, 17), (3, 3)])
@pytest.mark.parametrize("crop", [(32, 64), (64, 32)])
def test_every_image_fills_the_crop(size: tuple[int, int], crop: tuple[int, int]) -> None:
    preprocessing = Preprocessing.for_input((1, 3, *crop))
    assert preprocessing is not None
    tensor = preprocessing.apply(plain((255, 255, 255), size))
    assert tensor.shape == (1, 3, *crop)
    assert (tensor > 2).all(), "black borders"


def test_nothing_is_cut_off_where_the_crop_is_the_whole_image() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 128, 3), dtype=np.uint8)
    whole = Preprocessing(resize=32, crop=(32, 64), mean=(0.0,) * 3, std=(1.0,) * 3)
    resized = PIL.Image.fromarray(pixels).resize((64, 32), PIL.Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(resized)).permute(2, 0, 1) / 255
    assert torch.allclose(whole.apply(PIL.Image.fromarray(pixels))[0], expected)
    assert (whole.apply(plain((255, 255, 255), (50, 200))) == 1).all(), "black borders"


def test_blue_comes_first_for_a_model_of_bgr() -> None:
    rgb = Preprocessing(resize=32, crop=(32, 32))
    bgr = rgb.model_copy(update={"color": "BGR", "mean": IMAGENET_MEAN[::-1], "std": IMAGENET_STD[::-1]})
    image = plain((255, 0, 51))
    assert torch.equal(bgr.apply(image), rgb.apply(image).flip(1))


def test_another_size_gets_as_much_around_it() -> None:
    resized = Preprocessing(resize=288, crop=(256, 256)).resized((128, 512))
    assert (resized.resize, resized.crop) == (576, (128, 512))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA"])
def test_every_kind_of_image_becomes_rgb(mode: str) -> None:
    image = PIL.Image.new("RGB", (40, 40), (255, 255, 255)).convert(mode)
    assert Preprocessing(resize=32, crop=(32, 32)).apply(image).shape == (1, 3, 32, 32)


def test_grey_models_get_one_channel() -> None:
    preprocessing = Preprocessing.for_input((1, 1, 28, 28))
    assert preprocessing is not None
    assert preprocessing.apply(plain((255, 255, 255))).shape == (1, 1, 28, 28)


@pytest.mark.parametrize("shape", [(1, 3, 224), (1, 4, 224, 224), (1, 3, 4, 4), (1, 6), (1, 3, 8, 8, 8)])
def test_other_inputs_are_no_images(shape: tuple[int, ...]) -> None:
    assert Preprocessing.for_input(shape) is None


def test_the_published_size_is_cropped_from_256() -> None:
    preprocessing = Preprocessing.for_input((1, 3, 224, 224))
    assert preprocessing is not None
    assert (preprocessing.resize, preprocessing.crop) == (256, (224, 224))


def test_photographs_of_phones_are_turned_upright(tmp_path: Path) -> None:
    image = plain((0, 0, 0), (40, 20))
    image.putpixel((0, 0), (255, 255, 255))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(tmp_path / "photo.png", exif=exif)
    upright = read_image(tmp_path / "photo.png")
    assert upright.size == (20, 40)
    assert upright.getpixel((19, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    "content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, b"\xff\xd8\xff\xe0broken"]
)
def test_a_file_that_is_no_image_is_the_users_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(UserError, match="is not an image that can be read"):
        read_image(tmp_path / "x.png")


def test_a_truncated_image_is_the_users_error(tmp_path: Path) -> None:
    plain((1, 2, 3)).save(tmp_path / "x.jpg")
    (tmp_path / "x.jpg").write_bytes((tmp_path / "x.jpg").read_bytes()[:-500])
    with pytest.raises(UserError, match="is not an image that can be read"):
        read_image(tmp_path / "x.jpg")


@pytest.mark.parametrize("name", ["missing.jpg", "."])
def test_a_path_without_an_image_file_is_the_users_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no image file"):
        read_image(tmp_path / name)
