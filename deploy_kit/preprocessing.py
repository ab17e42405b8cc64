"""From a photograph to a model's input, as written in the manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from deploy_kit.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Preprocessing(BaseModel):
    """Resize the shorter side, crop the centre, scale to 0..1, normalise each channel, order NCHW.

    ``resize`` is in pixels (more, where the crop would not be filled), ``crop`` is (height, width), ``mean`` and
    ``std`` have an entry a channel of ``color``. Where it is ``embedded``, the artifact itself scales, normalises
    and orders: whoever calls it resizes and crops, and gives the pixels as they are, uint8 in the order of
    ``layout``, RGB or gray.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    color: Literal["RGB", "BGR", "L"] = "RGB"
    resize: int
    crop: tuple[int, int]
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    embedded: bool = False

    @classmethod
    def for_input(cls, shape: tuple[int, ...]) -> Preprocessing | None:
        """ImageNet's evaluation preprocessing for an input of ``shape`` [B, C, H, W]; None if it is no image."""
        if len(shape) != 4 or shape[1] not in (1, 3) or min(shape[2:]) < 8:
            return None
        height, width = shape[2:]
        resize = round(max(height, width) * 256 / 224)
        if shape[1] == 1:
            return cls(color="L", resize=resize, crop=(height, width), mean=(0.5,), std=(0.5,))
        return cls(resize=resize, crop=(height, width))

    def resized(self, size: tuple[int, ...]) -> Preprocessing:
        """The same for an input of ``size`` (height, width), with as much of an image around it."""
        return self.model_copy(update={"resize": round(max(size) * self.resize / max(self.crop)), "crop": size})

    def inside(self) -> Preprocessing:
        """What is left to the caller of an artifact that scales, normalises and orders itself."""
        color = "RGB" if self.color == "BGR" else self.color
        return self.model_copy(update={"color": color, "layout": "NHWC", "embedded": True})

    def apply(self, image: Image) -> Tensor:
        """What the artifact is given: float32 [1, C, height, width] of the crop, or uint8 [1, height, width, C]."""
        import numpy as np
        import PIL.Image
        import torch

        image = image.convert("RGB" if self.color == "BGR" else self.color)
        height, width = self.crop
        scale = max(self.resize / min(image.size), width / image.width, height / image.height)
        size = tuple(max(least, round(side * scale)) for least, side in zip((width, height), image.size))
        filters = {"bicubic": PIL.Image.Resampling.BICUBIC, "bilinear": PIL.Image.Resampling.BILINEAR}
        image = image.resize((size[0], size[1]), filters[self.interpolation])
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
        rows = torch.from_numpy(np.array(image)).reshape(height, width, -1)
        if self.embedded:
            return rows.unsqueeze(0)
        rows = rows.flip(2) if self.color == "BGR" else rows
        pixels = rows.permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (self.mean, self.std))
        return ((pixels - mean) / std).unsqueeze(0).contiguous()


def read_image(path: Path) -> Image:
    """An image file, turned upright; `UserError` where it is missing or not an image."""
    import PIL.Image
    import PIL.ImageOps

    if not path.is_file():
        raise UserError(f"there is no image file {str(path)!r}")
    try:
        with PIL.Image.open(path) as image:
            return PIL.ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise UserError(f"{str(path)!r} is not an image that can be read: {error}") from error
