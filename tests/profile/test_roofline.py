"""The roofline's arithmetic, on numbers made by hand."""

from __future__ import annotations

import pytest

from deploy_kit.profile import measure_peaks
from deploy_kit.profile.kinds import MEMORY_BOUND, TABLES, classify
from deploy_kit.profile.roofline import Peaks, Rates, rates

PEAKS = Peaks(gflops=200.0, gbytes=20.0, products_by="torch")


def test_arithmetic_bounds_work_beyond_the_ridge_and_memory_before_it() -> None:
    assert PEAKS.ridge == 10
    assert [PEAKS.bound(intensity) for intensity in (0.5, 10, 40)] == [10, 200, 200]


def test_rates_of_work_that_arithmetic_bounds() -> None:
    # 50 million multiply-accumulates are 100 MFLOP, and take 1 ms: 100 of 200 GFLOP/s; 4 MB in 1 ms: 4 GB/s
    assert rates(1.0, 50_000_000, 4_000_000, PEAKS) == Rates(100.0, 4.0, 25.0, 0.5)


def test_rates_of_work_that_memory_bounds() -> None:
    # 2 FLOP a byte: at most 40 GFLOP/s, of which it makes 10
    assert rates(2.0, 10_000_000, 10_000_000, PEAKS) == Rates(10.0, 5.0, 2.0, 0.25)


def test_work_without_arithmetic_is_compared_with_the_bandwidth() -> None:
    assert rates(1.0, 0, 5_000_000, PEAKS) == Rates(0.0, 5.0, 0.0, 0.25)


def test_what_is_not_known_stays_unknown() -> None:
    assert rates(1.0, None, 5_000_000, PEAKS) == Rates(None, 5.0, None, None)
    assert rates(1.0, 50_000_000, None, PEAKS) == Rates(100.0, None, None, None)
    assert rates(1.0, 50_000_000, 4_000_000, None).of_roofline is None
    assert rates(0.0, 50_000_000, 4_000_000, PEAKS) == Rates(None, None, None, None)


def test_the_peaks_of_this_machine_are_measured() -> None:
    peaks = measure_peaks(1)
    assert peaks.products_by in ("torch", "onnxruntime")
    assert 1 < peaks.gflops < 10_000
    assert 0.2 < peaks.gbytes < 5_000


@pytest.mark.parametrize(
    ("runtime", "operator", "kind"),
    [
        ("onnx", "Conv", "compute"),
        ("onnx", "FusedMatMul", "compute"),
        ("onnx", "ReorderInput", "layout"),
        ("onnx", "LayerNormalization", "normalisation"),
        ("onnx", "Gelu", "elementwise"),
        ("onnx", "ReduceMean", "reduction"),
        ("onnx", "Mystery", "other"),
        ("openvino", "FullyConnected", "compute"),
        ("openvino", "Reorder", "layout"),
        ("openvino", "MVN", "normalisation"),
        ("torchscript-lite", "prepacked::conv2d_clamp_run", "compute"),
        ("torchscript-lite", "aten::copy_", "layout"),
        ("torchscript-lite", "aten::native_layer_norm", "normalisation"),
        ("torchscript-lite", "aten::gelu_", "elementwise"),
        ("torchscript-lite", "quantized::conv2d_relu", "compute"),
        ("aten", "aten.conv2d.default", "compute"),
        ("aten", "aten.mean.dim", "reduction"),
    ],
)
def test_operators_are_known_by_each_runtime_s_names(runtime: str, operator: str, kind: str) -> None:
    assert classify(runtime, operator) == kind


def test_no_table_leaves_a_kind_out() -> None:
    for table in TABLES.values():
        assert set(table.values()) == {"compute", *MEMORY_BOUND}
