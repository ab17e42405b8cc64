"""One operator in a program of its own, built with coremltools and executed by the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deploy_kit.exporters.mil.interpreter import execute
from deploy_kit.exporters.mil.package import quiet

with quiet():
    ct = pytest.importorskip("coremltools", reason="the reference interpreter reads coremltools' programs")
    from coremltools.converters.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import types

KINDS = {torch.float32: types.fp32, torch.float16: types.fp16, torch.int32: types.int32, torch.bool: types.bool}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def program(build: Callable[..., Any], inputs: Sequence[Tensor], ios: int = 15) -> Any:
    """The main function of a program that takes tensors like ``inputs`` and returns what ``build`` makes of them."""
    specs = [mb.TensorSpec(shape=tuple(x.shape), dtype=KINDS[x.dtype]) for x in inputs]
    names = ", ".join(f"x{index}" for index in range(len(inputs)))
    function = eval(f"lambda {names}: build({names})", {"build": build})  # the builder counts a function's parameters
    made = mb.program(input_specs=specs, opset_version=getattr(ct.target, f"iOS{ios}"))(function)
    return made.functions["main"]


def run(build: Callable[..., Any], *inputs: Tensor, ios: int = 15) -> Any:
    """What the interpreter computes, in float64: a tensor, or a list of several."""
    outputs = execute(program(build, inputs, ios), inputs, dtype=torch.float64)
    return outputs[0] if len(outputs) == 1 else outputs


def wide(*inputs: Tensor) -> list[Tensor]:
    """The inputs as the interpreter sees them."""
    return [x.double() if x.is_floating_point() else x for x in inputs]


def check(build: Callable[..., Any], expected: Tensor, *inputs: Tensor, ios: int = 15, within: float = 1e-6) -> None:
    """Require that an operator computes ``expected``; constants are float32, hence the tolerance."""
    actual = run(build, *inputs, ios=ios)
    assert actual.shape == expected.shape
    if expected.is_floating_point():
        torch.testing.assert_close(actual, expected.double(), rtol=within, atol=within)
    else:
        assert torch.equal(actual, expected.to(actual.dtype))


def inferred(build: Callable[..., Any], *inputs: Tensor, ios: int = 15) -> Tensor:
    """What coremltools itself computes of an operator whose inputs are all constants."""
    anchor = mb.program(input_specs=[mb.TensorSpec(shape=(1,))], opset_version=getattr(ct.target, f"iOS{ios}"))
    found: list[Any] = []

    def body(x: Any) -> Any:
        result = build(*[value.numpy() for value in inputs])
        found.append(result.val)
        return mb.identity(x=x)

    anchor(body)
    assert found[0] is not None
    return torch.from_numpy(np.array(found[0]))
