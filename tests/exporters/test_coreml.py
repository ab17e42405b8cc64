from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional as F

from deploy_kit.api import export, parse_options
from deploy_kit.artifact import Artifact
from deploy_kit.bisect import bisect
from deploy_kit.capture import capture
from deploy_kit.errors import ExportError, MissingDependencyError, ProofError, UserError
from deploy_kit.exporters import coreml as target
from deploy_kit.exporters import get_exporter
from deploy_kit.exporters.base import UNVERIFIED, Exported
from deploy_kit.exporters.coreml import FILE, CoreML, CoreMLOptions, audit_samples, distinct_outputs
from deploy_kit.exporters.coreml_conversion import Converted, convert, weight_bytes, write_package
from deploy_kit.exporters.coreml_worker import JOBS
from deploy_kit.exporters.mil.interpreter import execute, operator_types
from deploy_kit.exporters.mil.package import load_package, quiet
from deploy_kit.exporters.mil.ranges import LARGEST, RangeAudit, worst_snr_db
from deploy_kit.fusion import fuse_graph
from deploy_kit.graph import Graph
from deploy_kit.outcome import Outcome
from deploy_kit.parity.compare import LIMITS, Limits
from deploy_kit.parity.proof import Proof, judge
from deploy_kit.parity.reference import run_module
from deploy_kit.sources import LoadedModel, load_model
from deploy_kit.stages import Stages
from tests.support import Bench, TwoInputs, export_to, load_tiny, random

with quiet():
    ct = pytest.importorskip("coremltools", reason="the target coreml converts with coremltools")


def graph_of(model: nn.Module, *inputs: Tensor) -> Graph:
    return capture(random(model), inputs)


@contextmanager
def here() -> Iterator[None]:
    """Let the worker's jobs be done in this process, which spares the start of another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            target, "work", lambda job, *_: json.loads(json.dumps(JOBS[job["do"]](job, lambda outcome: None)))
        )
        yield


def export_here(graph: Graph, folder: Path, **options: Any) -> Exported:
    with here():
        return CoreML().export(graph, folder, CoreMLOptions(**{"precision": "fp32", **options}), Stages())


def write(graph: Graph, folder: Path, **options: Any) -> tuple[Exported, Any]:
    """Export a graph, and the saved package's function."""
    return export_here(graph, folder, **options), load_package(folder / FILE)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture(scope="module")
