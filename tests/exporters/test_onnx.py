from __future__ import annotations

import errno
import platform
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from deploy_kit.artifact import Artifact, open_artifact
from deploy_kit.capture import capture
from deploy_kit.errors import DeployKitError, ExportError, UserError
from deploy_kit.exporters import onnx as target
from deploy_kit.exporters import onnx_file, ort_worker
from deploy_kit.exporters.onnx import FILE, MOBILE_FILE, REQUIRED_OPERATORS, Onnx, OnnxOptions, check, simplify
from deploy_kit.exporters.onnx_file import NEWEST_OPSET, OLDEST_OPSET
from deploy_kit.exporters.onnx_optimizer import optimize
from deploy_kit.outcome import Outcome
from deploy_kit.sources import LoadedModel, load_model
from tests.support import TINY, TINY_SIZE, Bench, TwoInputs, export_to, load_tiny, once, random, tiny


def test_the_file_is_valid_and_its_operators_are_counted(tiny_onnx: Artifact) -> None:
    onnx.checker.check_model(str(tiny_onnx.main_file), full_check=True)
    assert tiny_onnx.manifest.operators["Conv"] == 2
    assert "BatchNormalization" not in tiny_onnx.manifest.operators
    assert tiny_onnx.manifest.proof.verified_by == f"onnxruntime {onnxruntime.__version__}"


def test_it_computes_what_the_model_computes(tiny_onnx: Artifact) -> None:
    image = torch.randn(1, 3, 32, 32)
    (output,) = onnxruntime.InferenceSession(tiny_onnx.main_file).run(["output"], {"input": image.numpy()})
    assert np.allclose(output, tiny()(image).detach().numpy(), atol=1e-5)


class Everything(nn.Module):
    """One of each operator that the models here have, among them those that old opsets lack."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16)
        self.local = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.norm, self.qkv, self.proj = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.groups = nn.ConvTranspose2d(16, 16, 2, 2), nn.GroupNorm(2, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.hardswish(self.bn(self.stem(x)))
        x = x + nn.functional.gelu(self.local(x))
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(tokens)).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4).unbind(0)
        attended = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = (tokens + self.proj(attended)).transpose(1, 2).unflatten(2, (8, 8))
        x = nn.functional.interpolate(self.up(nn.functional.avg_pool2d(x, 2)), scale_factor=2, mode="bilinear")
        first, second = nn.functional.pad(self.groups(x), (1, 1, 1, 1)).split([6, 10], 1)
        x = torch.cat([nn.functional.hardsigmoid(first), nn.functional.relu6(second)], 1)
        return self.head(x.mean((2, 3)))


def opset_of(artifact: Artifact) -> int:
    return {entry.domain: entry.version for entry in onnx.load(artifact.folder / FILE).opset_import}[""]


@pytest.mark.parametrize("opset", [OLDEST_OPSET, 17, NEWEST_OPSET])
def test_old_and_new_opsets_are_written_and_proven(opset: int, tmp_path: Path) -> None:
    loaded = load_model(random(Everything()), input_size="1x3x16x16")
    artifact = export_to(tmp_path, loaded, "onnx", opset=opset, simplify=False, dynamic_batch=True)
    assert opset_of(artifact) == opset
    assert artifact.manifest.details["opset"] == opset
    assert artifact.manifest.proof.passed
    assert "noise, batch of 3" in [case.case for case in artifact.manifest.proof.cases]
    assert ("LayerNormalization" in artifact.manifest.operators) == (opset >= 17)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["edgevit_xxs", "everything"])
@pytest.mark.parametrize("opset", range(OLDEST_OPSET, NEWEST_OPSET + 1))
def test_every_opset_is_written_and_proven(opset: int, model: str, tmp_path: Path) -> None:
    source: LoadedModel = (
        load_model(model, input_size="1x3x64x64")
        if model == "edgevit_xxs"
        else load_model(random(Everything()), input_size="1x3x16x16")
    )
    artifact = export_to(tmp_path, source, "onnx", opset=opset)
    assert opset_of(artifact) == opset
    assert artifact.manifest.proof.passed


def test_an_old_opset_is_in_the_format_of_its_time(tmp_path: Path) -> None:
    onnx_file.convert(capture(tiny(), (torch.randn(1, 3, 32, 32),)), tmp_path / FILE, 13)
    assert onnx.load(tmp_path / FILE).ir_version == 7


class NearlyNothing(nn.Module):
    """Sums with numbers near 0 and products with numbers near 1, and none of those."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return x / (x.abs() + 1e-15), 1 / (x.abs() - -1e-15), x * 1.000005, x / 1.000005


