from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from deploy_kit.models.digits import write_digit_images
from tests.cli.support import Ended
from tests.support import TINY

Command = Callable[..., Ended]


def test_digits_are_read_from_pixels_in_their_own_runtime(deploykit: Command, tmp_path: Path) -> None:
    ended = deploykit("export", "edgevit_digits", "-t", "torchscript-lite", "--embed-preprocessing", "--out", tmp_path)
    assert ended.code == 0, ended.err
    assert "weights: trained weights of the package, sha256" in ended.out
    folder = tmp_path / "edgevit_digits" / "torchscript-lite"
    shown = deploykit("inspect", folder).out
    assert "uint8 [1, 64, 64, 3]" in shown
    assert "layout NHWC, embedded True" in shown
    images = write_digit_images(tmp_path / "digits", 8)
    predictions = deploykit("run", folder, *images, "--top", 1, "--json").json
    assert [p["index"] for p in predictions] == [int(path.stem[-1]) for path in images]
    assert deploykit("verify", folder, "--json").json["passed"]


def test_a_model_of_no_images_is_the_users_mistake(deploykit: Command, tmp_path: Path) -> None:
    arguments = (TINY, "--input-size", "1x3x4x4", "-t", "onnx", "--out", tmp_path)
    ended = deploykit("export", *arguments, "--embed-preprocessing")
    assert ended.code == 2
    assert "does not take one batch of images" in ended.err
    assert not list(tmp_path.iterdir())
