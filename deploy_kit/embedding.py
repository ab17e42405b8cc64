"""A model with the last steps of its preprocessing inside, so that no caller can get them wrong."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deploy_kit.preprocessing import Preprocessing


class WithPreprocessing(nn.Module):
    """A model of images [B, C, H, W] that takes the pixels as they are: uint8 [B, H, W, C], RGB or gray.

    ``(x / 255 - mean) / std`` is ``x * scale + offset``. The cast comes first, because TensorRT does nothing else
    to uint8; the permutation copies nothing, and leaves images channels-last in memory, as convolutions like them.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, model: nn.Module, preprocessing: Preprocessing):
        super().__init__()
        mean, std = (
            torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1)
            for values in (preprocessing.mean, preprocessing.std)
        )
        self.register_buffer("scale", (1 / (255 * std)).float())
        self.register_buffer("offset", (-mean / std).float())
        self.reverses = preprocessing.color == "BGR"
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.to(self.scale.dtype).permute(0, 3, 1, 2)
        if self.reverses:
            x = torch.cat((x[:, 2:], x[:, 1:2], x[:, :1]), 1)
        return self.model(x * self.scale + self.offset)