def test_numbers_near_nothing_are_kept(tmp_path: Path) -> None:
    onnx_file.convert(capture(NearlyNothing(), (torch.randn(1, 6),)), tmp_path / FILE, 20)
    x = torch.tensor([[0.0, 0.0, 1e-15, -2e-15, 1.0, -3.0]])
    session = onnxruntime.InferenceSession(tmp_path / FILE)
    for output, exact in zip(session.run(None, {"input": x.numpy()}), NearlyNothing()(x.double())):
        assert np.allclose(output, exact, rtol=3e-7, atol=0)


def test_the_optimizer_does_all_else_that_onnxscript_does() -> None:
    example = (torch.randn(1, 3, 16, 16),)
    module = capture(random(Everything()), example).module
    options = {"dynamo": True, "verbose": False, "opset_version": 20}
    ours, theirs = (torch.onnx.export(module, example, optimize=theirs, **options).model for theirs in (False, True))
    before = len(ours.graph)
    optimize(ours)
    assert Counter(node.op_type for node in ours.graph) == Counter(node.op_type for node in theirs.graph)
    assert len(ours.graph) < before


class Chunk(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        first, second, third = x.chunk(3, 1)
        return torch.cat([third, second, first], 1)


class Largest(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.amax((1, 3)) - x.amin(2, keepdim=True).mean((1, 3))


class Size(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], -1)


class HalfNorm(nn.Module):
    """A norm in fp16 of values whose squares fp16 cannot hold."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x.half() * 300, (4, 5), eps=1e-3).float()


@pytest.mark.parametrize("model", [Chunk(), Largest(), Size(), HalfNorm()], ids=lambda model: type(model).__name__)
def test_an_operator_that_an_old_opset_has_otherwise_is_restated(model: nn.Module, tmp_path: Path) -> None:
    x = torch.randn(2, 7, 4, 5, generator=torch.Generator().manual_seed(0))
    onnx_file.convert(capture(model.eval(), (x,), dynamic_batch=True), tmp_path / FILE, 13)
    check(tmp_path / FILE)
    ran = onnx_file.run_file(tmp_path / FILE, [(x,)])
    assert ran.outputs is not None
    assert torch.allclose(ran.outputs[0][0], model(x), atol=1e-2 if isinstance(model, HalfNorm) else 1e-6)


class Sample(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.grid_sample(x, x[:, :2].permute(0, 2, 3, 1), align_corners=False)


def test_an_operator_that_an_old_opset_lacks_is_named_with_the_oldest_that_has_it(tmp_path: Path) -> None:
    graph = capture(Sample().eval(), (torch.randn(1, 3, 4, 4),))
    with pytest.raises(ExportError, match=r"GridSample has no form in ONNX's opset 15, only from 16 on") as caught:
        onnx_file.convert(graph, tmp_path / FILE, 15)
    assert "--opset of at least 16" in caught.value.fix
    onnx_file.convert(graph, tmp_path / FILE, 16)
    assert check(tmp_path / FILE)["GridSample"] == 1


@pytest.mark.parametrize("opset", [OLDEST_OPSET - 1, NEWEST_OPSET + 1])
def test_other_opsets_are_refused(opset: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--opset"):
        export_to(tmp_path, load_tiny(), "onnx", opset=opset)


@pytest.fixture(scope="session")
def mobile(shared: Path) -> Artifact:
    loaded = load_model(TINY, input_size=TINY_SIZE)
    folder = once(shared, "ort_format", lambda out: export_to(out, loaded, "onnx", ort_format=True, simplify=False))
    return open_artifact(folder / "tests.support.tiny" / "onnx")


def test_the_file_for_mobile_builds_is_what_is_proven(mobile: Artifact, tmp_path: Path) -> None:
    assert mobile.main_file.name == MOBILE_FILE
    assert {file.path for file in mobile.manifest.files} == {FILE, MOBILE_FILE, REQUIRED_OPERATORS}
    assert mobile.manifest.outcome == Outcome.OK
    onnx.checker.check_model(str(mobile.folder / FILE))
    assert Bench(load_tiny(), "onnx", ort_format=True).prove(mobile.main_file).passed
    assert not Bench(load_tiny(seed=1), "onnx", ort_format=True).prove(mobile.main_file).passed


def test_the_required_operators_are_those_of_the_file(mobile: Artifact) -> None:
    from onnxruntime.tools.reduced_build_config_parser import parse_config

    listed, types = parse_config(str(mobile.folder / REQUIRED_OPERATORS), True)
    required = {f"{d};{o};{name}" for d, opsets in listed.items() for o, names in opsets.items() for name in names}
    assert required == set(mobile.manifest.details["ort_format"]["required_operators"])
    assert {name.rpartition(";")[2] for name in required} == set(mobile.manifest.operators)
    assert "com.microsoft.nchwc" not in listed, "a layout that no phone computes in"
    assert "FusedConv" in mobile.manifest.operators, "convolution and ReLU are one"
    assert types.is_typed_registration_needed("ai.onnx", "Gemm", "float")
    assert not types.is_typed_registration_needed("ai.onnx", "Gemm", "double")
    assert str(mobile.folder.parent) not in (mobile.folder / REQUIRED_OPERATORS).read_text()


def test_a_list_that_lacks_an_operator_is_refused(
    tiny_onnx: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxruntime.tools import convert_onnx_models_to_ort as tool

    create = tool.create_config_from_models

    def forget(models: object, config: Path, types: bool) -> None:
        create(models, config, types)
        config.write_text(config.read_text().replace("Conv", "Conf"))

    monkeypatch.setattr(tool, "create_config_from_models", forget)
    (tmp_path / FILE).write_bytes(tiny_onnx.main_file.read_bytes())
    with pytest.raises(SystemExit, match=rf"Conv .* is not in {REQUIRED_OPERATORS}"):
        ort_worker.convert({"model": str(tmp_path / FILE), "config": str(tmp_path / REQUIRED_OPERATORS)})


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors compute in fp16")
def test_half_precision_that_was_widened_again_is_told(mobile: Artifact, tmp_path: Path) -> None:
    loaded = load_model(random(nn.Linear(64, 500)), input_size="1x64")
    artifact = export_to(tmp_path, loaded, "onnx", precision="fp16", ort_format=True, simplify=False)
    assert artifact.main_file.stat().st_size > 4 * 64 * 500
    (note,) = artifact.manifest.notes
    assert "is in float32 again" in note
    assert mobile.manifest.notes == []


def large(monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    """A model whose weights do not fit into its file, because that may now hold less."""
    monkeypatch.setattr(onnx_file, "INLINE_LIMIT", 2000)
    return load_model(random(nn.Sequential(nn.Linear(6, 300), nn.ReLU(), nn.Linear(300, 4))), input_size="2x6")


@pytest.mark.parametrize("simplify", [False, True])
def test_weights_that_protobuf_cannot_hold_are_in_a_file_of_their_own(
    simplify: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "work", quicker)
    artifact = export_to(tmp_path, large(monkeypatch), "onnx", simplify=simplify)
    assert artifact.manifest.proof.passed
    assert [file.path for file in artifact.manifest.files] == [FILE, f"{FILE}.data"]
    assert artifact.main_file.stat().st_size < 10_000 < artifact.manifest.files[1].bytes
    if simplify:
        assert artifact.manifest.details["simplified"]["kept"] is True
    artifact.main_file.with_name(f"{FILE}.data").write_bytes(b"other weights")
    with pytest.raises(UserError, match="changed after it was proven"):
        open_artifact(artifact.folder)


def test_a_file_of_weights_is_written_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = large(monkeypatch)
    first, second = (export_to(tmp_path / out, loaded, "onnx", simplify=False).manifest.files for out in "ab")
    assert first == second


def test_the_format_for_mobile_builds_holds_no_file_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExportError, match="no more than 2 GB") as caught:
        export_to(tmp_path, large(monkeypatch), "onnx", simplify=False, ort_format=True)
    assert caught.value.outcome == Outcome.LOWER_FAILED
    assert "--ort-format" in caught.value.fix


def test_a_free_batch_takes_any_batch(tmp_path: Path) -> None:
    artifact = export_to(tmp_path, load_tiny(), "onnx", dynamic_batch=True, simplify=True)
    session = onnxruntime.InferenceSession(artifact.main_file)
    images = torch.randn(5, 3, 32, 32)
    for batch in (1, 3, 5):
        (output,) = session.run(None, {"input": images[:batch].numpy()})
        assert np.allclose(output, tiny()(images[:batch]).detach().numpy(), atol=1e-5)
    manifest = artifact.manifest
    assert [tensor.shape for tensor in (*manifest.inputs, *manifest.outputs)] == [[None, 3, 32, 32], [None, 10]]
    assert "noise, batch of 3" in [case.case for case in manifest.proof.cases]


class Apart(nn.Module):
    """Every image by itself; ``Mixed`` is the same for one image, and not for three."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) + 1


class Mixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) + x.mean((2, 3)).softmax(0) * x.shape[0]


