"""What lint says of small models that have one thing wrong each, and of models that have nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from deploy_kit.errors import ExportError
from deploy_kit.exporters.executorch import find_executorch
from deploy_kit.lint import Finding, Severity, lint
from deploy_kit.lint.delegation import XNNPACK
from deploy_kit.sources import load_model
from tests.support import export_to, load_tiny


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


class ManyAxes(nn.Module):
    """Sums over all of so many axes but the first."""

    def __init__(self, axes: int):
        super().__init__()
        self.shape = (1, 3, *[2] * (axes - 2))

    def forward(self, x: Tensor) -> Tensor:
        cut = x.flatten()[: math.prod(self.shape)].reshape(self.shape)
        return (cut * cut.softmax(2)).amax(tuple(range(2, len(self.shape))))


@pytest.mark.parametrize(("target", "severity"), [("tensorrt", Severity.ERROR), ("openvino", Severity.WARNING)])
def test_rank_9_is_too_much_for_gpus(target: str, severity: Severity) -> None:
    (finding,) = found(Inside(ManyAxes(9)), "1x3x16x16", target, "rank")
    assert (finding.severity, finding.module) == (severity, "part")
    assert "8" in finding.message
    assert not found(Inside(ManyAxes(8)), "1x3x16x16", target, "rank")


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


class Call(nn.Module):
    """A model that is one function."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def numbers(x: Tensor) -> Tensor:
    """Integers that depend on the input."""
    return (x * 7).to(torch.int32)


REFUSED_BY_TENSORRT: dict[str, Callable[[Tensor], Tensor]] = {
    "fft_rfft2": lambda x: torch.fft.rfft2(x).real,
    "fft_fftn": lambda x: torch.fft.fftn(x).real,
    "_unique2": lambda x: torch.unique(x),
    "linalg_det": lambda x: torch.linalg.det(x),
    "__rshift__": lambda x: (numbers(x) >> 1) * 1.0,
    "__and__": lambda x: (numbers(x) & 3) * 1.0,
    "multinomial": lambda x: x.flatten(1).softmax(1).multinomial(3) * 1.0,
    "bernoulli": lambda x: torch.bernoulli(x.sigmoid()),
    "col2im": lambda x: nn.functional.fold(nn.functional.unfold(x, 2, stride=2) * 2, (8, 8), 2, stride=2),
    "scatter_add": lambda x: torch.zeros_like(x).scatter_add(3, (x.sigmoid() * 7).long(), x),
    "scatter_reduce": lambda x: torch.zeros_like(x).scatter_reduce(3, (x.sigmoid() * 7).long(), x, "sum"),
    "_upsample_bilinear2d_aa": lambda x: nn.functional.interpolate(
        x, scale_factor=0.5, mode="bilinear", antialias=True
    ),
    "max_pool2d_with_indices": lambda x: nn.functional.max_pool2d(x, 2, return_indices=True)[1] * 1.0,
}


@pytest.mark.parametrize("name", REFUSED_BY_TENSORRT)
def test_what_tensorrt_s_parser_refuses_is_named(name: str) -> None:
    model = Inside(Call(REFUSED_BY_TENSORRT[name]))
    (finding,) = found(model, "1x3x8x8", "tensorrt", "parser")
    assert (finding.severity, finding.module, finding.operators) == (Severity.ERROR, "part", {name: 1})
    assert finding.fix
    assert not found(model, "1x3x8x8", "onnx", "parser")


@pytest.mark.parametrize("name", REFUSED_BY_TENSORRT)
def test_tensorrt_s_parser_does_refuse_it(name: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    graph = load_model(Inside(Call(REFUSED_BY_TENSORRT[name])), input_size="1x3x8x8")
    with pytest.raises(ExportError, match="TensorRT"):
        export_to(tmp_path, graph, "tensorrt")


TAKEN_BY_TENSORRT: dict[str, Callable[[Tensor], Tensor]] = {
    "masks": lambda x: x * ((x > 0) & ~(x > 1)),
    "pooling": lambda x: nn.functional.max_pool2d(x, 2),
    "pooling without the indices": lambda x: nn.functional.max_pool2d(x, 2, return_indices=True)[0],
    "resizing": lambda x: nn.functional.interpolate(x, scale_factor=0.5, mode="bilinear"),
    "topk": lambda x: x.flatten(1).topk(3).values,
}


@pytest.mark.parametrize("name", TAKEN_BY_TENSORRT)
def test_what_tensorrt_s_parser_takes_is_not_named(name: str) -> None:
    assert not found(Inside(Call(TAKEN_BY_TENSORRT[name])), "1x3x8x8", "tensorrt", "parser")


def test_a_patch_embedding_with_a_large_stride_is_named() -> None:
    patches = Inside(nn.Conv2d(3, 8, 16, stride=16))
    (finding,) = found(patches, "1x3x32x32", "coreml", "kernels")
    assert (finding.module, finding.operators) == ("part", {"conv2d": 1})
    assert "training" in finding.fix
    assert not found(Inside(nn.Conv2d(3, 8, 3, stride=2)), "1x3x32x32", "coreml", "kernels")
    assert not found(Inside(nn.Conv2d(3, 8, 9, stride=1)), "1x3x32x32", "coreml", "kernels")


def test_poolformer_s_stem_is_named_and_resnet_s_is_not() -> None:
    stem = Inside(nn.Conv2d(3, 8, 7, stride=4, padding=2))
    assert [f.module for f in found(stem, "1x3x32x32", "executorch", "kernels")] == ["part"]
    assert not found(Inside(nn.Conv2d(3, 8, 7, stride=2, padding=3)), "1x3x32x32", "executorch", "kernels")
    assert not found(Inside(nn.Conv2d(3, 8, 4, stride=4)), "1x3x32x32", "executorch", "kernels")


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