def tiny_coreml(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_to(tmp_path_factory.mktemp("coreml"), load_tiny(), "coreml", precision="fp32")


def test_the_package_is_proven_and_its_operators_are_counted(tiny_coreml: Artifact) -> None:
    manifest = tiny_coreml.manifest
    assert manifest.proof.passed
    assert manifest.proof.verified_by == f"MIL reference interpreter (coremltools {ct.__version__})"
    assert manifest.operators["conv"] == 2
    assert "batch_norm" not in manifest.operators
    assert manifest.main_file == FILE
    assert manifest.toolchain["coremltools"] == ct.__version__


def test_a_package_holds_what_its_own_index_names(tiny_coreml: Artifact) -> None:
    files = {record.path for record in tiny_coreml.manifest.files}
    inside = "Data/com.apple.CoreML"
    assert files == {
        f"{FILE}/{name}" for name in ("Manifest.json", f"{inside}/model.mlmodel", f"{inside}/weights/weight.bin")
    }


def test_names_shapes_and_types_are_those_of_the_manifest(tiny_coreml: Artifact) -> None:
    description = ct.models.utils.load_spec(str(tiny_coreml.main_file)).description
    for features, records in (
        (description.input, tiny_coreml.manifest.inputs),
        (description.output, tiny_coreml.manifest.outputs),
    ):
        for feature, record in zip(features, records, strict=True):
            assert feature.name == record.name
            assert list(feature.type.multiArrayType.shape) == record.shape
            assert feature.type.multiArrayType.dataType == ct.proto.FeatureTypes_pb2.ArrayFeatureType.FLOAT32


class Named(nn.Module):
    """Its tensors have the names that an exported model's input and output get."""

    def forward(self, output: Tensor) -> Tensor:
        input = output * 2
        return (input + output.relu()).tanh()


def test_a_tensor_within_that_is_called_like_an_output(tmp_path: Path) -> None:
    x = torch.randn(2, 3)
    _, function = write(graph_of(Named(), x), tmp_path)
    assert list(function.inputs) == ["input"]
    assert [variable.name for variable in function.outputs] == ["output"]
    assert relative_error(execute(function, [x])[0], Named()(x)) < 1e-6


class Mixture(nn.Module):
    """One of everything that a model of the user's own is likely to hold."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.group = nn.GroupNorm(2, 8)
        self.up = nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1)
        self.prelu = nn.PReLU(4)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.stem(x))
        x = F.silu(self.depthwise(F.max_pool2d(x, 3, 1, 1)))
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x.flatten(2).transpose(1, 2))).chunk(3, -1)
        tokens = F.scaled_dot_product_attention(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)).squeeze(1)
        x = F.gelu(tokens, approximate="tanh").transpose(1, 2).reshape(b, c, h, w) + self.group(x)
        y = self.prelu(self.up(x))
        y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
        y = F.avg_pool2d(F.pad(y, (1, 1, 1, 1), mode="reflect"), 3, 2)
        blocks = F.interpolate(F.pixel_shuffle(x, 2)[:, :, ::2, ::2], scale_factor=2)
        y = torch.cat([y, blocks.repeat(1, 2, 1, 1)], 1)
        y = torch.where(y > 0.1, y, y.clamp(-0.5, 0.5)) / y.square().mean(dim=(2, 3), keepdim=True).add(1e-3).sqrt()
        return self.head(torch.stack([y.amax((2, 3)), y.mean((2, 3))], 1).sum(1)).softmax(-1)


@pytest.mark.parametrize(("ios", "precision"), [(15, "fp32"), (16, "fp16"), (17, "fp16"), (18, "fp32")])
def test_a_mixture_of_operators_for_every_system(ios: int, precision: str, tmp_path: Path) -> None:
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    graph = graph_of(Mixture(), x)
    options = CoreMLOptions(ios=ios, precision=precision)
    fused, _ = fuse_graph(graph, CoreML().policy(options))
    exported, function = write(fused, tmp_path, ios=ios, precision=precision)
    assert exported.notes == []
    assert ("scaled_dot_product_attention" in exported.operators) == (ios == 18)
    error = relative_error(execute(function, [x])[0], graph.module(x))
    assert error < 1e-5 if precision == "fp32" else 1e-6 < error < 5e-3


def test_inputs_and_outputs_keep_their_order(tmp_path: Path) -> None:
    model = random(TwoInputs())
    x, y = torch.randn(2, 6), torch.randn(2, 5)
    exported, function = write(capture(model, (x, y)), tmp_path)
    assert list(function.inputs) == ["input_0", "input_1"]
    total, parts = model(x, y)
    outputs = execute(function, [x, y])
    for output, expected in zip(outputs, (total, parts["square"], parts["x"]), strict=True):
        assert relative_error(output, expected.detach()) < 1e-5
    assert exported.details["output_order"] == [0, 1, 2]


class Twice(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = x.relu()
        return y, y.exp(), y


def test_a_tensor_that_is_returned_twice_is_one_output(tmp_path: Path) -> None:
    loaded = load_model(Twice(), input_size="2x3")
    exported = export_here(loaded.capture(), tmp_path)
    assert exported.details["output_order"] == [0, 1, 0]
    assert "more than once" in exported.notes[0]
    x = torch.randn(2, 3)
    y, e = execute(load_package(tmp_path / FILE), [x])
    assert torch.equal(y, x.relu())
    assert torch.allclose(e, x.relu().exp())


def test_an_input_that_is_returned_is_refused() -> None:
    graph = graph_of(Same(), torch.randn(2, 3))
    with pytest.raises(ExportError, match="returns its input"):
        distinct_outputs(graph)


class Same(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x.relu()


class Unknown(nn.Module):
    """``argsort`` is in MIL, and not in the interpreter."""

    def forward(self, x: Tensor) -> Tensor:
        return x + x.argsort(-1).float()


def test_an_unknown_operator_is_unverified_and_never_a_pass(tmp_path: Path) -> None:
    loaded = load_model(Unknown(), input_size="2x6")
    exported = export_here(loaded.capture(), tmp_path, precision="fp16")
    assert exported.details["unknown_operators"] == ["argsort"]
    assert any("does not know argsort" in note for note in exported.notes)
    with here():
        ran = Bench(loaded, "coreml").run(tmp_path / FILE, **exported.details)
    assert (ran.outputs, ran.verified_by) == (None, UNVERIFIED)


@pytest.mark.parametrize(
    "model",
    [nn.GELU(approximate="tanh"), nn.GELU(), nn.GroupNorm(2, 8), nn.GroupNorm(4, 8, eps=1e-3), nn.BatchNorm2d(8)],
)
def test_what_coremltools_alone_gets_wrong(model: nn.Module, tmp_path: Path) -> None:
    """It drops ``approximate``, and its passes scale a gain and a shift by 1 / sqrt(1 + 1e-5)."""
    graph = graph_of(model, torch.randn(2, 8, 4, 4) * 3)
    _, function = write(graph, tmp_path)
    x = graph.example_inputs[0]
    assert relative_error(execute(function, [x])[0], graph.module(x)) < 1e-6


class Unconvertible(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.i0(x)


def test_an_operator_that_coremltools_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="i0") as error:
        CoreML().export(graph_of(Unconvertible(), torch.randn(2, 3)), tmp_path, CoreMLOptions(), Stages())
    assert error.value.outcome == Outcome.EXPORT_FAILED
    assert list(tmp_path.iterdir()) == []


class TooDeep(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 2, 2, 2, 2, 2).flip(1, 3).cumsum(2).sum((1, 2))


def test_rank_6_is_refused_by_the_backend(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="rank") as error:
        CoreML().export(graph_of(TooDeep(), torch.randn(4, 16)), tmp_path, CoreMLOptions(), Stages())
    assert error.value.outcome == Outcome.LOWER_FAILED
    assert list(tmp_path.iterdir()) == []


# wrong packages


@pytest.fixture(scope="module")
def tiny_bench() -> Bench:
    return Bench(load_tiny(), "coreml")


def judged(bench: Bench, package: Path) -> Proof:
    """A float32 proof within this process, which spares the start of another."""
    function = load_package(package)
    return judge(bench.cases, bench.references, [execute(function, case.inputs) for case in bench.cases], "here")


def altered(artifact: Artifact, folder: Path, change: Any) -> Path:
    """A copy of a package whose program was changed."""
    package = shutil.copytree(artifact.main_file, folder / FILE)
    file = package / "Data/com.apple.CoreML/model.mlmodel"
    spec = ct.proto.Model_pb2.Model.FromString(file.read_bytes())
    function = spec.mlProgram.functions["main"]
    change(next(iter(function.block_specializations.values())).operations)
    file.write_bytes(spec.SerializeToString())
    return package


def constant(operations: Any, op_type: str, parameter: str) -> Any:
    """The value of the constant that the first operator of a type takes for a parameter."""
    op = next(op for op in operations if op.type == op_type)
    name = op.inputs[parameter].arguments[0].name
    const = next(op for op in operations if op.outputs[0].name == name)
    return const.attributes["val"].immediateValue.tensor


def approximate_gelu(operations: Any) -> None:
    constant(operations, "gelu", "mode").strings.values[0] = "TANH_APPROXIMATION"


def another_epsilon(operations: Any) -> None:
    constant(operations, "layer_norm", "epsilon").floats.values[0] = 3e-3


def another_padding(operations: Any) -> None:
    convolutions = [op for op in operations if op.type == "conv"]
    name = convolutions[1].inputs["pad"].arguments[0].name
    const = next(op for op in operations if op.outputs[0].name == name)
    const.attributes["val"].immediateValue.tensor.ints.values[:] = [0, 2, 0, 2]


@pytest.mark.parametrize("change", [approximate_gelu, another_epsilon, another_padding])
def test_a_changed_attribute_is_a_mismatch(
    change: Any, tiny_coreml: Artifact, tiny_bench: Bench, tmp_path: Path
) -> None:
    package = altered(tiny_coreml, tmp_path, change)
    assert judged(tiny_bench, tiny_coreml.main_file).passed
    assert not judged(tiny_bench, package).passed


def test_changed_weights_are_a_mismatch(tiny_coreml: Artifact, tiny_bench: Bench, tmp_path: Path) -> None:
    package = shutil.copytree(tiny_coreml.main_file, tmp_path / FILE)
    weights = package / "Data/com.apple.CoreML/weights/weight.bin"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 0x40
    weights.write_bytes(data)
    assert not judged(tiny_bench, package).passed


@pytest.mark.slow
def test_a_package_that_cannot_be_read_is_an_error_with_its_reason(
    tiny_coreml: Artifact, tiny_bench: Bench, tmp_path: Path
) -> None:
    package = shutil.copytree(tiny_coreml.main_file, tmp_path / FILE)
    (package / "Manifest.json").write_text("{}")
    with pytest.raises(ExportError, match="the reference interpreter failed") as error:
        tiny_bench.run(package, output_order=[0])
    assert error.value.outcome == Outcome.LOAD_FAILED


# workers that fail

SEGFAULT = "print('last words', flush=True); import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
REACHED = "import json, sys, pathlib; job = json.load(open(sys.argv[1])); "


def stand_in(body: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put another program in the worker's place."""
    worker = folder / "worker.py"
    worker.write_text(body)
    monkeypatch.setattr(target, "WORKER", worker)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (SEGFAULT, "crashed with SIGSEGV: last words"),
        ("import time; time.sleep(60)", "still running after 1 s"),
        ("raise SystemExit('no such operator')", "no such operator"),
    ],
)
def test_a_conversion_that_fails_leaves_nothing(
    body: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    half_written = "p = pathlib.Path(job['package']); p.mkdir(); (p / 'Manifest.json').write_text('{'); "
    stand_in(REACHED + half_written + body, tmp_path, monkeypatch)
    monkeypatch.setattr(target, "CONVERSION_LIMIT", 1 if "sleep" in body else 60)
    with pytest.raises(ExportError, match=said) as error:
        export_to(tmp_path / "out", load_tiny(), "coreml", precision="fp32")
    assert error.value.outcome == Outcome.EXPORT_FAILED
    assert [path for path in (tmp_path / "out").rglob("*") if not path.is_dir()] == []


@pytest.mark.parametrize(("job", "outcome"), [("convert", "export_failed"), ("run", "load_failed")])
@pytest.mark.parametrize("reached", [None, "lower_failed", "load_failed", "run_failed"])
def test_a_crash_ends_as_the_step_that_it_came_in(
    job: str, outcome: str, reached: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    step = f"pathlib.Path(job['outcome']).write_text({reached!r}); " if reached else ""
    stand_in(REACHED + step + SEGFAULT, tmp_path, monkeypatch)
    with pytest.raises(ExportError, match=r"CoreML failed: .* crashed with SIGSEGV: last words") as error:
        target.work({"do": job}, "CoreML failed")
    assert error.value.outcome == (reached or outcome)


def test_a_crash_leaves_no_temporary_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    stand_in("import tempfile; print(tempfile.mkdtemp(suffix='.mlpackage')); " + SEGFAULT, tmp_path, monkeypatch)
    with pytest.raises(ExportError, match=r"SIGSEGV: \S+\.mlpackage\s+last words"):
        target.work({"do": "convert"}, "coremltools failed")
    assert list((tmp_path / "temporary").iterdir()) == []


def test_an_interpreter_that_hangs_is_ended(
    tiny_coreml: Artifact, tiny_bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in("import time; time.sleep(60)", tmp_path, monkeypatch)
    monkeypatch.setattr(target, "RUNNING_LIMIT", 1)
    with pytest.raises(ExportError, match=r"interpreter failed: .* still running after 1 s"):
        tiny_bench.run(tiny_coreml.main_file, output_order=[0])


# fp16


class LinearAttention(nn.Module):
    """ReLU linear attention; with many tokens its sums of products leave fp16's range."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Conv2d(3, 24, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        q, k, v = self.qkv(x * 40).flatten(2).chunk(3, 1)
        q, k = q.relu(), k.relu()
        total = k.sum(-1, keepdim=True).transpose(1, 2) @ q
        out = ((k @ v.transpose(1, 2)).transpose(1, 2) @ q) / (total + 1e-6)
        return self.proj(out.reshape(b, 8, h, w)).mean((2, 3))


def program_of(graph: Graph) -> ExportedProgram:
    return torch.export.export(graph.module, graph.example_inputs)


def convert_fp16(graph: Graph, package: Path, **options: Any) -> tuple[Converted, Any]:
    samples = audit_samples(graph)
    converted = write_package(program_of(graph), package, ios=15, precision="fp16", samples=samples, **options)
    return converted, load_package(package)


@pytest.fixture(scope="module")
def linear_attention() -> Graph:
    return graph_of(LinearAttention(), torch.randn(1, 3, 64, 64))


def test_what_overflows_stays_in_float32(linear_attention: Graph, tmp_path: Path) -> None:
    converted, function = convert_fp16(linear_attention, tmp_path / FILE)
    mixed = converted.details["fp16"]
    assert mixed["snr_db"] > 50
    assert {kept["type"] for kept in mixed["kept_in_fp32"]} == {"matmul", "reduce_sum", "add", "real_div"}
    assert "stay in float32" in converted.notes[0]
    assert "cast" in set(operator_types(function))


class WithOneMore(RangeAudit):
    """The audit, but for one operator of those that it would keep."""

    def __init__(self, samples: list[tuple[Tensor, ...]], rounded: str):
        super().__init__(samples)
        self.rounded = rounded

    def __call__(self, op: Any) -> bool:
        return super().__call__(op) or op.name == self.rounded


def infinities(audit: RangeAudit, package: Path) -> set[str]:
    """The tensors of a package that are not finite on the audit's samples."""
    found: set[str] = set()

    def observe(variable: Any, value: Tensor) -> None:
        if not value.isfinite().all():
            found.add(variable.name)

    function = load_package(package)
    for sample in audit.samples:
        execute(function, sample, observe=observe)
    return found


def test_none_of_the_kept_operators_can_be_spared(linear_attention: Graph, tmp_path: Path) -> None:
    samples, program = audit_samples(linear_attention), program_of(linear_attention)
    audit = RangeAudit(samples)
    convert(program, tmp_path / "all.mlpackage", 15, audit)
    assert infinities(audit, tmp_path / "all.mlpackage") == set()
    assert len(audit.kept) == 6
    for index, kept in enumerate(audit.kept):
        convert(program, tmp_path / f"{index}.mlpackage", 15, WithOneMore(samples, kept.operator))
        assert infinities(audit, tmp_path / f"{index}.mlpackage"), kept


class LargeConstant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 1e-3) * 1e5


class Harmless(nn.Module):
    """Nothing divides by the first sum, and the logarithm needs no epsilon."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + 1e-15).relu() + (x.abs() + 1).log()


class Normalized(nn.Module):
    """The root of the smallest sum, 1e-6, is a number that fp16 has."""

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().sum(1, keepdim=True) + 1e-12).sqrt()


class Reshaped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x.relu() - x.relu()
        return y.reshape(8, 2) / (y + 1e-15).reshape(8, 2)


@pytest.mark.parametrize(
    ("model", "types"),
    [
        (LargeConstant(), ["mul"]),
        (Harmless(), []),
        (nn.LayerNorm(8, eps=1e-12), ["layer_norm"]),
        (Normalized(), ["add", "sqrt"]),
        (Reshaped(), ["add", "reshape", "real_div"]),
    ],
)
def test_of_small_and_large_constants_only_what_matters_is_kept(
    model: nn.Module, types: list[str], tmp_path: Path
) -> None:
    graph = graph_of(nn.Sequential(model, nn.ReLU()), torch.randn(2, 8))
    converted, _ = convert_fp16(graph, tmp_path / FILE)
    assert [kept["type"] for kept in converted.details["fp16"]["kept_in_fp32"]] == types


@pytest.mark.parametrize("rounded", ["reshape", "real_div"])
def test_what_guards_a_division_stays_in_float32(rounded: str, tmp_path: Path) -> None:
    graph = graph_of(Reshaped(), torch.randn(2, 8))
    audit = RangeAudit(audit_samples(graph))
    convert(program_of(graph), tmp_path / "all.mlpackage", 15, audit)
    assert infinities(audit, tmp_path / "all.mlpackage") == set()
    (name,) = [kept.operator for kept in audit.kept if kept.type == rounded]
    convert(program_of(graph), tmp_path / "less.mlpackage", 15, WithOneMore(audit.samples, name))
    assert infinities(audit, tmp_path / "less.mlpackage")


class Vanishing(nn.Module):
    """A division by a constant that fp16 does not have."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.relu() - x.abs()
        return (x.sin() - x.sin()) / (y - y + 1e-15) + x


def test_a_constant_that_fp16_rounds_to_zero_stays_in_float32(tmp_path: Path) -> None:
    converted, function = convert_fp16(graph_of(Vanishing(), torch.randn(2, 8)), tmp_path / FILE)
    kept = converted.details["fp16"]["kept_in_fp32"]
    assert {operator["reason"] for operator in kept} == {"the constant 1e-15 would be zero in fp16"}
    assert execute(function, [torch.randn(2, 8)])[0].isfinite().all()


def test_fp16_halves_the_weights_and_keeps_float32_inputs(tmp_path: Path) -> None:
    graph = load_tiny().capture()
    sizes = {}
    for precision in ("fp32", "fp16"):
        (tmp_path / precision).mkdir()
        exported, function = write(graph, tmp_path / precision, precision=precision)
        weights = tmp_path / precision / FILE / "Data/com.apple.CoreML/weights/weight.bin"
        sizes[precision] = weights.stat().st_size
        x = torch.randn(1, 3, 32, 32)
        assert execute(function, [x])[0].dtype == torch.float32
    assert sizes["fp16"] < 0.7 * sizes["fp32"]
    assert exported.details["fp16"]["kept_in_fp32"] == []
    assert 50 < exported.details["fp16"]["snr_db"] < 90
    assert torch.finfo(torch.float16).max == LARGEST


# compression


class Wide(nn.Module):
    """Weights that are worth compressing, beside some that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.local = nn.Conv2d(3, 48, 8, 8), nn.Conv2d(48, 48, 3, padding=1, groups=48)
        self.up, self.head = nn.Linear(48, 96), nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.local(self.stem(x).relu()).mean((2, 3))
        return self.head(F.gelu(self.up(x)))


def load_wide() -> LoadedModel:
    return load_model(random(Wide()), input_size="1x3x32x32")


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Exported, Path]]:
    graph, made = load_wide().capture(), {}
    for kind in ("int8", "palette8", "palette6", "palette4"):
        folder = tmp_path_factory.mktemp(kind)
        made[kind] = export_here(graph, folder, precision="fp16", ios=16, compress=kind), folder / FILE
    return made


def test_compressed_weights_are_measured(compressed: dict[str, tuple[Exported, Path]]) -> None:
    details = {kind: exported.details["compression"] for kind, (exported, _) in compressed.items()}
    for kind, found in details.items():
        assert (found["kind"], found["tensors"]) == (kind, 2)  # the stem, and one of the linear layers
        assert found["weight_bytes"]["after"] < found["weight_bytes"]["before"]
    (before,) = {found["weight_bytes"]["before"] for found in details.values()}
    after = {kind: found["weight_bytes"]["after"] for kind, found in details.items()}
    assert after == {kind: weight_bytes(package) for kind, (_, package) in compressed.items()}
    assert after["palette4"] < after["palette6"] < after["palette8"]
    assert after["palette4"] < 0.4 * before
    assert details["palette8"]["snr_db"] > details["palette6"]["snr_db"] > details["palette4"]["snr_db"] > 5
    assert 25 < details["int8"]["snr_db"] < 60


def test_the_loss_of_compression_is_against_the_package_as_it_was(
    compressed: dict[str, tuple[Exported, Path]], tmp_path: Path
) -> None:
    graph = load_wide().capture()
    _, function = write(graph, tmp_path, precision="fp16", ios=16)
    exported, package = compressed["palette6"]
    samples = audit_samples(graph)
    outputs = [[execute(each, sample) for sample in samples] for each in (function, load_package(package))]
    assert exported.details["compression"]["snr_db"] == pytest.approx(worst_snr_db(*outputs), abs=1e-6)


def test_names_and_the_types_of_inputs_survive_compression(compressed: dict[str, tuple[Exported, Path]]) -> None:
    for _, package in compressed.values():
        description = ct.models.utils.load_spec(str(package)).description
        (given,), (returned,) = description.input, description.output
        assert (given.name, returned.name) == ("input", "output")
        assert given.type.multiArrayType.dataType == ct.proto.FeatureTypes_pb2.ArrayFeatureType.FLOAT32


@pytest.mark.slow
def test_a_compressed_artifact_is_proven_by_the_limits_of_int8(tmp_path: Path) -> None:
    manifest = export_to(tmp_path, load_wide(), "coreml", ios=18, compress="palette6").manifest
    assert manifest.proof.precision == "int8"
    assert manifest.outcome == Outcome.OK
    assert manifest.options["compress"] == "palette6"
    assert manifest.details["compression"]["snr_db"] > 15


def test_a_compression_that_loses_too_much_is_lossy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(LIMITS, "int8", Limits(snr_db=60.0))
    with here(), pytest.raises(ProofError, match="loses more than int8 may") as error:
        export_to(tmp_path, load_wide(), "coreml", ios=16, compress="palette4")
    assert error.value.outcome == Outcome.LOSSY
    assert "--compress than palette4" in error.value.fix
    assert "--precision" not in error.value.fix
    with here():
        artifact = export(
            load_wide(), "coreml", out=tmp_path, options={"ios": 16, "compress": "palette4"}, allow_lossy=True
        )
    assert artifact.manifest.outcome == Outcome.LOSSY


@pytest.mark.parametrize("kind", ["int8", "palette8", "palette6", "palette4"])
def test_pytorch_loses_by_compression_what_the_package_loses(
    kind: str, compressed: dict[str, tuple[Exported, Path]]
) -> None:
    graph = load_wide().capture()
    rounded = CoreML().simulated(graph, CoreMLOptions(precision="fp32", ios=16, compress=kind))
    assert rounded is not None
    samples = audit_samples(graph)
    outputs = [[run_module(each.module, sample) for sample in samples] for each in (graph, rounded)]
    expected = compressed[kind][0].details["compression"]["snr_db"]
    assert worst_snr_db(*outputs) == pytest.approx(expected, abs=4)


class Offset(nn.Module):
    """What is left of an image beside a thousand: fp16 counts by halves there."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(torch.relu(torch.tanh(self.stem(x)) + 1000) - 1000).mean((2, 3)))


def offset() -> nn.Module:
    return random(Offset())


def test_what_fp16_itself_loses_is_lossy_and_can_be_taken(tmp_path: Path) -> None:
    loaded = load_model("tests.exporters.test_coreml:offset", input_size="1x3x32x32")
    with here():
        with pytest.raises(ProofError, match="loses more than fp16 may") as error:
            export_to(tmp_path, loaded, "coreml")
        assert error.value.outcome == Outcome.LOSSY
        artifact = export(loaded, "coreml", out=tmp_path, allow_lossy=True)
        assert artifact.manifest.outcome == Outcome.LOSSY
        assert bisect(artifact).verdict.startswith("nothing diverges: the artifact keeps")


def test_a_model_without_large_weights_stays_as_it_is_and_says_so(tmp_path: Path) -> None:
    exported = export_here(load_tiny().capture(), tmp_path, ios=16, compress="int8")
    found = exported.details["compression"]
    assert found["weight_bytes"]["before"] == found["weight_bytes"]["after"]
    assert found["tensors"] == 0
    assert exported.notes == ["no weight is large enough to be compressed to int8"]


def test_compression_needs_ios_16() -> None:
    with pytest.raises(UserError, match=r"--compress 'palette6': .* from iOS 16 on: add --ios 16"):
        parse_options(CoreML(), {"compress": "palette6"})
    assert parse_options(CoreML(), {"compress": "palette6", "ios": 16}).compress == "palette6"
    with pytest.raises(UserError, match="compress"):
        parse_options(CoreML(), {"compress": "palette5", "ios": 16})


def test_uncompressed_packages_keep_the_limits_of_their_type() -> None:
    assert CoreML().precision(CoreMLOptions()) == "fp16"
    assert CoreML().precision(CoreMLOptions(precision="fp32")) == "fp32"
    assert CoreML().precision(CoreMLOptions(precision="fp32", ios=16, compress="int8")) == "int8"


def test_the_audit_uses_the_inputs_that_a_graph_is_calibrated_on() -> None:
    graph = load_tiny().capture()
    own = torch.full((1, 3, 32, 32), 7.0)
    samples = audit_samples(replace(graph, calibration=((own,),)))
    assert samples[0][0] is own
    assert len(samples) == 3  # and noise of two strengths, but no photographs
    assert len(audit_samples(graph)) > 3


# without coremltools


def test_without_coremltools_the_target_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tiny_coreml: Artifact, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    exporter = get_exporter("coreml")
    assert exporter.policy(CoreMLOptions()).names
    for act in (
        lambda: exporter.export(load_tiny().capture(), tmp_path, CoreMLOptions(), Stages()),
        lambda: exporter.run(tiny_coreml.main_file, [], CoreMLOptions(), {}),
    ):
        with pytest.raises(MissingDependencyError) as caught:
            act()
        assert caught.value.fix == "pip install 'deploy-kit[coreml]'"


def test_what_is_not_installed_is_reported_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise target.PackageNotFoundError(name)

    monkeypatch.setattr(target, "version", version)
    (requirement,) = CoreML().requirements()
    assert requirement.found is None
    assert "coreml" in requirement.install


# models


def prove(loaded: LoadedModel, folder: Path, **options: Any) -> Any:
    exporter = CoreML()
    chosen = CoreMLOptions(precision="fp32", **options)
    fused, _ = fuse_graph(loaded.capture(), exporter.policy(chosen))
    exported = export_here(fused, folder, **options)
    assert exported.details["unknown_operators"] == []
    return judged(Bench(loaded, "coreml", **options), folder / FILE)


def test_edgevit(tmp_path: Path) -> None:
    loaded = load_model("edgevit_xxs", input_size="1x3x64x64", num_classes=10)
    proof = prove(loaded, tmp_path)
    assert proof.passed, proof.failures


TIMM = [
    "mobilevit_xxs",
    "levit_128s",
    "efficientvit_m0",
    "efficientvit_b0",
    "efficientformer_l1",
    "poolformer_s12",
    "deit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_timm_models(name: str, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    loaded = load_model(f"timm/{name}")
    random(loaded.module)
    assert prove(loaded, tmp_path).noise_ratio < 20
