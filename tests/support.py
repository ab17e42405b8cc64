"""Small models and shortcuts for tests of everything around them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from deploy_kit.api import Artifact, export
from deploy_kit.exporters import get_exporter
from deploy_kit.exporters.base import Ran
from deploy_kit.models.layers import randomize_
from deploy_kit.parity.inputs import Case, make_cases
from deploy_kit.parity.proof import Proof, judge
from deploy_kit.parity.reference import Reference, compute_references
from deploy_kit.sources import LoadedModel, load_model

TINY = "tests.support:tiny"
TINY_SIZE = "1x3x32x32"
TOKENS = "tests.support:tokens"
TOKENS_SIZE = "1x12:int64:50"


class Residual(nn.Module):
    """``x + depthwise(x)``, which a pass turns into one convolution."""

    def __init__(self, dim: int):
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class Tiny(nn.Module):
    """A convolution with BatchNorm, a residual, tokens with LayerNorm and an MLP, and a classifier."""

    def __init__(self, classes: int = 10):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.bn = nn.BatchNorm2d(8)
        self.local = Residual(8)
        self.norm = nn.LayerNorm(8)
        self.fc1 = nn.Linear(8, 16)
        self.fc2 = nn.Linear(16, 8)
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.local(torch.relu(self.bn(self.stem(x)))).flatten(2).transpose(1, 2)
        x = x + self.fc2(nn.functional.gelu(self.fc1(self.norm(x))))
        return self.head(x.mean(1))


class TwoInputs(nn.Module):
    """Two inputs, and outputs in a dict and a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 4), nn.Linear(5, 4)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        total = self.a(x) + self.b(y)
        return total, {"square": total * total, "x": x.relu()}


def random(model: nn.Module, seed: int = 0) -> nn.Module:
    randomize_(model, seed)
    return model.eval()


def tiny() -> nn.Module:
    return random(Tiny())


class Tokens(nn.Module):
    """Classes of a sentence, by the mean of its words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(50, 16), nn.Linear(16, 10)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.words(words).mean(1))


def tokens() -> nn.Module:
    return random(Tokens())


def load_tiny(seed: int = 0) -> LoadedModel:
    return load_model(random(Tiny(), seed), input_size=TINY_SIZE)


def export_to(folder: Path, model: str | nn.Module | LoadedModel, target: str, **options: object) -> Artifact:
    return export(model, target, out=folder, options=options)


class Bench:
    """A model's cases and references, and what a file makes of them in its target's runtime."""

    def __init__(self, loaded: LoadedModel, target: str, **options: object):
        self.loaded, self.exporter = loaded, get_exporter(target)
        self.options = self.exporter.options_type.model_validate(options)
        batch = self.exporter.dynamic_batch(self.options)
        self.cases: list[Case] = make_cases(loaded.input_shapes, loaded.preprocessing, dynamic_batch=batch)
        self.references: list[Reference] = compute_references(loaded.module, self.cases)

    def run(self, file: Path, **details: object) -> Ran:
        return self.exporter.run(file, [case.inputs for case in self.cases], self.options, details)

    def prove(self, file: Path, **details: object) -> Proof:
        ran = self.run(file, **details)
        return judge(self.cases, self.references, ran.outputs, ran.verified_by)


def once(shared: Path, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first of several test processes fills, and the others wait for."""
    from filelock import FileLock

    folder, done = shared / name, shared / f"{name}.done"
    with FileLock(shared / f"{name}.lock"):
        if not done.exists():
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


class Everything(nn.Module):
    """A user's own model: convolutions of every kind, attention, LayerNorm, hard-swish, and a bilinear resize."""

    def __init__(self, dim: int = 16):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, dim, 3, stride=4, padding=1), nn.BatchNorm2d(dim), nn.Hardswish())
        self.depthwise = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up = nn.ConvTranspose2d(dim, dim, 2, stride=2)
        self.mix = nn.Conv2d(dim, dim, 1)
        self.head = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.depthwise(x)
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        batch, count, dim = tokens.shape
        query, key, value = self.qkv(tokens).reshape(batch, count, 3, 2, dim // 2).permute(2, 0, 3, 1, 4).unbind(0)
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.proj(attended.transpose(1, 2).reshape(batch, count, dim))
        image = self.up(tokens.transpose(1, 2).reshape(x.shape))
        smaller = nn.functional.interpolate(image, scale_factor=0.5, mode="bilinear", align_corners=False)
        return self.head(nn.functional.hardswish(self.mix(smaller) + x).mean((2, 3)))


def everything() -> nn.Module:
    return random(Everything())
