from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._ops import OpOverload

from deploy_kit import export, fuse
from deploy_kit.artifact import Artifact
from deploy_kit.errors import ExportError, UserError
from deploy_kit.exporters import get_exporter
from deploy_kit.exporters.mobile import interpreter
from deploy_kit.exporters.mobile.interpreter import Interpreter, find_interpreter
from deploy_kit.exporters.torchscript_lite import TorchScriptLite
from deploy_kit.graph import aten
from deploy_kit.sources import load_model
from deploy_kit.stages import Stages
from tests.support import Bench, TwoInputs, export_to, load_tiny, random


@pytest.fixture(scope="module", autouse=True)
def mobile() -> Interpreter:
    found = find_interpreter()
    if not found.xnnpack:
        pytest.skip("no Python here has a torch with XNNPACK")
    return found


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a mobile interpreter."""
    monkeypatch.delenv(interpreter.VARIABLE, raising=False)
    monkeypatch.setattr(interpreter, "_system_pythons", lambda: iter(()))


def python(folder: Path, script: str) -> str:
    """A stand-in for a Python, called as ``python -s WORKER JOB RESULT``."""
    path = folder / "python3"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def operators(mobile: Interpreter, file: Path) -> list[str]:
    return mobile.work({"do": "inspect", "target": str(file)})["operators"]


def test_it_is_prepacked_and_proven_on_the_mobile_interpreter(tiny_lite: Artifact, mobile: Interpreter) -> None:
    manifest = tiny_lite.manifest
    assert manifest.details["prepacked"] is True
    assert manifest.details["bytecode_version"] == 8
    assert manifest.proof.verified_by == mobile.description == f"torch lite {mobile.torch} + XNNPACK"
    assert manifest.proof.noise_ratio is not None
    assert manifest.proof.noise_ratio < 10
    assert manifest.notes == []


@pytest.mark.usefixtures("mobile")
def test_products_can_be_left_to_the_blas_of_the_machine(tmp_path: Path) -> None:
    manifest = export_to(tmp_path, load_tiny(), "torchscript-lite", prepack=False).manifest
    assert manifest.details["prepacked"] is False
    assert manifest.proof.passed
    assert not any(name.startswith("prepacked::") for name in manifest.details["operator_list"])
    assert manifest.notes == []


def test_a_search_tries_both() -> None:
    exporter = get_exporter("torchscript-lite")
    assert exporter.alternatives(exporter.options_type()) == {"prepack": [False]}
    assert exporter.alternatives(exporter.options_type(prepack=False)) == {"prepack": [True]}


def test_the_operators_are_those_of_the_file(tiny_lite: Artifact, mobile: Interpreter) -> None:
    listed = tiny_lite.manifest.details["operator_list"]
    assert listed == operators(mobile, tiny_lite.main_file)
    assert set(tiny_lite.manifest.operators) == {name.split(".")[0] for name in listed}
    assert all(count > 0 for count in tiny_lite.manifest.operators.values())
    assert {"prepacked::conv2d_clamp_run", "prepacked::linear_clamp_run"} <= set(listed)
    assert "aten::batch_norm" not in listed


def test_operators_are_counted(tmp_path: Path) -> None:
    model = random(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Softmax(1), nn.Conv2d(4, 4, 3), nn.Softmax(1), nn.Softmax(2)))
    artifact = export(load_model(model, input_size="1x3x8x8"), "torchscript-lite", out=tmp_path)
    assert artifact.manifest.operators["aten::softmax"] == 3


@pytest.mark.parametrize("version", [5, 6, 7])
def test_bytecode_of_old_phones_is_written_and_proven(version: int, tmp_path: Path, mobile: Interpreter) -> None:
    artifact = export_to(tmp_path, load_tiny(), "torchscript-lite", bytecode_version=version)
    assert artifact.manifest.details["bytecode_version"] == version
    assert mobile.work({"do": "inspect", "target": str(artifact.main_file)})["bytecode_version"] == version
    assert artifact.manifest.proof.passed


class Newer(nn.Module):
    """With two operators that the interpreter on phones does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.norm = nn.Linear(16, 48), nn.RMSNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.norm(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_operators_newer_than_the_interpreter_are_decomposed(tmp_path: Path) -> None:
    artifact = export_to(tmp_path, load_model(random(Newer()), input_size="1x10x16"), "torchscript-lite")
    assert artifact.manifest.proof.passed
    assert not {"aten::scaled_dot_product_attention", "aten::rms_norm"} & set(artifact.manifest.operators)


def test_several_inputs_and_outputs_of_any_structure(tmp_path: Path) -> None:
    artifact = export_to(tmp_path, load_model(random(TwoInputs()), input_size="2x6,2x5"), "torchscript-lite")
    assert artifact.manifest.proof.passed
    assert len(artifact.manifest.outputs) == 3


class Nested(nn.Module):
    """Its outputs are in dicts of dicts, in no alphabetical order, and one is there twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> dict[str, Any]:
        y, z = self.first(x), self.second(x)
        return {"b": y, "a": {"x": z}, "again": [y]}


def test_nested_outputs_are_flat_in_the_file_and_keep_their_order(tmp_path: Path) -> None:
    artifact = export_to(tmp_path, load_model(random(Nested()), input_size="2x6"), "torchscript-lite")
    assert artifact.manifest.proof.passed


def test_what_cannot_be_traced_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("Tracer cannot infer type of\n0.1\n0.2")

    monkeypatch.setattr(torch.jit, "trace", fail)
    with pytest.raises(ExportError, match=r"cannot be traced: Tracer cannot infer type of$"):
        export_to(tmp_path, load_tiny(), "torchscript-lite")


@pytest.mark.parametrize("details", [{}, {"prepacked": "yes"}])
def test_a_manifest_that_says_nothing_of_prepacking_is_damaged(details: dict[str, Any], tiny_lite: Artifact) -> None:
    with pytest.raises(UserError, match="manifest is damaged") as caught:
        Bench(load_tiny(), "torchscript-lite").run(tiny_lite.main_file, **details)
    assert "export it again" in caught.value.fix


def test_the_file_of_other_weights_fails_the_proof(tiny_lite: Artifact) -> None:
    bench = Bench(load_tiny(seed=1), "torchscript-lite")
    assert not bench.prove(tiny_lite.main_file, prepacked=True).passed


SPOILT: dict[str, tuple[OpOverload, int, Callable[[Tensor], Tensor]]] = {
    "a channel negated": (aten.conv2d.default, 1, lambda w: torch.cat([-w[:1], w[1:]])),
    "a bias dropped": (aten.conv2d.default, 2, torch.zeros_like),
    "two classes swapped": (aten.linear.default, 1, lambda w: w[[1, 0, *range(2, len(w))]]),
    "int8 weights": (aten.linear.default, 1, lambda w: (w / w.abs().max() * 127).round() * w.abs().max() / 127),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_wrong_file_fails_the_proof(kind: str, tmp_path: Path) -> None:
    op, index, change = SPOILT[kind]
    bench = Bench(load_tiny(), "torchscript-lite")
    graph = fuse(bench.loaded, "torchscript-lite").after
    node = list(graph.calls(op))[-1]
    weight = graph.constant(node.args[index])
    assert weight is not None
    node.update_arg(index, graph.add_constant(change(weight), "wrong", before=node))
    graph.clean()
    exported = bench.exporter.export(graph, tmp_path, bench.options, Stages())
    assert not bench.prove(tmp_path / exported.main_file, **exported.details).passed


@pytest.mark.parametrize("content", [b"", b"rubbish"])
def test_a_damaged_file_is_an_error(content: bytes, tiny_lite: Artifact, tmp_path: Path) -> None:
    (tmp_path / "model.ptl").write_bytes(content or tiny_lite.main_file.read_bytes()[:-500])
    with pytest.raises(ExportError, match=r"could not run the \.ptl"):
        Bench(load_tiny(), "torchscript-lite").prove(tmp_path / "model.ptl", prepacked=True)


@pytest.mark.usefixtures("alone")
def test_without_an_interpreter_the_file_is_plain_proven_and_says_so(tmp_path: Path) -> None:
    artifact = export_to(tmp_path, load_tiny(), "torchscript-lite")
    assert artifact.manifest.details["prepacked"] is False
    assert artifact.manifest.proof.verified_by == f"torch lite {torch.__version__}"
    assert artifact.manifest.proof.passed
    (note,) = artifact.manifest.notes
    assert "not prepacked" in note
    assert "apt-get install python3-torch" in note


@pytest.mark.usefixtures("alone")
def test_a_prepacked_file_cannot_be_run_without_an_interpreter(tiny_lite: Artifact) -> None:
    with pytest.raises(UserError, match="no interpreter here has XNNPACK") as caught:
        Bench(load_tiny(), "torchscript-lite").prove(tiny_lite.main_file, prepacked=True)
    assert "apt-get install" in caught.value.fix


@pytest.mark.usefixtures("alone")
def test_doctor_knows_that_it_is_missing() -> None:
    (need,) = TorchScriptLite().requirements()
    assert need.found is None
    assert need.optional
    assert need.install.startswith("sudo apt-get install")


def test_a_named_interpreter_is_used_and_no_other(mobile: Interpreter, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_interpreter(mobile.python) == mobile
    monkeypatch.setenv(interpreter.VARIABLE, "/no/such/python")
    with pytest.raises(UserError, match="no Python called '/no/such/python'"):
        find_interpreter()
    assert find_interpreter(mobile.python) == mobile


def test_a_named_python_that_cannot_prepack_is_refused(tmp_path: Path) -> None:
    without_torch = python(tmp_path, "echo \"ModuleNotFoundError: No module named 'torch'\"; exit 1")
    with pytest.raises(UserError, match="No module named 'torch'") as caught:
        find_interpreter(without_torch)
    assert "--mobile-python" in caught.value.fix
    with pytest.raises(UserError, match=r"has torch .*, which cannot prepack"):
        find_interpreter(sys.executable)


def test_an_interpreter_that_crashes_is_an_error(tmp_path: Path) -> None:
    answer = '{"torch": "1.13.0", "xnnpack": true, "python": "x"}'
    crashing = python(tmp_path, f"grep -q probe $3 && echo '{answer}' > $4 && exit 0\nkill -SEGV $$")
    with pytest.raises(ExportError, match=r"could not write the \.ptl: python3 crashed with SIGSEGV"):
        export_to(tmp_path, load_tiny(), "torchscript-lite", mobile_python=crashing)
    assert not list(tmp_path.rglob("*.ptl"))
