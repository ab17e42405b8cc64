from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deploy_kit.api import Artifact, parse_options
from deploy_kit.capture import capture
from deploy_kit.errors import ExportError, MissingDependencyError, UserError
from deploy_kit.exporters import executorch as target
from deploy_kit.exporters.base import packaged_policy
from deploy_kit.exporters.executorch import BUNDLE, INSTALL, Executorch, ExecuTorchOptions
from deploy_kit.fusion import fuse_graph
from deploy_kit.graph import Graph, aten
from deploy_kit.models.edgevit import LGLBlock, PatchEmbed
from deploy_kit.outcome import Outcome
from deploy_kit.sources import load_model
from deploy_kit.stages import Stages
from tests.fusion.support import Shapes, noise, relative_error
from tests.fusion.test_passes import random_model
from tests.support import export_to, load_tiny, once, random

POLICIES = {name: packaged_policy(f"executorch.{name}") for name in ("cpu", "npu")}


@pytest.fixture(scope="session")
def installed() -> None:
    pytest.importorskip("executorch", reason=f"executorch is not installed: {INSTALL}")


class OneBlock(nn.Module):
    """A block of EdgeViT with everything that its blocks have, between its stem and its head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = PatchEmbed(3, 32, 4)
        self.block = LGLBlock(32, 64, 2, 2, nn.GELU)
        self.norm, self.head = nn.BatchNorm2d(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.block(self.stem(x))).mean((2, 3)))


@pytest.fixture(scope="session")
def artifact(installed: None, shared: Path) -> Artifact:
    from deploy_kit.artifact import open_artifact

    def make(folder: Path) -> None:
        loaded = load_model(random(OneBlock()), input_size="1x3x64x64")
        export_to(folder, loaded, "executorch", strict=True, bundle_io=True)

    (manifest,) = once(shared, "executorch", make).rglob("manifest.json")
    return open_artifact(manifest.parent)


def test_edgevit_is_one_subgraph_of_xnnpack(artifact: Artifact) -> None:
    placement = artifact.manifest.details["placement"]
    assert placement["undelegated"] == {}
    assert placement["subgraphs"] == 1
    assert placement["delegated"]["convolution"] > 15
    assert placement["delegated"]["bmm"] == 2
    assert placement["arena_bytes"] > 0
    assert artifact.manifest.operators == placement["delegated"]


def test_the_proof_is_executorch_s_own(artifact: Artifact) -> None:
    proof = artifact.manifest.proof
    assert proof.passed
    assert artifact.manifest.outcome == Outcome.OK
    assert proof.verified_by == f"executorch {target.find_executorch()} (XNNPACK)"
    assert proof.top1_agreement == 1
    assert "executorch" in artifact.manifest.toolchain
    assert artifact.manifest.notes == []


@pytest.mark.slow
def test_the_bundled_program_expects_what_the_program_returns(artifact: Artifact) -> None:
    assert artifact.manifest.details["bundle"] == BUNDLE
    assert BUNDLE in {file.path for file in artifact.manifest.files}
    job = {"do": "check_bundle", "target": str(artifact.folder / BUNDLE), "rtol": 1e-4, "atol": 1e-5}
    assert target.work(job, "check the bundle") == {"problem": None}


class Attention(nn.Module):
    """Weights from a convolution, along the last axis of an image: what ExecuTorch alone computes wrongly."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).softmax(-1)


@pytest.mark.slow
def test_softmax_after_a_convolution_is_right(installed: None, tmp_path: Path) -> None:
    loaded = load_model(random(Attention()), input_size="1x3x16x16")
    placement = export_to(tmp_path, loaded, "executorch").manifest.details["placement"]
    assert (placement["subgraphs"], placement["undelegated"]) == (1, {})


@pytest.mark.slow
def test_the_tanh_form_of_gelu_is_right(installed: None, tmp_path: Path) -> None:
    loaded = load_model(random(nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU("tanh"))), input_size="1x3x16x16")
    placement = export_to(tmp_path, loaded, "executorch").manifest.details["placement"]
    assert (placement["subgraphs"], placement["undelegated"]) == (1, {})


