"""A reduced precision that costs too much is `lossy`; a file that is wrong is a mismatch in any precision."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from deploy_kit.api import export
from deploy_kit.errors import ProofError
from deploy_kit.fusion import PASSES, Pass
from deploy_kit.graph import Graph, aten
from deploy_kit.outcome import Outcome
from deploy_kit.parity.compare import LIMITS, Comparison, Precision
from deploy_kit.parity.proof import Proof
from deploy_kit.parity.reduced import Simulation, failure, fault
from tests.parity.test_locate import WRONG, after, scale_constant
from tests.support import load_tiny


def proof(snr_db: float | None, precision: Precision = "fp16") -> Proof:
    limits = LIMITS[precision]
    case = compared(snr_db)
    passed = snr_db is not None and snr_db >= (limits.snr_db or 0)
    failures = [] if passed else ["noise: it fails"]
    return Proof(
        passed=passed, verified_by="a test", precision=precision, limits=limits, failures=failures, cases=[case]
    )


def compared(snr_db: float | None, problem: str | None = None) -> Comparison:
    ratio = None if snr_db is None else 1.0
    return Comparison(case="noise", kind="noise", snr_db=snr_db, noise_ratio=ratio, problem=problem)


RIGHT = proof(120, "fp32")


def test_a_file_is_wrong_where_pytorch_is_much_nearer() -> None:
    assert fault(proof(35), Simulation(RIGHT, proof(46))) == "PyTorch keeps 46.0 dB in the same precision"
    assert fault(proof(35), Simulation(RIGHT, proof(44))) is None  # kernels round in other places
    assert fault(proof(11), Simulation(RIGHT, proof(39))) == "PyTorch keeps 39.0 dB in the same precision"
    assert fault(proof(11), Simulation(RIGHT, proof(19))) is None  # the precision costs too much by itself
    assert fault(proof(-5), Simulation(RIGHT, proof(9))) is None  # next to nothing is left in either
    assert fault(proof(35), Simulation(RIGHT, None)) is None


def test_a_file_is_wrong_where_the_fused_graph_is() -> None:
    found = fault(proof(11), Simulation(proof(11, "fp32"), None))
    assert found == "so does the fused graph in float32: noise: it fails"


def test_a_tensor_is_wrong_where_it_loses_what_pytorch_keeps() -> None:
    limits = LIMITS["int8"]
    assert failure(compared(12), compared(23), limits) == (
        "noise: the SNR is 12.0 dB, and PyTorch's in the same precision 23.0"
    )
    assert failure(compared(12), compared(21), limits) is None
    assert failure(compared(40), compared(999), limits) is None  # an error that no output will show
    overflow = "output 0 holds values that are not finite"
    assert failure(compared(None, overflow), compared(23), limits) == f"noise: {overflow}"
    assert failure(compared(None, overflow), compared(None, overflow), limits) is None


Write = Callable[..., Any]


def without_bias(write: Write, nth: int) -> Write:
    """An exporter that leaves out the bias of one layer of a right graph."""

    def wrong(graph: Graph, *arguments: object) -> Any:
        graph = graph.copy()
        layer = list(graph.calls(aten.conv2d.default, aten.linear.default))[nth]
        scale_constant(graph, layer, 2, torch.zeros_like)
        graph.clean()
        return write(graph, *arguments)

    return wrong


WRITERS = {
    "onnx": ("onnx", "convert"),
    "openvino": ("openvino", "convert"),
    "torchscript-lite": ("torchscript_lite", "trace"),
    "executorch": ("executorch", "export_program"),
    "coreml": ("coreml", "save_program"),
}
"""The module of each target, and what of it is given the graph."""

NEEDS = {"openvino": "openvino", "executorch": "executorch", "coreml": "coremltools"}


def forget_a_bias(target: str, nth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a target's exporter leave out one layer's bias."""
    if target in NEEDS and importlib.util.find_spec(NEEDS[target]) is None:
        pytest.skip(f"{NEEDS[target]} is not installed")
    module, name = WRITERS[target]
    exporter = importlib.import_module(f"deploy_kit.exporters.{module}")
    monkeypatch.setattr(exporter, name, without_bias(getattr(exporter, name), nth))


STEM, HEAD = (0, "stem"), (-1, "head")
PLANTED = [
    pytest.param(target, options, place, id=f"{target}-{'-'.join(map(str, options.values()))}-{place[1]}", marks=marks)
    for target, options, place, marks in [
        ("onnx", {"precision": "fp16", "simplify": False}, STEM, ()),
        ("onnx", {"precision": "int8", "simplify": False}, HEAD, ()),
        ("openvino", {"precision": "fp16"}, HEAD, ()),
        ("openvino", {"precision": "int8"}, STEM, ()),
        ("torchscript-lite", {"precision": "int8"}, STEM, ()),
        ("executorch", {"precision": "fp16"}, HEAD, pytest.mark.slow),
        ("executorch", {"precision": "int8"}, HEAD, pytest.mark.slow),
        ("coreml", {"precision": "fp16"}, STEM, pytest.mark.slow),
        ("coreml", {"precision": "int8"}, HEAD, pytest.mark.slow),
        ("coreml", {"compress": "int8", "ios": 16}, HEAD, pytest.mark.slow),
    ]
]


@pytest.mark.parametrize(("target", "options", "place"), PLANTED)
def test_a_wrong_file_is_refused_and_its_place_named(
    target: str, options: dict[str, Any], place: tuple[int, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nth, module = place
    forget_a_bias(target, nth, monkeypatch)
    message = rf"does not compute .* PyTorch keeps \d+\.\d dB in the same precision; it diverges at {module}$"
    with pytest.raises(ProofError, match=message) as caught:
        export(load_tiny(), target, out=tmp_path, options=options, allow_lossy=True)
    assert caught.value.outcome == Outcome.MISMATCH
    assert "do not ship it" in caught.value.fix
    assert "--allow-lossy" not in caught.value.fix
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_it_is_refused_without_consent_in_the_same_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_a_bias("onnx", -1, monkeypatch)
    options = {"precision": "int8", "simplify": False}
    with pytest.raises(ProofError, match=r"does not compute .* it diverges at head$") as caught:
        export(load_tiny(), "onnx", out=tmp_path, options=options)
    assert caught.value.outcome == Outcome.MISMATCH


def test_a_wrong_pass_is_no_loss_of_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph in fp16 is made from what the pass made, so PyTorch in fp16 is as wrong as the file."""
    name = "affine_into_neighbours"
    monkeypatch.setitem(PASSES, name, Pass(name, after(name, WRONG[name][0])))
    options = {"precision": "fp16", "simplify": False}
    with pytest.raises(ProofError, match=f"so does the fused graph .* the pass {name}, at bn") as caught:
        export(load_tiny(), "onnx", out=tmp_path, options=options, allow_lossy=True)
    assert caught.value.outcome == Outcome.MISMATCH
