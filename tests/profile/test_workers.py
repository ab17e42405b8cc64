"""How the workers read what the profilers wrote, on records made by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from deploy_kit.exporters.mobile.worker import LITE_INTERPRETER, Call, _calls, _together
from deploy_kit.exporters.ort_worker import _product_macs, _timed_nodes


def event(number: int, name: str, start: float, end: float, scope: int = 0) -> SimpleNamespace:
    return SimpleNamespace(id=number, name=name, time_range=SimpleNamespace(start=start, end=end), scope=scope)


def test_an_operator_s_own_time_leaves_out_what_it_calls() -> None:
    events = [
        event(0, "aten::layer_norm", 0, 100, LITE_INTERPRETER),
        event(1, "aten::native_layer_norm", 10, 95),
        event(2, "aten::copy_", 20, 50),
        event(3, "aten::gelu_", 100, 130, LITE_INTERPRETER),
        event(4, "aten::copy_", 130, 140, LITE_INTERPRETER),
    ]
    assert _calls(events) == [
        ("aten::layer_norm", {"aten::layer_norm": (1, 15), "aten::native_layer_norm": (1, 55), "aten::copy_": (1, 30)}),
        ("aten::gelu_", {"aten::gelu_": (1, 30)}),
        ("aten::copy_", {"aten::copy_": (1, 10)}),
    ]


def test_two_events_of_one_call_in_the_same_microseconds_count_once() -> None:
    events = [
        event(2, "aten::fill_", 9, 9),
        event(1, "aten::gelu_", 5, 9),
        event(0, "aten::gelu_", 5, 9, LITE_INTERPRETER),
        event(3, "aten::gelu_", 9, 9, LITE_INTERPRETER),
        event(4, "aten::gelu_", 9, 9),
    ]
    assert _calls(events) == [
        ("aten::gelu_", {"aten::gelu_": (1, 4), "aten::fill_": (1, 0)}),
        ("aten::gelu_", {"aten::gelu_": (1, 0)}),
    ]


def test_calls_have_a_time_for_each_inference() -> None:
    first: list[Call] = [("aten::mean", {"aten::mean": (1, 5), "aten::sum": (2, 3)})]
    second: list[Call] = [("aten::mean", {"aten::mean": (1, 4)})]
    assert _together([first, second]) == [
        {
            "operator": "aten::mean",
            "parts": [
                {"operator": "aten::mean", "calls": 1, "us": [5, 4]},
                {"operator": "aten::sum", "calls": 2, "us": [3, 0.0]},
            ],
        }
    ]
    with pytest.raises(SystemExit, match="cannot be profiled"):
        _together([first, [("aten::sum", {"aten::sum": (1, 4)})]])


def test_openvino_s_means_of_all_inferences_become_those_after_the_warm_up() -> None:
    pytest.importorskip("openvino")
    from deploy_kit.exporters.openvino_worker import _later_mean

    warm, timed = [251, 7, 3], [4, 6, 5, 5]
    assert _later_mean(sum(warm) / 3, 3, sum(warm + timed) / 7, 7) == pytest.approx(5)


def facts(op_name: str, left: list[int], result: list[int]) -> dict[str, Any]:
    return {
        "op_name": op_name,
        "node_index": "3",
        "activation_size": "8",
        "output_size": "4",
        "parameter_size": "2",
        "input_type_shape": [{"float": left}, {"float": [1]}],
        "output_type_shape": [{"float": result}],
    }


def test_runs_of_the_warm_up_are_left_out_and_each_node_has_a_time_for_every_other() -> None:
    run = {"name": "model_run", "cat": "Session", "dur": 50}
    times = [900, 5, 7]
    events: list[dict[str, Any]] = [{"name": "session_initialization", "cat": "Session", "dur": 1000}]
    for microseconds in times:
        timed = {"name": "node_add_kernel_time", "cat": "Node", "dur": microseconds, "args": facts("Add", [2], [1])}
        events += [timed, run]
    (node,) = _timed_nodes(events, warmup=1)
    assert node["us"] == [5, 7]
    assert (node["operator"], node["names"], node["bytes"], node["parameter_bytes"]) == ("Add", ["node_add"], 12, 2)


@pytest.mark.parametrize(
    ("op_name", "left", "result", "macs"),
    [
        ("Gemm", [64, 8], [64, 16], 64 * 8 * 16),
        ("MatMul", [2, 4, 10, 8], [2, 4, 10, 12], 2 * 4 * 10 * 8 * 12),
        ("FusedMatMul", [2, 8, 10], [2, 10, 12], 2 * 10 * 8 * 12),
        ("FusedMatMul", [2, 8, 10], [2, 9, 12], None),
        ("MatMul", [8], [4], None),
        ("Conv", [1, 3, 8, 8], [1, 4, 8, 8], None),
    ],
)
def test_products_are_counted_by_their_shapes(
    op_name: str, left: list[int], result: list[int], macs: int | None
) -> None:
    assert _product_macs(facts(op_name, left, result)) == macs