def test_a_batch_that_is_computed_wrongly_is_caught(tmp_path: Path) -> None:
    apart, mixed = (load_model(model, input_size=TINY_SIZE) for model in (Apart(), Mixed()))
    wrong = export_to(tmp_path, mixed, "onnx", dynamic_batch=True, simplify=False)
    failures = Bench(apart, "onnx", dynamic_batch=True).prove(wrong.main_file).failures
    assert [failure.split(":")[0] for failure in failures] == ["noise, batch of 3"]


def test_inputs_and_outputs_keep_their_order(tmp_path: Path) -> None:
    model = random(TwoInputs())
    artifact = export_to(tmp_path, load_model(model, input_size="2x6,2x5"), "onnx", simplify=False)
    session = onnxruntime.InferenceSession(artifact.main_file)
    assert [given.name for given in session.get_inputs()] == ["input_0", "input_1"]
    x, y = torch.randn(2, 6), torch.randn(2, 5)
    total, others = model(x, y)
    outputs = session.run(None, {"input_0": x.numpy(), "input_1": y.numpy()})
    for output, expected in zip(outputs, (total, others["square"], others["x"]), strict=True):
        assert np.allclose(output, expected.detach().numpy(), atol=1e-5)


class Unexportable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x[:, 0]).real


def test_an_operator_without_an_onnx_form_is_named_with_its_source_line(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        export_to(tmp_path, load_model(Unexportable(), input_size="1x3x8x8"), "onnx")
    message = str(caught.value)
    assert message.startswith("Unexportable for onnx: ")
    assert "aten.linalg_eig" in message
    assert "test_onnx.py" in message
    assert "torch.linalg.eigvals(x[:, 0]).real" in message
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


class DataDependent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_control_flow_that_cannot_be_followed_is_named_with_its_source_line(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"test_onnx\.py.*if x\.sum\(\) > 0"):
        export_to(tmp_path, load_model(DataDependent(), input_size="1x3x8x8"), "onnx")


def test_whether_simplification_was_kept_is_recorded(tmp_path: Path) -> None:
    simplified = export_to(tmp_path, load_tiny(), "onnx").manifest.details["simplified"]
    assert isinstance(simplified["kept"], bool)
    assert simplified["reason"]
    assert simplified["time_ratio"] > 0


WORK = onnx_file.work


def quicker(job: dict[str, Any], failure: str, outcome: Outcome) -> dict[str, Any]:
    """The worker, in which simplified models always have fewer operators and are quicker."""
    result = WORK(job, failure, outcome)
    better = {"seconds": {"plain": [1.0], "simplified": [0.5]}, "operators": {"plain": 9, "simplified": 8}}
    return result | better if job["do"] == "bench" else result


def forget_a_weight(job: dict[str, Any]) -> bool:
    model = onnx.load(job["model"])
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
    onnx.save(model, job["target"])
    return True


def unhappy(job: dict[str, Any]) -> bool:
    raise ExportError("onnxsim failed: onnxsim is unhappy")


@pytest.mark.parametrize(
    ("simplifier", "reason"),
    [
        (forget_a_weight, "its outputs differ"),
        (lambda job: False, "could not confirm"),
        (lambda job: Path(job["target"]).write_text("rubbish") > 0, "could not be compared: the file cannot be loaded"),
        (unhappy, "onnxsim failed: onnxsim is unhappy"),
    ],
)
def test_a_simplification_that_is_wrong_is_not_kept(
    simplifier: Callable[[dict[str, Any]], bool],
    reason: str,
    tiny_onnx: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def work(job: dict[str, Any], failure: str, outcome: Outcome) -> dict[str, Any]:
        return {"confirmed": simplifier(job)} if job["do"] == "simplify" else WORK(job, failure, outcome)

    file = tmp_path / "model.onnx"
    file.write_bytes(tiny_onnx.main_file.read_bytes())
    monkeypatch.setattr(target, "work", work)
    result = simplify(file, (torch.randn(1, 3, 32, 32),))
    assert result["kept"] is False
    assert reason in result["reason"]
    assert file.read_bytes() == tiny_onnx.main_file.read_bytes()


@pytest.mark.parametrize(
    ("operators", "seconds", "kept"), [(8, 2.0, False), (8, 1.05, True), (8, 0.5, True), (9, 0.5, False)]
)
def test_a_simplification_is_kept_only_where_there_is_less_and_it_is_not_slower(
    operators: int, seconds: float, kept: bool, tiny_onnx: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(job: dict[str, Any], failure: str, outcome: Outcome) -> dict[str, Any]:
        if job["do"] == "simplify":
            Path(job["target"]).write_bytes(b"simpler")
            return {"confirmed": True}
        return {
            "seconds": {"plain": [1.0, 9.0], "simplified": [seconds, 9.0]},
            "difference": {"plain": 0, "simplified": 0.0},
            "operators": {"plain": 9, "simplified": operators},
        }

    file = tmp_path / "model.onnx"
    file.write_bytes(tiny_onnx.main_file.read_bytes())
    monkeypatch.setattr(target, "work", work)
    assert simplify(file, (torch.randn(1, 3, 32, 32),))["kept"] is kept
    assert (file.read_bytes() == b"simpler") == kept


def test_what_onnxruntime_makes_the_same_of_is_not_simplified(tmp_path: Path) -> None:
    loaded = load_model(random(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())), input_size="1x3x8x8")
    file = export_to(tmp_path, loaded, "onnx", simplify=False).main_file
    before = file.read_bytes()
    found = simplify(file, (torch.randn(1, 3, 8, 8),))
    assert (found["kept"], found["fewer"]) == (False, 0)
    assert file.read_bytes() == before


def test_what_the_checker_refuses_is_an_error(tiny_onnx: Artifact, tmp_path: Path) -> None:
    model = onnx.load(tiny_onnx.main_file)
    model.graph.node[0].op_type = "Convolve"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="ONNX's checker refuses the file: No Op registered for Convolve") as caught:
        check(tmp_path / "model.onnx")
    assert caught.value.outcome == Outcome.EXPORT_FAILED


def crash_in(job: str, folder: Path) -> Path:
    """A worker that crashes in one of its jobs, and does the others."""
    worker = folder / "worker.py"
    worker.write_text(
        f"import json, os, sys\nif json.load(open(sys.argv[1]))['do'] == {job!r}:\n"
        "    print('last words', flush=True)\n    os.kill(os.getpid(), 11)\n"
        f"os.execv(sys.executable, [sys.executable, '-P', {str(onnx_file.WORKER)!r}, *sys.argv[1:]])"
    )
    return worker


def test_a_crash_of_onnxsim_keeps_the_plain_model_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "WORKER", crash_in("simplify", tmp_path))
    artifact = export_to(tmp_path, load_tiny(), "onnx")
    simplified = artifact.manifest.details["simplified"]
    assert simplified["kept"] is False
    assert "onnxsim failed" in simplified["reason"]
    assert "crashed with SIGSEGV: last words" in simplified["reason"]


