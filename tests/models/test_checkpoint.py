from __future__ import annotations

import argparse
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from deploy_kit.errors import UserError
from deploy_kit.models import load_checkpoint


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)


@pytest.fixture
def weights() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return Model().state_dict()


def assert_loads(source: Any, weights: dict[str, Tensor], model: nn.Module | None = None) -> None:
    model = model or Model()
    load_checkpoint(model, source)
    loaded = model.state_dict()
    assert all(loaded[key].equal(weights[key]) for key in weights)


def assert_refuses(source: Any, *reasons: str, fix: str = "") -> None:
    model = Model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError) as error:
        load_checkpoint(model, source)
    assert all(reason in str(error.value) for reason in reasons), str(error.value)
    assert fix in error.value.fix
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_reads_torch_files(suffix: str, zipped: bool, weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    torch.save(weights, path, _use_new_zipfile_serialization=zipped)
    assert_loads(path, weights)
    assert_loads(str(path), weights)


def test_reads_safetensors_files(weights: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(weights, tmp_path / "model.safetensors")
    assert_loads(tmp_path / "model.safetensors", weights)


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "module", "model_ema", "state_dict_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model."])
def test_sees_through_wrappers_and_prefixes(wrapper: str, prefix: str, weights: dict[str, Tensor]) -> None:
    wrapped = {f"{prefix}{key}": value for key, value in weights.items()}
    assert_loads({wrapper: wrapped, "epoch": 300, "optimizer": {"lr": 1e-3}}, weights)


def test_prefers_averaged_weights(weights: dict[str, Tensor]) -> None:
    other = {key: torch.zeros_like(value) for key, value in weights.items()}
    assert_loads({"model": other, "model_ema": weights}, weights)


@pytest.mark.parametrize("name", ["model", "module"])
def test_keeps_a_prefix_that_is_the_model_s_own(name: str) -> None:
    model = nn.ModuleDict({name: nn.Linear(2, 2)})
    weights = nn.ModuleDict({name: nn.Linear(2, 2)}).state_dict()
    assert_loads(weights, weights, model)
    assert_loads({"model": weights}, weights, model)


def test_reads_checkpoints_that_hold_training_options(weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"model": weights, "args": argparse.Namespace(lr=0.1)}, tmp_path / "model.pth")
    assert_loads(tmp_path / "model.pth", weights)


def test_converts_other_precisions(weights: dict[str, Tensor]) -> None:
    model = Model()
    load_checkpoint(model, {key: value.half() for key, value in weights.items()})
    assert model.conv.weight.dtype == torch.float32
    assert model.conv.weight.equal(weights["conv.weight"].half().float())


def test_does_without_batch_counters(weights: dict[str, Tensor]) -> None:
    del weights["norm.num_batches_tracked"]
    assert_loads(weights, weights)


def test_uses_the_model_s_own_conversion_of_official_keys(weights: dict[str, Tensor]) -> None:
    class Renamed(Model):
        def from_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
            return {key.replace("stem.", "conv."): value for key, value in state.items()}

    official = {key.replace("conv.", "stem."): value for key, value in weights.items()}
    assert_loads(official, weights, Renamed())
    assert_loads({"model": official}, weights, Renamed())


def test_uses_the_model_s_own_conversion_of_other_shapes(weights: dict[str, Tensor]) -> None:
    class Resized(Model):
        def from_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
            return {key: value.squeeze(-1) for key, value in state.items()}

    assert_loads({key: value[..., None] for key, value in weights.items()}, weights, Resized())


def test_does_not_convert_the_model_s_own_keys(weights: dict[str, Tensor]) -> None:
    class Strict(Model):
        def from_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
            raise AssertionError("these keys are our own")

    assert_loads(weights, weights, Strict())


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.path), "w")


def _zipped(payload: Payload, path: Path) -> None:
    torch.save({"model": {"conv.weight": payload}}, path)


def _legacy(payload: Payload, path: Path) -> None:
    torch.save({"model": {"conv.weight": payload}}, path, _use_new_zipfile_serialization=False)


def _bare(payload: Payload, path: Path) -> None:
    path.write_bytes(pickle.dumps(payload, protocol=2))


