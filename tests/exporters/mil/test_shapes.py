"""Operators that move elements about, against torch and numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from deploy_kit.exporters.mil.registry import UnsupportedOperatorError
from tests.exporters.mil.support import check, inferred, mb, noise, program, run


@pytest.mark.parametrize("shape", [[2, 12], [-1, 4], [0, -1, 2], [0, 0, 4], [24]])
def test_reshape(shape: list[int]) -> None:
    x = noise(2, 3, 4)
    expected = x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape)])
    check(lambda x: mb.reshape(x=x, shape=shape), expected, x)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda x: mb.transpose(x=x, perm=[2, 0, 3, 1]), lambda x: x.permute(2, 0, 3, 1)),
        (lambda x: mb.transpose(x=x, perm=[0, -1, 1, -2]), lambda x: x.permute(0, 3, 1, 2)),
        (lambda x: mb.expand_dims(x=x, axes=[1]), lambda x: x.unsqueeze(1)),
        (lambda x: mb.expand_dims(x=x, axes=[-1]), lambda x: x.unsqueeze(-1)),
        (lambda x: mb.squeeze(x=x, axes=[0]), lambda x: x.squeeze(0)),
        (lambda x: mb.squeeze(x=x, axes=[-4]), lambda x: x.squeeze(0)),
        (lambda x: mb.squeeze(x=x), lambda x: x.squeeze()),
        (lambda x: mb.flatten2d(x=x, axis=2), lambda x: x.reshape(6, 20)),
        (lambda x: mb.flatten2d(x=x, axis=-1), lambda x: x.reshape(24, 5)),
        (lambda x: mb.tile(x=x, reps=[2, 1, 3, 1]), lambda x: x.repeat(2, 1, 3, 1)),
        (lambda x: mb.reverse(x=x, axes=[1, -1]), lambda x: x.flip(1, 3)),
        (lambda x: mb.reverse(x=x), lambda x: x.flip(0, 1, 2, 3)),
        (lambda x: mb.band_part(x=x, lower=1, upper=0), lambda x: x.tril(0).triu(-1)),
        (lambda x: mb.band_part(x=x, lower=-1, upper=2), lambda x: x.tril(2)),
        (lambda x: mb.shape(x=x), lambda x: torch.tensor(x.shape)),
        (lambda x: mb.crop(x=x, crop_height=[1, 0], crop_width=[2, 1]), lambda x: x[:, :, 1:, 2:-1]),
        (lambda x: mb.slice_by_size(x=x, begin=[0, 2, 1, -3], size=[1, -1, 2, 3]), lambda x: x[:, 2:, 1:3, 2:5]),
    ],
)
def test_shape_of_one_tensor(build, expected) -> None:
    x = noise(1, 6, 4, 5)
    check(build, expected(x), x)


SLICES = {
    "plain": ({"begin": [0, 1, 0], "end": [2, 3, 4]}, np.s_[0:2, 1:3, 0:4]),
    "strided": ({"begin": [0, 1, 0], "end": [2, 5, 6], "stride": [1, 2, 3]}, np.s_[:, 1:5:2, 0:6:3]),
    "open": (
        {
            "begin": [1, 3, 2],
            "end": [1, 4, 4],
            "begin_mask": [True, False, False],
            "end_mask": [True, True, False],
        },
        np.s_[:, 3:, 2:4],
    ),
    "from the end": ({"begin": [0, -3, 0], "end": [2, -1, 6]}, np.s_[:, -3:-1, :]),
    "one": ({"begin": [0, 2, 0], "end": [2, 3, 6], "squeeze_mask": [False, True, False]}, np.s_[:, 2, :]),
    "one from the end": (
        {"begin": [0, -2, 0], "end": [2, 0, 6], "squeeze_mask": [False, True, False]},
        np.s_[:, -2, :],
    ),
    "backwards": (
        {"begin": [0, 4, 0], "end": [2, 1, 6], "stride": [1, -1, 1]},
        (slice(None), np.arange(4, 1, -1)),
    ),
    "past the end": ({"begin": [0, 2, 0], "end": [2, 2**31 - 1, 6]}, np.s_[:, 2:, :]),
}


@pytest.mark.parametrize("name", SLICES)
def test_slice_by_index(name: str) -> None:
    given, expected = SLICES[name]
    x = noise(2, 5, 6)
    check(lambda x: mb.slice_by_index(x=x, **given), torch.from_numpy(x.numpy()[expected].copy()), x)


def test_joining() -> None:
    x, y = noise(2, 3, 4), noise(2, 3, 4, seed=1)
    check(lambda x, y: mb.concat(values=[x, y], axis=-2), torch.cat([x, y], -2), x, y)
    check(lambda x, y: mb.stack(values=[x, y], axis=1), torch.stack([x, y], 1), x, y)
    with pytest.raises(UnsupportedOperatorError, match="interleaves"):
        run(lambda x, y: mb.concat(values=[x, y], axis=1, interleave=True), x, y)


def test_splitting() -> None:
    x = noise(2, 6, 4)
    for given, expected in (
        ({"num_splits": 3}, x.split(2, 1)),
        ({"split_sizes": [1, 5]}, x.split([1, 5], 1)),
    ):
        parts = run(lambda x, g=given: mb.split(x=x, axis=-2, **g), x)
        assert all(torch.equal(part, other.double()) for part, other in zip(parts, expected, strict=True))


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
def test_pad(mode: str) -> None:
    x = noise(1, 2, 5, 4)
    extra = {"constant_val": 0.5} if mode == "constant" else {}
    expected = F.pad(x, (3, 0, 1, 4), mode=mode, **({"value": 0.5} if extra else {}))
    check(lambda x: mb.pad(x=x, pad=[1, 4, 3, 0], mode=mode, **extra), expected, x)
    everywhere = [0, 0, 1, 1, 2, 3, 0, 1]
    build = lambda x: mb.pad(x=x, pad=np.array(everywhere), mode=mode, **extra)  # noqa: E731
    check(build, inferred(build, x), x)


def test_pixels() -> None:
    x = noise(2, 8, 3, 4)
    check(lambda x: mb.pixel_shuffle(x=x, upscale_factor=2), F.pixel_shuffle(x, 2), x)
    y = noise(2, 2, 6, 4)
    check(lambda x: mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(2)), F.pixel_unshuffle(y, 2), y, ios=16)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("ios", [15, 17])
def test_gather(axis: int, ios: int) -> None:
    x = noise(4, 5, 6)
    chosen = np.array([[2, 0], [3, 3]], dtype=np.int32)
    expected = torch.from_numpy(np.take(x.numpy(), chosen, axis))
    check(lambda x: mb.gather(x=x, indices=chosen, axis=axis), expected, x, ios=ios)


def test_negative_indices_are_defined_until_ios_16() -> None:
    x, chosen = noise(4, 5), np.array([-1, 1], dtype=np.int32)
    check(lambda x: mb.gather(x=x, indices=chosen, axis=0), x[[-1, 1]], x, ios=16)
    with pytest.raises(UnsupportedOperatorError, match="out of range"):
        run(lambda x: mb.gather(x=x, indices=chosen, axis=0), x, ios=17)


def test_gather_along_axis() -> None:
    x, chosen = noise(4, 5), torch.tensor([[0, 4, 1], [2, 2, 2], [1, 0, 3], [3, 1, 1]])
    expected = x.gather(1, chosen)
    check(lambda x: mb.gather_along_axis(x=x, indices=chosen.int().numpy(), axis=1), expected, x)


def test_topk() -> None:
    x = noise(3, 7)
    for ascending in (False, True):
        values, indices = run(lambda x, a=ascending: mb.topk(x=x, k=3, axis=-1, ascending=a), x)
        expected = x.double().topk(3, -1, largest=not ascending)
        assert torch.equal(values, expected.values)
        assert torch.equal(indices, expected.indices)


def test_made_from_nothing() -> None:
    x = noise(2, 3)
    check(lambda x: mb.add(x=x, y=mb.fill(shape=[2, 3], value=0.5)), x + 0.5, x)
    steps = lambda x: mb.mul(x=x, y=mb.range_1d(start=0.0, end=3.0, step=1.0))  # noqa: E731
    check(steps, x * torch.arange(3), x)
    assert "range_1d" in {op.op_type for op in program(steps, [x]).operations}