class Gated(nn.Module):
    """A convolution, both operators that may be kept out of the delegate, and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.activation, self.head = nn.Conv2d(3, 8, 3), nn.GELU(), nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.activation(self.conv(x))).softmax(-1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "keep_out", "outside"),
    [
        ("fp32", ("gelu",), {"gelu": 1}),
        ("fp32", ("gelu", "softmax"), {"gelu": 1, "_softmax": 1}),
        ("fp16", ("gelu", "softmax"), {"gelu": 1, "_softmax": 1}),
        ("int8", ("gelu", "softmax"), {"gelu": 1, "_softmax": 1}),
    ],
)
def test_what_is_kept_out_is_outside_of_the_delegate_and_proven(
    installed: None, tmp_path: Path, precision: str, keep_out: tuple[str, ...], outside: dict[str, int]
) -> None:
    loaded = load_model(random(Gated()), input_size="1x3x16x16")
    artifact = export_to(tmp_path, loaded, "executorch", keep_out=keep_out, strict=True, precision=precision)
    manifest = artifact.manifest
    placement = manifest.details["placement"]
    assert {name: placement["undelegated"].get(name) for name in outside} == outside
    assert "convolution" in placement["delegated"]
    assert not set(outside) & set(placement["delegated"])
    assert (manifest.outcome, manifest.proof.passed) == (Outcome.OK, True)
    assert manifest.options["keep_out"] == list(keep_out)


def test_what_is_kept_out_and_is_not_there_is_said() -> None:
    options = ExecuTorchOptions(keep_out=("gelu", "softmax"))
    placement = {"delegated": {"convolution": 1}, "undelegated": {"gelu": 2}}
    assert target.notes_on(placement, options) == ["nothing to keep out: the fused model has no softmax"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"keep_out": ["relu"]}, "--keep-out 'relu'.*'gelu' or 'softmax'"),
        ({"keep_out": ["gelu"], "delegate": "coreml"}, "--keep-out .*gelu.*only of --delegate xnnpack"),
    ],
)
def test_what_cannot_be_kept_out_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_options(Executorch(), given)


def test_what_is_kept_out_is_for_tuning_to_try() -> None:
    def others(**given: Any) -> Any:
        return Executorch().alternatives(ExecuTorchOptions(**given))

    assert others() == {"keep_out": [("gelu",), ("softmax",), ("gelu", "softmax")]}
    assert others(keep_out=("softmax", "gelu", "gelu")) == {"keep_out": [(), ("gelu",), ("softmax",)]}
    assert others(delegate="portable") == {}


STOCK = """
import sys, torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
edge = to_edge_transform_and_lower(torch.export.load(sys.argv[1]), partitioner=[XnnpackPartitioner()])
with open(sys.argv[2], "wb") as file:
    edge.to_executorch().write_to_file(file)
