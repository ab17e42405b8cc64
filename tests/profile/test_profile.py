"""A tiny model, profiled in each of the real runtimes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import deploy_kit.profile
from deploy_kit.api import fuse
from deploy_kit.artifact import Artifact, open_artifact
from deploy_kit.errors import ExportError, MissingDependencyError, UserError
from deploy_kit.exporters import get_exporter
from deploy_kit.outcome import Outcome
from deploy_kit.profile import Profile, profile, summarise
from deploy_kit.profile.bytecode import Call, read_code
from deploy_kit.profile.roofline import Peaks
from deploy_kit.profile.runtimes import OperatorTime, Timed, require_profiler
from deploy_kit.sources import load_model
from deploy_kit.statistics import count
from tests.support import TINY, TINY_SIZE, export_to, once

MODULES = {"stem", "local.conv", "norm", "fc1", "fc2", "head", ""}
PEAKS = Peaks(gflops=200.0, gbytes=20.0, products_by="torch")


@pytest.fixture(scope="session")
def tiny_openvino(shared: Path) -> Artifact:
    pytest.importorskip("openvino")
    loaded = load_model(TINY, input_size=TINY_SIZE)
    folder = once(shared, "profiled_openvino", lambda out: export_to(out, loaded, "openvino"))
    return open_artifact(folder / "tests.support.tiny" / "openvino")


@pytest.fixture(scope="module")
def profiled(request: pytest.FixtureRequest) -> Callable[[str], Profile]:
    """The tiny model's profile by the name of its artifact's fixture, taken once; peaks are not measured."""
    taken: dict[str, Profile] = {}

    def take(name: str) -> Profile:
        if name not in taken:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(deploy_kit.profile, "measure_peaks", lambda threads: PEAKS)
                taken[name] = profile(request.getfixturevalue(name), iterations=3)
        return taken[name]

    return take


ALL = ("tiny_onnx", "tiny_openvino", "tiny_lite")
NAMED = ("tiny_onnx", "tiny_openvino")


@pytest.mark.parametrize("name", ALL)
def test_shares_are_of_all_operators(profiled: Callable[[str], Profile], name: str) -> None:
    found = profiled(name)
    for parts in (found.kinds, found.by_operator, found.by_module):
        assert sum(part.share or 0 for part in parts) == pytest.approx(1)
        assert sum(part.ms for part in parts) == pytest.approx(found.operators_ms)
        assert sum(part.calls for part in parts) == found.total.calls
    assert found.memory_bound_share == pytest.approx(1 - found.compute_share)
    assert 0 < found.compute_share <= 1  # 1 where the runtime's clock reads 0 for all that is small
    assert found.plain_ms > 0
    assert found.profiled_ms > 0


@pytest.mark.parametrize("name", ALL)
def test_every_operator_is_classified(profiled: Callable[[str], Profile], name: str) -> None:
    found = profiled(name)
    assert [operator.operator for operator in found.operators if operator.kind == "other"] == []
    kinds = {part.name for part in found.kinds}
    assert {"compute"} <= kinds <= {"compute", "layout", "normalisation", "elementwise", "reduction"}


@pytest.mark.parametrize("name", ALL)
def test_operators_have_the_modules_and_the_arithmetic_of_the_fused_graph(
    profiled: Callable[[str], Profile], name: str
) -> None:
    found = profiled(name)
    graph = fuse(load_model(TINY, input_size=TINY_SIZE), found.target).after
    compute = {operator.module: operator.macs for operator in found.operators if operator.kind == "compute"}
    assert compute == {
        "stem": 8 * 8 * 8 * 48,
        "local.conv": 8 * 64 * 9,
        "fc1": 64 * 8 * 16,
        "fc2": 128 if name == "tiny_lite" else 64 * 128,  # there the mean is taken first
        "head": 80,
    }
    assert sum(operator.macs or 0 for operator in found.operators) == count(graph).macs == found.total.macs
    assert {part.name for part in found.by_module} - {None} == MODULES
    (norm,) = (part for part in found.by_module if part.name == "norm")
    kinds = {operator.kind for operator in found.operators if operator.module == "norm"}
    assert "normalisation" in kinds
    if name != "tiny_lite":  # whose LayerNorm makes tensors and views, which have their own times
        assert kinds == {norm.kind} == {"normalisation"}
    assert found.without_module_share is not None
    assert found.without_module_share < 1


@pytest.mark.parametrize("name", NAMED)
def test_bytes_are_those_of_inputs_weights_and_outputs(profiled: Callable[[str], Profile], name: str) -> None:
    (fc1,) = (operator for operator in profiled(name).operators if operator.module == "fc1" and operator.macs)
    assert fc1.bytes == 4 * (64 * 8 + 8 * 16 + 16 + 64 * 16)
    assert profiled(name).total.bytes == sum(operator.bytes or 0 for operator in profiled(name).operators)


def test_a_reshape_of_onnxruntime_moves_nothing(profiled: Callable[[str], Profile]) -> None:
    reshapes = [operator for operator in profiled("tiny_onnx").operators if operator.operator == "Reshape"]
    assert reshapes
    assert {operator.bytes for operator in reshapes} == {0}


def test_the_mobile_interpreter_s_calls_have_the_arithmetic_and_the_bytes_of_the_graph_s(
    profiled: Callable[[str], Profile],
) -> None:
    found = profiled("tiny_lite")
    assert found.without_module_share == 0
    calls = {part.name: part.calls for part in found.by_operator}
    assert calls["aten::gelu_"] == calls["aten::layer_norm"] == 1
    (fc1,) = (operator for operator in found.operators if operator.module == "fc1" and operator.macs)
    assert fc1.bytes == 4 * (64 * 8 + 8 * 16 + 16 + 64 * 16)
    compute = [part for part in (*found.kinds, *found.by_operator) if part.kind == "compute"]
    assert len(compute) > 1
    assert all(part.rates.of_roofline for part in compute if part.ms)  # the clock reads 0 for what is small
    assert found.total.bytes is None
    assert any("layout operators" in note for note in found.notes)


def test_calls_that_the_file_s_code_does_not_have_are_of_no_module(
    tiny_lite: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = read_code(tiny_lite.main_file)
    other = replace(code, calls=[Call("aten::relu", ()), *code.calls[1:]])
    monkeypatch.setattr(deploy_kit.profile, "measure_peaks", lambda threads: PEAKS)
    monkeypatch.setattr("deploy_kit.profile.runtimes.read_code", lambda file: other)
    found = profile(tiny_lite, iterations=1)
    assert {operator.module for operator in found.operators} == {None}
    assert {operator.macs for operator in found.operators if operator.kind == "compute"} == {None}
    assert found.total.macs == found.kinds[0].macs == 37584
    assert any("the interpreter called other operators" in note for note in found.notes)


def test_attention_and_transposed_convolutions_are_attributed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy_kit.profile, "measure_peaks", lambda threads: PEAKS)
    loaded = load_model("tests.support:everything", input_size=TINY_SIZE)
    artifact = export_to(tmp_path, loaded, "onnx", simplify=False)
    found = profile(artifact, loaded=loaded, iterations=2)
    assert sum(operator.macs or 0 for operator in found.operators) == found.total.macs
    assert all(operator.macs for operator in found.operators if operator.kind == "compute")
    modules = {operator.module for operator in found.operators if operator.kind == "compute"}
    assert modules >= {"stem.0", "depthwise", "qkv", "proj", "up", "mix", "head"}


def test_a_reduced_precision_has_no_share_of_float32_s_roofline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploy_kit.profile, "measure_peaks", lambda threads: PEAKS)
    loaded = load_model(TINY, input_size=TINY_SIZE)
    artifact = export_to(tmp_path, loaded, "onnx", simplify=False, precision="fp16")
    found = profile(artifact, loaded=loaded, iterations=2)
    assert {part.rates.of_roofline for part in (found.total, *found.kinds)} == {None}
    assert any("the peak is of float32" in note for note in found.notes)
    assert sum(operator.macs or 0 for operator in found.operators) == found.total.macs


@pytest.mark.parametrize("target", ["executorch", "coreml", "tensorrt"])
def test_targets_without_a_profiler_say_why(target: str) -> None:
    with pytest.raises(MissingDependencyError, match=f"the target {target} cannot be profiled: ") as error:
        require_profiler(get_exporter(target))
    assert error.value.outcome == Outcome.UNAVAILABLE
    assert "onnx" in error.value.fix


def test_a_target_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy_kit.exporters.openvino.find_openvino", lambda: None)
    with pytest.raises(MissingDependencyError, match="needs openvino") as error:
        require_profiler(get_exporter("openvino"))
    assert "pip install" in error.value.fix


def test_a_prepacked_file_needs_an_interpreter_with_xnnpack(
    tiny_lite: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deploy_kit.exporters.mobile import interpreter

    if not tiny_lite.manifest.details["prepacked"]:
        pytest.skip("no interpreter here prepacks")
    monkeypatch.setattr(interpreter, "_system_pythons", lambda: iter(()))
    monkeypatch.delenv(interpreter.VARIABLE, raising=False)
    with pytest.raises(UserError, match="prepacked"):
        profile(tiny_lite, iterations=1)


def test_a_worker_that_fails_is_an_error(tiny_onnx: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "worker.py").write_text("raise SystemExit('the file cannot be loaded: torn')")
    monkeypatch.setattr("deploy_kit.exporters.onnx_file.WORKER", tmp_path / "worker.py")
    with pytest.raises(ExportError, match="torn") as error:
        profile(tiny_onnx, iterations=1)
    assert error.value.outcome == Outcome.LOAD_FAILED


def test_inferences_that_take_far_longer_than_their_operators_are_noted() -> None:
    def interrupted(ms: float) -> list[str]:
        timed = Timed("onnxruntime", [OperatorTime("Conv", "stem", "compute", 1, 1.0, 8, 8)], ms, 5.0, [])
        exporter = get_exporter("onnx")
        graph = fuse(load_model(TINY, input_size=TINY_SIZE), "onnx").after
        return summarise("tiny", exporter, exporter.options_type(), timed, graph, PEAKS, 1, 3).notes

    assert any("interrupted" in note for note in interrupted(4.0))
    assert interrupted(1.2) == []
