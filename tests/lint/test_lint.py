"""What lint says of small models that have one thing wrong each, and of models that have nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from deploy_kit.exporters.executorch import find_executorch
from deploy_kit.lint import Finding, Severity, lint
from deploy_kit.lint.delegation import XNNPACK
from deploy_kit.sources import load_model
from tests.support import load_tiny


def found(model: nn.Module, size: str, target: str, rule: str) -> list[Finding]:
    return [finding for finding in lint(load_model(model, input_size=size), [target]) if finding.rule == rule]


class Inside(nn.Module):
    """A model with one part, called ``part``."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x)


class Windows(nn.Module):
    """Windows as they are usually cut: through a tensor of rank 6."""

    def forward(self, x: Tensor) -> Tensor:
        cut = x.unflatten(3, (2, 4)).unflatten(2, (2, 4)).permute(0, 2, 4, 1, 3, 5)
        return cut.flatten(3).softmax(3)


class SixAxes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(1, 3, 2, 4, 2, 4).softmax(3).sum((3, 5))


class Select(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu()[:, 0] * 2


class Best(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).topk(3).values


class Cumulative(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu().cumsum(1)


def test_rank_6_is_refused_by_coreml_and_named_with_its_module() -> None:
    (refused, *_) = found(Inside(SixAxes()), "1x3x8x8", "coreml", "rank")
    assert (refused.severity, refused.module) == (Severity.ERROR, "part")
    assert "softmax" in refused.operators
    slow = found(Inside(SixAxes()), "1x3x8x8", "executorch", "rank")
    assert {finding.severity for finding in slow} == {Severity.WARNING}
    assert not found(Inside(SixAxes()), "1x3x8x8", "torchscript-lite", "rank")


def test_windows_that_fusion_writes_in_four_axes_are_nothing_to_find() -> None:
    for target in ("coreml", "executorch"):
        assert not found(Inside(Windows()), "1x3x8x8", target, "rank")


def test_what_xnnpack_does_not_take_is_named() -> None:
    (finding,) = found(Inside(Cumulative()), "1x3x8x8", "executorch", "delegation")
    assert (finding.severity, finding.module, finding.operators) == (Severity.WARNING, "part", {"cumsum": 1})
    assert not found(Inside(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU())), "1x3x8x8", "executorch", "delegation")


def test_data_dependent_accesses_are_named() -> None:
    for target in ("coreml", "onnx", "executorch"):
        assert any("topk" in finding.operators for finding in found(Best(), "1x3x8x8", target, "delegation")), target


def test_a_patch_embedding_with_a_large_stride_is_named() -> None:
    patches = Inside(nn.Conv2d(3, 8, 16, stride=16))
    (finding,) = found(patches, "1x3x32x32", "coreml", "kernels")
    assert (finding.module, finding.operators) == ("part", {"conv2d": 1})
    assert "training" in finding.fix
    assert not found(Inside(nn.Conv2d(3, 8, 3, stride=2)), "1x3x32x32", "coreml", "kernels")
    assert not found(Inside(nn.Conv2d(3, 8, 9, stride=1)), "1x3x32x32", "coreml", "kernels")


def test_what_is_not_prepacked_is_named() -> None:
    assert [f.module for f in found(Inside(nn.Conv1d(3, 8, 3)), "1x3x8", "torchscript-lite", "kernels")] == ["part"]
    same = Inside(nn.Conv2d(3, 8, 3, padding="same"))  # which capture writes in pixels
    assert not found(same, "1x3x8x8", "torchscript-lite", "kernels")


def test_activations_are_named_where_they_are_slow() -> None:
    model = Inside(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 4, 3), nn.Hardswish()))
    assert [f.module for f in found(model, "1x3x8x8", "torchscript-lite", "activations")] == ["part.1"]
    assert [f.module for f in found(model, "1x3x8x8", "coreml", "activations")] == ["part.3"]
    assert not found(model, "1x3x8x8", "onnx", "activations")


class Transposing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(2, 3).softmax(3)


def test_memory_that_is_only_moved_is_measured() -> None:
    (finding,) = found(Inside(Transposing()), "1x16x128x128", "onnx", "layout")
    assert finding.bytes == 2 * 4 * 16 * 128 * 128  # read and written
    assert not found(Inside(Transposing()), "1x16x32x32", "onnx", "layout")
    assert not found(Inside(Transposing()), "1x256x512x1", "onnx", "layout")


def test_a_model_that_deploys_has_nothing() -> None:
    parts = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    assert lint(load_model(Inside(parts), input_size="1x3x16x16")) == []


def test_errors_come_first() -> None:
    order = [
        Severity(finding.severity) for finding in lint(load_model(Inside(Windows()), input_size="1x3x8x8"), ["coreml"])
    ]
    assert order == sorted(order, key=list(Severity).index)


@pytest.mark.skipif(find_executorch() is None, reason="executorch is not installed")
def test_the_operators_of_xnnpack_are_those_of_its_partitioner() -> None:
    import executorch.backends.xnnpack.partition as package

    named = set()
    for file in Path(package.__path__[0], "config").glob("*.py"):
        named |= set(re.findall(r'target_name = "(\w+)\.', file.read_text()))
    quantizing = {name for name in named if "quantize" in name or "qparams" in name}
    plain = {name.removesuffix("_copy") for name in named - quantizing} - {"_clone_dim_order", "_to_dim_order"}
    assert plain == XNNPACK


def test_lint_reads_a_graph_and_leaves_it() -> None:
    loaded = load_tiny()
    before = [torch.clone(value) for value in loaded.module.state_dict().values()]
    lint(loaded, ["executorch"])
    assert all(value.equal(old) for value, old in zip(loaded.module.state_dict().values(), before))