"""


@pytest.mark.slow
def test_a_quick_lowering_writes_what_a_plain_one_does(installed: None, tmp_path: Path) -> None:
    fused, _ = fuse_graph(load_tiny().capture(), POLICIES["cpu"])
    target.export_program(fused, tmp_path / "program.pt2")
    Executorch().export(fused, tmp_path, ExecuTorchOptions(), Stages())
    command = [sys.executable, "-P", "-c", STOCK, str(tmp_path / "program.pt2"), str(tmp_path / "stock.pte")]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "model.pte").read_bytes() == (tmp_path / "stock.pte").read_bytes()


@pytest.fixture(scope="session")
def portable(installed: None, shared: Path) -> Path:
    def make(folder: Path) -> None:
        export_to(folder, load_tiny(), "executorch", delegate="portable")

    (file,) = once(shared, "executorch-portable", make).rglob("*.pte")
    return file


@pytest.mark.slow
def test_portable_kernels_are_proven_and_warned_of(portable: Path) -> None:
    from deploy_kit.artifact import open_artifact

    manifest = open_artifact(portable).manifest
    assert manifest.proof.verified_by.endswith("(portable kernels)")
    assert manifest.outcome == Outcome.OK_UNDELEGATED
    assert manifest.details["placement"]["subgraphs"] == 0
    assert manifest.details["placement"]["delegated"] == {}
    (note,) = manifest.notes
    assert note.startswith("WARNING")
    assert "convolution (2)" in note


def small(module: nn.Module, *shape: int) -> Graph:
    return capture(module.eval(), (torch.randn(shape),))


@pytest.mark.parametrize("operator", ["convolution", "linear", "addmm", "bmm"])
def test_strict_refuses_heavy_operators_on_portable_kernels(operator: str) -> None:
    placement = {"undelegated": {operator: 2, "native_layer_norm": 3}}
    (note,) = target.notes_on(placement, ExecuTorchOptions())
    assert f"{operator} (2)" in note
    assert "norm" not in note
    with pytest.raises(ExportError, match=rf"portable kernels.*{operator} \(2\)") as error:
        target.notes_on(placement, ExecuTorchOptions(strict=True))
    assert "--strict" in error.value.fix


def test_strict_allows_light_operators_on_portable_kernels() -> None:
    assert target.notes_on({"undelegated": {"native_layer_norm": 3}}, ExecuTorchOptions(strict=True)) == []


@pytest.mark.slow
def test_vulkan_is_emitted_only(installed: None, tmp_path: Path) -> None:
    options = ExecuTorchOptions(delegate="vulkan")
    exported = Executorch().export(small(nn.Conv2d(3, 4, 1), 1, 3, 8, 8), tmp_path, options, Stages())
    assert (tmp_path / exported.main_file).stat().st_size > 0
    assert exported.details["placement"]["delegated"] == {"convolution": 1}
    assert "emitted only" in exported.notes[0]
    ran = Executorch().run(tmp_path / exported.main_file, [(torch.zeros(1, 3, 8, 8),)], options, exported.details)
    assert ran.outputs is None
    assert ran.verified_by == "nothing here, emitted only"


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", POLICIES)
def test_the_policies_are_exact_for_random_models(name: str, seed: int) -> None:
    model, x = random_model(seed), noise(2, 4, 9, 8, seed=seed)
    fused, _ = fuse_graph(capture(model, (x,)), POLICIES[name])
    with torch.no_grad():
        assert relative_error(Shapes(fused.module).run(x), model(x)) <= 1e-12


def test_the_policy_leaves_edgevit_nothing_that_xnnpack_lacks(edgevit_xxs_graph: Graph) -> None:
    graph, _ = fuse_graph(edgevit_xxs_graph, POLICIES["cpu"])
    lacking = (aten.layer_norm.default, aten.matmul.default, aten.unbind.int, aten.slice.Tensor, aten.select.int)
    assert not list(graph.calls(*lacking, aten.avg_pool2d.default, aten.batch_norm.default))
    assert fuse_graph(graph, POLICIES["cpu"])[1] == []


def test_without_executorch_the_command_for_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(target, "find_executorch", lambda: None)
    (need,) = Executorch().requirements()
    assert (need.found, need.install, need.optional) == (None, "pip install 'deploy-kit[executorch]'", False)
    graph = small(nn.Linear(2, 2), 1, 2)
    with pytest.raises(MissingDependencyError, match="executorch") as error:
        Executorch().export(graph, tmp_path, ExecuTorchOptions(), Stages())
    assert error.value.fix == need.install
    with pytest.raises(MissingDependencyError):
        Executorch().run(tmp_path / "model.pte", [], ExecuTorchOptions(), {})


class Crash(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise SystemExit('the file cannot be loaded: it is empty')", "it is empty"),
        ("print('last words', flush=True); import os; os.kill(os.getpid(), 11)", "crashed with SIGSEGV: last words"),
        ("import time; time.sleep(60)", "still running after 1 s"),
        ("raise SystemExit('no kernel for it')", "no kernel for it"),
    ],
)
def test_a_worker_that_fails_is_an_error_with_its_last_words(
    body: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(body)
    monkeypatch.setattr(target, "WORKER", worker)
    monkeypatch.setattr(target, "LOWERING_LIMIT", 1)
    monkeypatch.setattr(target, "find_executorch", lambda: "1.4.1")
    with pytest.raises(ExportError, match=said) as error:
        Executorch().export(small(Crash(), 1, 2), tmp_path, ExecuTorchOptions(), Stages())
    assert error.value.outcome == (Outcome.LOAD_FAILED if "loaded" in body else Outcome.LOWER_FAILED)


def test_an_unknown_delegate_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="delegate"):
        parse_options(Executorch(), {"delegate": "qnn"})
