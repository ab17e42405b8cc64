"""A failed proof names the pass or the module where the artifact leaves its model; and broken passes never pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import fx

from deploy_kit.errors import ProofError
from deploy_kit.exporters import onnx as onnx_target
from deploy_kit.exporters import torchscript_lite
from deploy_kit.fusion import PASSES, Pass
from deploy_kit.graph import Graph, aten
from tests.support import export_to, load_tiny

Changes = list[tuple[fx.Node, str]]


def after(name: str, damage: Callable[[Graph], None]) -> Callable[[Graph], Changes]:
    """A pass that rewrites as it should, and then does damage."""
    right = PASSES[name].apply

    def wrong(graph: Graph) -> Changes:
        changes = right(graph)
        assert changes, "the right pass finds nothing in this model"
        damage(graph)
        return changes

    return wrong


def scale_constant(graph: Graph, node: fx.Node, index: int, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    old = graph.constant(node.args[index])
    assert old is not None
    node.update_arg(index, graph.add_constant(change(old.clone()), "changed", before=node))


def double_the_identity(graph: Graph) -> None:
    node = list(graph.calls(aten.conv2d.default))[-1]
    scale_constant(graph, node, 1, lambda w: w + torch.ones_like(w) * (torch.arange(9).reshape(3, 3) == 4))


def forget_the_square_root(graph: Graph) -> None:
    node = next(graph.calls(aten.conv2d.default))
    scale_constant(graph, node, 1, lambda w: w * torch.linspace(0.7, 1.3, len(w)).reshape(-1, 1, 1, 1).to(w))


def forget_the_shift(graph: Graph) -> None:
    scale_constant(graph, next(graph.calls(aten.conv2d.default)), 2, torch.zeros_like)


def forget_the_gain(graph: Graph) -> None:
    node = next(graph.calls(aten.linear.default))
    scale_constant(graph, node, 1, lambda w: w * torch.linspace(0.9, 1.1, w.shape[1]).to(w))


WRONG = {
    "affine_into_neighbours": (forget_the_square_root, "bn"),
    "identity_into_depthwise": (double_the_identity, "local"),
    "layer_norm_affine_into_linear": (forget_the_gain, "norm"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_pass_is_caught_and_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage, module = WRONG[name]
    monkeypatch.setitem(PASSES, name, Pass(name, after(name, damage)))
    with pytest.raises(ProofError, match=rf"it diverges at the pass {name}, at {module}\b") as caught:
        export_to(tmp_path, load_tiny(), "onnx", simplify=False)
    assert "do not ship" in caught.value.fix
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_wrong_pass_is_caught_on_the_mobile_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = after("affine_into_neighbours", forget_the_shift)
    monkeypatch.setitem(PASSES, "affine_into_neighbours", Pass("affine_into_neighbours", wrong))
    with pytest.raises(ProofError, match=r"torch lite .* the pass affine_into_neighbours"):
        export_to(tmp_path, load_tiny(), "torchscript-lite")


def drop_activations(graph: Graph) -> Changes:
    changes = [(node, "dropped") for node in graph.calls(aten.gelu.default)]
    for node, _ in changes:
        graph.replace(node, node.args[0])  # type: ignore[arg-type]
    return changes


def test_a_pass_that_fires_where_it_must_not_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PASSES, "compose_permutations", Pass("compose_permutations", drop_activations))
    with pytest.raises(ProofError, match="the pass compose_permutations"):
        export_to(tmp_path, load_tiny(), "onnx", simplify=False)


def spoil_the_head(convert: Callable[..., None]) -> Callable[..., None]:
    """An exporter that writes the head of a correct graph wrongly."""

    def wrong(graph: Graph, *args: object) -> None:
        graph = graph.copy()
        node = list(graph.calls(aten.linear.default))[-1]
        scale_constant(graph, node, 2, torch.zeros_like)
        graph.clean()
        convert(graph, *args)

    return wrong


def test_a_wrong_onnx_exporter_is_caught_and_the_module_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_target, "convert", spoil_the_head(onnx_target.convert))
    with pytest.raises(ProofError, match="it diverges at head"):
        export_to(tmp_path, load_tiny(), "onnx", simplify=False)


def clip_the_stem(convert: Callable[..., None]) -> Callable[..., None]:
    """An exporter that clips the first layer at the largest value that noise reaches there."""

    def wrong(graph: Graph, *args: object) -> None:
        graph = graph.copy()
        clip(graph)
        convert(graph, *args)

    return wrong


def clip(graph: Graph) -> None:
    """Clip the first layer at the largest value that noise reaches there."""
    node = next(graph.calls(aten.conv2d.default))
    weight, bias = graph.constant(node.args[1]), graph.constant(node.args[2])
    largest = aten.conv2d.default(graph.example_inputs[0], weight, bias, *node.args[3:]).abs().max().item()
    graph.replace(node, graph.call(aten.clamp.default, node, -largest, largest, before=node.next, like=node))
    graph.clean()


def test_the_last_tensor_is_looked_at_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: here every other one would leave it out."""
    monkeypatch.setattr("deploy_kit.parity.locate.TAPS", 3)
    monkeypatch.setattr(onnx_target, "convert", spoil_the_head(onnx_target.convert))
    with pytest.raises(ProofError, match="it diverges at head"):
        export_to(tmp_path, load_tiny(), "onnx", simplify=False)


def test_a_place_that_is_wrong_only_for_photographs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_target, "convert", clip_the_stem(onnx_target.convert))
    with pytest.raises(ProofError, match="it diverges at stem"):
        export_to(tmp_path, load_tiny(), "onnx", simplify=False)


def test_a_pass_that_is_wrong_only_for_photographs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "affine_into_neighbours"
    monkeypatch.setitem(PASSES, name, Pass(name, after(name, clip)))
    with pytest.raises(ProofError, match=f"it diverges at the pass {name}"):
        export_to(tmp_path, load_tiny(), "onnx", simplify=False)


def test_a_wrong_lite_exporter_is_caught_and_the_module_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchscript_lite, "trace", spoil_the_head(torchscript_lite.trace))
    with pytest.raises(ProofError, match="it diverges at head"):
        export_to(tmp_path, load_tiny(), "torchscript-lite")
