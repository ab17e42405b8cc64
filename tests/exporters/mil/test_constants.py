"""Compressed constants, computed from the bytes of a saved package."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deploy_kit.exporters.coreml_compression import compress
from deploy_kit.exporters.mil.constants import affine_dequantize, blockwise_shift_scale, lut_to_dense, unpack
from deploy_kit.exporters.mil.interpreter import execute, unknown_operators
from deploy_kit.exporters.mil.package import load_package, quiet
from deploy_kit.exporters.mil.registry import UnsupportedOperatorError
from tests.exporters.mil.support import ct, mb, program, run

TYPES = {3: np.uint8, 4: np.int8, 1: np.float16, 2: np.float32}
"""The types in a file of weights whose elements are whole bytes, by their numbers there."""

WEIGHT = np.random.default_rng(0).normal(size=(40, 64)).astype(np.float32)


def save(folder: Path, ios: int, kind: str | None) -> Path:
    """A package of one linear layer, its weights compressed."""
    plain, package = folder / "plain.mlpackage", folder / "compressed.mlpackage"
    with quiet():
        target = getattr(ct.target, f"iOS{ios}")

        @mb.program(input_specs=[mb.TensorSpec(shape=(64, 64))], opset_version=target)
        def linear(x: Any) -> Any:
            return mb.linear(x=x, weight=WEIGHT)

        options = {"compute_precision": ct.precision.FLOAT32, "minimum_deployment_target": target}
        ct.convert(linear, skip_model_load=True, **options).save(str(plain))
    if kind is not None:
        compress(plain, package, kind)
    return plain if kind is None else package


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], Path]:
    wanted = [(16, "int8"), (18, "int8"), (16, "palette6"), (18, "palette4"), (16, "palette8")]
    return {(ios, kind): save(tmp_path_factory.mktemp(f"{kind}_{ios}"), ios, kind) for ios, kind in wanted}


def weight(package: Path) -> np.ndarray:
    """The weights, as the interpreter computes with them: the layer of an identity."""
    return execute(load_package(package), [torch.eye(64)])[0].T.numpy()


def constants(package: Path) -> tuple[str, dict[str, np.ndarray]]:
    """The type and the arguments of a package's compressed constant, read from its files without coremltools' reader.

    A blob is a magic number, its type, its size and its offset; what lies there is packed, lowest bit first.
    """
    folder = package / "Data" / "com.apple.CoreML"
    spec = ct.proto.Model_pb2.Model.FromString((folder / "model.mlmodel").read_bytes())
    block = next(iter(spec.mlProgram.functions["main"].block_specializations.values()))
    op = next(op for op in block.operations if op.type.startswith("constexpr_"))
    values = {name: value for name, value in op.attributes.items() if name != "name"}
    values |= {name: argument.arguments[0].value for name, argument in op.inputs.items()}
    data = (folder / "weights" / "weight.bin").read_bytes()
    return op.type, {name: blob(value, data) for name, value in values.items() if value.HasField("blobFileValue")}


def blob(value: Any, data: bytes) -> np.ndarray:
    at = value.blobFileValue.offset
    magic, kind, size, offset = struct.unpack_from("<IIQQ", data, at)
    assert magic == 0xDEADBEEF
    shape = [dimension.constant.size for dimension in value.type.tensorType.dimensions]
    raw = data[offset : offset + size]
    return np.frombuffer(raw, TYPES[kind]).reshape(shape) if kind in TYPES else np.frombuffer(raw, np.uint8)


def nibbles(data: np.ndarray) -> np.ndarray:
    return np.stack([data & 15, data >> 4], -1).flatten()


def sextets(data: np.ndarray) -> np.ndarray:
    a, b, c = (data[index::3].astype(int) for index in range(3))
    return np.stack([a & 63, (a >> 6) | ((b & 15) << 2), (b >> 4) | ((c & 3) << 4), c >> 2], -1).flatten()


def test_int8_is_one_scale_a_channel(packages: dict[tuple[int, str], Path]) -> None:
    kind, given = constants(packages[16, "int8"])
    assert kind == "constexpr_affine_dequantize"
    expected = given["quantized_data"] * given["scale"].reshape(-1, 1)
    np.testing.assert_allclose(weight(packages[16, "int8"]), expected, rtol=1e-6)
    assert given["scale"].shape == (40,)

    kind, given = constants(packages[18, "int8"])
    assert kind == "constexpr_blockwise_shift_scale"
    assert given["data"].dtype == np.int8
    np.testing.assert_allclose(weight(packages[18, "int8"]), given["data"] * given["scale"], rtol=1e-6)


def test_a_palette_s_indices_are_packed(packages: dict[tuple[int, str], Path]) -> None:
    kind, given = constants(packages[16, "palette6"])
    assert kind == "constexpr_lut_to_dense"
    assert (given["indices"].size, given["lut"].size) == (40 * 64 * 6 // 8, 64)
    dense = given["lut"].flatten()[sextets(given["indices"])].reshape(40, 64)
    assert np.array_equal(weight(packages[16, "palette6"]), dense)

    _, given = constants(packages[16, "palette8"])
    assert np.array_equal(weight(packages[16, "palette8"]), given["lut"].flatten()[given["indices"]].reshape(40, 64))

    _, given = constants(packages[18, "palette4"])
    assert (given["indices"].size, given["lut"].shape) == (40 * 64 // 2, (1, 1, 16, 1))
    dense = given["lut"].flatten()[nibbles(given["indices"])].reshape(40, 64)
    assert np.array_equal(weight(packages[18, "palette4"]), dense)


@pytest.mark.parametrize(
    ("ios", "kind", "within"), [(16, "int8", 0.01), (18, "int8", 0.01), (16, "palette6", 0.1), (16, "palette8", 0.05)]
)
def test_compressed_weights_are_near_the_original(
    ios: int, kind: str, within: float, packages: dict[tuple[int, str], Path]
) -> None:
    error = np.square(weight(packages[ios, kind]) - WEIGHT).mean() ** 0.5
    assert 0 < error < within


@pytest.mark.parametrize(("ios", "kind"), [(16, "int8"), (18, "int8"), (16, "palette6"), (18, "palette4")])
def test_the_last_bit_in_the_file_is_the_last_element_s(
    ios: int, kind: str, packages: dict[tuple[int, str], Path], tmp_path: Path
) -> None:
    package = shutil.copytree(packages[ios, kind], tmp_path / "changed.mlpackage")
    file = package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    data = bytearray(file.read_bytes())
    before = weight(package)
    _, given = constants(package)
    largest = max(given.values(), key=lambda value: value.nbytes).tobytes()
    at = data.index(largest) + len(largest) - 1
    data[at] ^= 0x80
    file.write_bytes(data)
    changed = np.argwhere(weight(package) != before)
    assert changed.tolist() == [[39, 63]]


def test_a_block_of_scales_and_offsets() -> None:
    data = np.arange(24, dtype=np.int8).reshape(4, 6)
    scale, offset = np.array([[1.0, 10.0], [100.0, 1000.0]]), np.array([[0, 1], [2, 3]], dtype=np.int8)
    dense = blockwise_shift_scale(data, scale, offset)
    for row in range(4):
        for column in range(6):
            block = row // 2, column // 3
            assert dense[row, column] == scale[block] * (data[row, column] - offset[block])


def test_a_zero_point_along_an_axis() -> None:
    data = np.arange(12, dtype=np.uint8).reshape(2, 3, 2)
    dense = affine_dequantize(data, np.array([1, 2, 3], np.uint8), np.float32(0.5), np.int32(-2))
    assert np.array_equal(dense[:, 1], 0.5 * (data[:, 1].astype(float) - 2))
    assert dense[0, 2, 0] == 0.5 * (4 - 3)
    assert dense[0, 0, 0] == -0.5


def test_a_palette_for_each_group_of_channels() -> None:
    indices = np.random.default_rng(1).integers(0, 4, (4, 3)).astype(np.uint8)
    lut = np.arange(8.0).reshape(2, 1, 4, 1)
    dense = lut_to_dense(indices, lut)
    assert np.array_equal(dense[:2], indices[:2])
    assert np.array_equal(dense[2:], indices[2:] + 4.0)
    with pytest.raises(UnsupportedOperatorError, match="vectors"):
        lut_to_dense(indices, np.zeros((1, 1, 4, 2)))


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
def test_indices_are_packed_from_the_lowest_bit(bits: int) -> None:
    numbers = np.random.default_rng(bits).integers(0, 1 << bits, 21)
    whole = sum(int(number) << (bits * index) for index, number in enumerate(numbers))
    data = np.frombuffer(whole.to_bytes(-(-21 * bits // 8), "little"), np.uint8)
    assert np.array_equal(unpack(data, bits, 21), numbers)


def test_a_constant_in_fp16_is_rounded_as_it_is_stored() -> None:
    data, scale = np.full((2, 3), 101, np.int8), np.float16(0.0123)

    def build(x: Any) -> Any:
        stored = mb.constexpr_affine_dequantize(
            quantized_data=data, zero_point=np.int8(0), scale=scale, axis=np.int32(0)
        )
        return mb.add(x=x, y=stored)

    stored = float(np.float16(101 * float(scale)))
    assert stored != 101 * float(scale)
    assert run(build, torch.full((2, 3), -stored, dtype=torch.float16), ios=16).unique().tolist() == [0]


def test_other_compressed_constants_are_unknown() -> None:
    def build(x: Any) -> Any:
        mask, values = np.array([5], np.uint8), np.array([1.0, 2.0], np.float32)
        return mb.add(x=x, y=mb.constexpr_sparse_to_dense(nonzero_data=values, mask=mask, shape=np.uint32([3])))

    x = torch.zeros(3)
    function = program(build, [x], ios=16)
    assert unknown_operators(function) == ["constexpr_sparse_to_dense"]
    with pytest.raises(UnsupportedOperatorError, match="constexpr_sparse_to_dense"):
        execute(function, [x])


def test_a_cast_keeps_its_values() -> None:
    half = np.array([1.5, 0.1], np.float16)
    cast = lambda x: mb.add(x=x, y=mb.constexpr_cast(source_val=half, output_dtype="fp32"))  # noqa: E731
    assert run(cast, torch.zeros(2), ios=16).tolist() == half.astype(float).tolist()
