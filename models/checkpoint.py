"""Loading checkpoints: files or state dicts, in a model's own layout or in the official one."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deploy_kit.errors import UserError

_WRAPPERS = ("state_dict_ema", "model_ema", "model", "state_dict", "module")
_PREFIXES = ("module.", "model.")


def load_checkpoint(model: nn.Module, source: str | Path | Mapping[str, Any]) -> None:
    """Load weights into ``model``, in place.

    Args:
        model: any module. One with a method ``from_official(state) -> state`` takes the layout of
            its authors too; it is used where keys or shapes are not the module's own.
        source: a ``.pth``, ``.pt``, ``.safetensors`` or ``.npz`` file, or a state dict; wrappers such as
            ``{"model": ...}`` and a ``module.`` prefix are seen through.

    Raises:
        UserError: no such file, not a checkpoint, a pickle that would run code, keys or shapes
            that differ, with the first missing, unexpected and misshapen key, or tensors that are
            no weights (sparse, complex, integer, not finite), with the first of them.
    """
    expected = model.state_dict()
    state = _unwrap(source if isinstance(source, Mapping) else read_state_dict(Path(source)), expected)
    _check_plain(state)
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = getattr(model, "from_official", None)
    if convert is not None and _shapes(state) != _shapes(expected):
        state = convert(state)
    _check(expected, state)
    model.load_state_dict(state, strict=False)


def read_state_dict(path: Path) -> Mapping[str, Any]:
    """Read a checkpoint file without running any code that it may hold; `UserError` where it cannot."""
    if not path.is_file():
        raise UserError(
            f"there is no checkpoint file {str(path)!r}", fix=f"check the path; it is read from {Path.cwd()}"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
        with torch.serialization.safe_globals([argparse.Namespace]):  # training scripts save their options
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors and torch raise many types for a damaged file
        refused = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if refused:
            raise UserError(
                f"{str(path)!r} holds more than tensors ({refused[1]}), and reading it could run code; it was not read",
                fix="ask its author for a .safetensors file, or re-save its state_dict() alone",
            ) from error
        raise UserError(
            f"{str(path)!r} is damaged or not a checkpoint: {_first_sentence(error)}",
            fix="fetch it again and compare its checksum with the publisher's",
        ) from error
    if not isinstance(loaded, Mapping):
        raise UserError(f"{str(path)!r} holds a {type(loaded).__name__}, not a state dict")
    return loaded


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state.items()}


def _first_sentence(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0]


def _unwrap(state: Mapping[str, Any], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError("the checkpoint holds no tensors", fix="pass a state dict, or a file that holds one")
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in tensors) and not all(key.startswith(prefix) for key in expected):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _check_plain(state: Mapping[str, Tensor]) -> None:
    for key, value in state.items():
        if value.layout != torch.strided or value.is_quantized or value.is_nested or value.is_meta:
            kind = "quantized" if value.is_quantized else "without values" if value.is_meta else "sparse or nested"
            raise UserError(
                f"the checkpoint's {key!r} is no plain tensor: it is {kind}", fix="save a state dict of dense tensors"
            )


def _check(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    counters = {key for key in expected if key.endswith("num_batches_tracked")}
    missing = [key for key in expected if key not in state and key not in counters]
    unexpected = [key for key in state if key not in expected]
    misshapen = [key for key in expected if key in state and expected[key].shape != state[key].shape]
    problems = []
    if missing:
        problems.append(f"{len(missing)} missing, first {missing[0]!r}")
    if unexpected:
        problems.append(f"{len(unexpected)} unexpected, first {unexpected[0]!r}")
    if misshapen:
        key = misshapen[0]
        shapes = f"{list(state[key].shape)} in the checkpoint, {list(expected[key].shape)} in the model"
        problems.append(f"{len(misshapen)} misshapen, first {key!r} ({shapes})")
    if problems:
        raise UserError(
            f"the checkpoint does not fit the model: {'; '.join(problems)}",
            fix="check that the model's name, size and number of classes are the checkpoint's",
        )
    for key, value in state.items():
        if expected[key].is_floating_point():
            _check_floating(key, expected[key], value)


def _check_floating(key: str, expected: Tensor, value: Tensor) -> None:
    """Raise `UserError` where loading would cast a value to another, or load NaN; a mask's own infinities may stay."""
    if not value.is_floating_point():
        raise UserError(
            f"the checkpoint's {key!r} is {str(value.dtype).removeprefix('torch.')}, and the model's is "
            f"{str(expected.dtype).removeprefix('torch.')}",
            fix="save floating-point weights; quantize with a target's --precision instead",
        )
    cast = value.to(expected.device, expected.dtype)
    if (~cast.isfinite() & expected.isfinite()).any():
        raise UserError(
            f"the checkpoint's {key!r} holds values that are not finite (NaN or infinite)",
            fix="take a checkpoint from before the training diverged",
        )