@pytest.mark.parametrize("write", [_zipped, _legacy, _bare])
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_refuses_a_pickle_that_would_run_code(write: Callable[..., None], suffix: str, tmp_path: Path) -> None:
    write(Payload(tmp_path / "harm"), tmp_path / f"model{suffix}")
    assert_refuses(tmp_path / f"model{suffix}", "could run code", "io.open", fix="safetensors")
    assert not (tmp_path / "harm").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [0, 3, 4, 5])
def test_never_runs_a_pickle_of_another_protocol(protocol: int, tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(pickle.dumps(Payload(tmp_path / "harm"), protocol=protocol))
    assert_refuses(tmp_path / "model.pth")
    assert not (tmp_path / "harm").exists()


def test_refuses_a_whole_pickled_model(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pth")
    assert_refuses(tmp_path / "model.pth", "more than tensors", "torch.nn.modules.linear.Linear", fix="state_dict()")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html>", b"hello world" * 100, b"\x80\x02}q\x00"])
def test_refuses_what_is_no_checkpoint(suffix: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / f"model{suffix}").write_bytes(content)
    assert_refuses(tmp_path / f"model{suffix}", "damaged or not a checkpoint", fix="checksum")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_refuses_a_truncated_file(suffix: str, kept: float, weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    torch.save(weights, path) if suffix == ".pth" else save_file(weights, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert_refuses(path, "damaged or not a checkpoint", fix="checksum")


def test_reads_numpy_files_and_refuses_pickles_in_them(weights: dict[str, Tensor], tmp_path: Path) -> None:
    np.savez(tmp_path / "model.npz", **{key: value.numpy() for key, value in weights.items()})
    assert_loads(tmp_path / "model.npz", weights)
    np.savez(tmp_path / "model.npz", weight=np.array([Payload(tmp_path / "harm")], dtype=object))
    assert_refuses(tmp_path / "model.npz", "damaged or not a checkpoint")
    assert not (tmp_path / "harm").exists()


def test_refuses_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert_refuses(tmp_path / "none.pth", "no checkpoint file", "none.pth", fix=f"read from {Path.cwd()}")
    assert_refuses(tmp_path, "no checkpoint file")


def test_refuses_other_objects(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    assert_refuses(tmp_path / "list.pth", "holds a list, not a state dict")
    assert_refuses({"epoch": 3}, "no tensors")
    assert_refuses({}, "no tensors")


def test_names_the_first_key_that_is_missing_unexpected_and_misshapen(weights: dict[str, Tensor]) -> None:
    del weights["conv.bias"]
    weights["head.weight"] = torch.zeros(1)
    weights["norm.weight"] = torch.zeros(5)
    assert_refuses(
        weights,
        "1 missing, first 'conv.bias'",
        "1 unexpected, first 'head.weight'",
        "1 misshapen, first 'norm.weight' ([5] in the checkpoint, [4] in the model)",
        fix="number of classes",
    )


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (Tensor.to_sparse, "sparse"),
        (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "quantized"),
        (lambda value: value.to("meta"), "without values"),
        (lambda value: value + 1j, "is complex64, and the model's is float32"),
        (lambda value: value.to(torch.int8), "is int8, and the model's is float32"),
        (lambda value: value * torch.nan, "not finite"),
        (lambda value: torch.full_like(value, torch.inf).half(), "not finite"),
        (lambda value: value.double() + 1e300, "not finite"),
    ],
)
@pytest.mark.parametrize("key", ["conv.weight", "norm.running_var"])
def test_names_the_first_tensor_that_is_no_weight(
    change: Callable[[Tensor], Tensor], reason: str, key: str, weights: dict[str, Tensor]
) -> None:
    weights[key] = change(weights[key])
    assert_refuses(weights, f"{key!r}", reason)


def test_takes_the_infinities_of_a_mask() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))

    assert_loads(Masked().state_dict(), Masked().state_dict(), Masked())


def test_loads_nothing_of_a_checkpoint_with_one_wrong_shape(weights: dict[str, Tensor]) -> None:
    weights["norm.bias"] = torch.zeros(5)
    assert_refuses(weights, "1 misshapen, first 'norm.bias'")