@pytest.mark.parametrize(
    ("job", "outcome", "failure"),
    [
        ("check", Outcome.EXPORT_FAILED, "ONNX's checker failed"),
        ("convert", Outcome.LOWER_FAILED, "could not write its own format"),
        ("run", Outcome.RUN_FAILED, "onnxruntime could not run the file"),
    ],
)
def test_a_crash_elsewhere_ends_the_export_and_not_the_process(
    job: str, outcome: Outcome, failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "WORKER", crash_in(job, tmp_path))
    with pytest.raises(ExportError, match=rf"{failure}: .*SIGSEGV: last words") as caught:
        export_to(tmp_path / "out", load_tiny(), "onnx", simplify=False, ort_format=True)
    assert caught.value.outcome == outcome
    assert not (tmp_path / "out").exists()


def test_a_file_that_cannot_be_loaded_is_told_from_one_that_cannot_be_run(tiny_onnx: Artifact, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(tiny_onnx.main_file.read_bytes()[:-500])
    for file, shape, outcome in (
        (tmp_path / FILE, (1, 3, 32, 32), Outcome.LOAD_FAILED),
        (tiny_onnx.main_file, (1, 5, 32, 32), Outcome.RUN_FAILED),
    ):
        with pytest.raises(ExportError, match="onnxruntime could not run the file") as caught:
            Onnx().run(file, [(torch.zeros(shape),)], OnnxOptions(), {})
        assert caught.value.outcome == outcome


def test_a_runtime_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(onnx_file, "WORKER", worker)
    monkeypatch.setattr(onnx_file, "LIMIT", 0.5)
    with pytest.raises(ExportError, match=r"still running after 0\.5 s"):
        check(tmp_path / FILE)


@pytest.mark.parametrize("where", ["the worker", "the inputs", "the model"])
def test_a_full_disk_is_one_error(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "the worker":
        worker = tmp_path / "worker.py"
        worker.write_text("raise OSError(28, 'No space left on device')")
        monkeypatch.setattr(onnx_file, "WORKER", worker)
    else:
        monkeypatch.setattr(*((np, "savez") if where == "the inputs" else (onnx, "save")), full)
    with pytest.raises(DeployKitError, match="there is no space left") as caught:
        export_to(tmp_path / "out", load_tiny(), "onnx")
    assert "TMPDIR" in caught.value.fix
    assert not (tmp_path / "out").exists()
