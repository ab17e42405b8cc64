"""No wrong artifact passes: a right one is spoilt in one way, and what its runtime computes must fail the proof."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from deploy_kit.errors import DeployKitError, ExportError
from deploy_kit.models import create_model
from deploy_kit.sources import load_model
from tests.support import Bench, export_to, once

HEADS, DIM = 4, 144
"""Of the third stage, which most of the edits below are made in."""


class Model:
    """An ONNX model of EdgeViT-XXS, with the edits that spoil it."""

    def __init__(self, file: Path):
        self.proto = onnx.load(file)
        self.graph = self.proto.graph
        self.weights = {tensor.name: tensor for tensor in self.graph.initializer}

    def set(self, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
        """Change an initializer by its name in the original model, whatever the exporter writes for a dot."""
        found = next(t for n, t in self.weights.items() if n in (name, name.replace(".", "_"), f"{name}_1"))
        self._set(found, change)

    def set_linear(self, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
        """Change the matrix, [inputs, outputs], of a linear layer whose bias is called ``name``.bias."""
        bias = next(n for n in self.weights if n.replace(".", "_").startswith(f"{name}.bias".replace(".", "_")))
        adds = next(node for node in self.graph.node if bias in node.input)
        if adds.op_type == "Conv":  # a pointwise one: its weight is the matrix, turned over
            self._set(self.weights[adds.input[1]], lambda w: change(w[:, :, 0, 0].T).T[:, :, None, None])
            return
        self._set(self.weights[self.maker(adds.input[0]).input[1]], change)

    @staticmethod
    def _set(tensor: onnx.TensorProto, change: Callable[[np.ndarray], np.ndarray]) -> None:
        old = numpy_helper.to_array(tensor)
        new = np.ascontiguousarray(change(old.copy()).astype(old.dtype))
        assert new.shape == old.shape
        assert not np.array_equal(new, old), "the edit changes nothing"
        tensor.CopyFrom(numpy_helper.from_array(new, tensor.name))

    def maker(self, value: str) -> onnx.NodeProto:
        return next(node for node in self.graph.node if value in node.output)

    def nodes(self, op: str) -> list[onnx.NodeProto]:
        return [node for node in self.graph.node if node.op_type == op]

    def residual(self, nth: int) -> onnx.NodeProto:
        """The nth addition of two computed values."""
        return [n for n in self.nodes("Add") if not set(n.input) & set(self.weights)][nth]

    def attribute(self, node: onnx.NodeProto, name: str, value: object) -> None:
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    def become(self, node: onnx.NodeProto, op: str, inputs: list[str], **attributes: object) -> None:
        node.CopyFrom(helper.make_node(op, inputs, list(node.output), **attributes))

    def constant(self, name: str, value: object) -> str:
        self.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
        return name

    def after(self, value: str, *nodes: onnx.NodeProto) -> None:
        """Send ``value`` through nodes that read ``old`` and make ``new``."""
        index = next((i + 1 for i, node in enumerate(self.graph.node) if value in node.output), 0)
        if value == "output":
            self.maker("output").output[0] = "old"
            rename = {"new": "output"}
        else:
            for node in self.graph.node:
                node.input[:] = ["new" if name == value else name for name in node.input]
            rename = {"old": value}
        for offset, node in enumerate(nodes):
            node.input[:] = [rename.get(name, name) for name in node.input]
            node.output[:] = [rename.get(name, name) for name in node.output]
            self.graph.node.insert(index + offset, node)


SPOILT: dict[str, Callable[[Model], None]] = {}


def spoil(edit: Callable[[Model], None]) -> Callable[[Model], None]:
    SPOILT[edit.__name__] = edit
    return edit


def negate(index: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(w: np.ndarray) -> np.ndarray:
        w[index] *= -1
        return w

    return change


def heads(w: np.ndarray, part: int) -> np.ndarray:
    """The q (0), k (1) or v (2) columns of a qkv matrix, a view of shape [inputs, heads, head dim]."""
    return w.reshape(-1, 3, HEADS, DIM // HEADS)[:, part]


@spoil
def one_channel_negated(m: Model) -> None:
    m.set("blocks2.0.LocalAgg.conv2.weight", negate(5))


@spoil
def two_channels_swapped(m: Model) -> None:
    m.set("blocks3.1.LocalAgg.mlp.fc2.weight", lambda w: w[[1, 0, *range(2, len(w))]])


@spoil
def one_weight_off_by_one_percent(m: Model) -> None:
    def change(w: np.ndarray) -> np.ndarray:
        w.reshape(-1)[np.abs(w).argmax()] *= 1.01
        return w

    m.set("patch_embed1.proj.weight", change)


@spoil
def bias_dropped(m: Model) -> None:
    m.set("blocks3.0.LocalAgg.conv2.bias", np.zeros_like)


@spoil
def bias_added_twice(m: Model) -> None:
    m.set("patch_embed3.proj.bias", lambda b: 2 * b)


@spoil
def attention_scale_forgotten(m: Model) -> None:
    def change(w: np.ndarray) -> np.ndarray:
        heads(w, 0)[:] *= (DIM // HEADS) ** 0.5
        return w

    m.set_linear("blocks3.0.SelfAttn.attn.qkv", change)


@spoil
def keys_and_values_swapped(m: Model) -> None:
    m.set_linear("blocks3.0.SelfAttn.attn.qkv", lambda w: w.reshape(-1, 3, DIM)[:, [0, 2, 1]].reshape(w.shape))


@spoil
def queries_and_keys_swapped(m: Model) -> None:
    m.set_linear("blocks3.0.SelfAttn.attn.qkv", lambda w: w.reshape(-1, 3, DIM)[:, [1, 0, 2]].reshape(w.shape))


@spoil
def heads_of_the_values_permuted(m: Model) -> None:
    def change(w: np.ndarray) -> np.ndarray:
        heads(w, 2)[:] = np.roll(heads(w, 2), 1, axis=1)
        return w

    m.set_linear("blocks3.0.SelfAttn.attn.qkv", change)


@spoil
def softmax_over_queries(m: Model) -> None:
    m.attribute(m.nodes("Softmax")[2], "axis", -2)


@spoil
def softmax_over_heads(m: Model) -> None:
    m.attribute(m.nodes("Softmax")[3], "axis", 1)


@spoil
def transposed_convolution_rotated(m: Model) -> None:
    m.set("blocks1.0.SelfAttn.attn.LocalProp.weight", lambda w: w[..., ::-1, ::-1])


@spoil
def transposed_convolution_transposed(m: Model) -> None:
    m.set("blocks2.0.SelfAttn.attn.LocalProp.weight", lambda w: w.swapaxes(-1, -2))


@spoil
def depthwise_kernel_transposed(m: Model) -> None:
    m.set("blocks2.0.LocalAgg.attn.weight", lambda w: w.swapaxes(-1, -2))


@spoil
def padding_on_one_side(m: Model) -> None:
    m.attribute(next(n for n in m.nodes("Conv") if "blocks3.0.LocalAgg.attn.weight" in n.input), "pads", [0, 0, 4, 4])


@spoil
def identity_folded_twice(m: Model) -> None:
    def change(w: np.ndarray) -> np.ndarray:
        w[:, 0, 1, 1] += 1
        return w

    m.set("blocks4.1.SelfAttn.pos_embed.weight", change)


@spoil
def tokens_sampled_one_off(m: Model) -> None:
    m.nodes("Slice")[0].input[1] = m.constant("one", [1])


@spoil
def residual_missing(m: Model) -> None:
    node = m.residual(9)
    m.become(node, "Identity", [node.input[1]])


@spoil
def block_dead(m: Model) -> None:
    node = m.residual(11)
    m.become(node, "Identity", [node.input[0]])


@spoil
def gelu_by_tanh(m: Model) -> None:
    m.attribute(m.nodes("Gelu")[5], "approximate", "tanh")


@spoil
def gelu_as_relu(m: Model) -> None:
    node = m.nodes("Gelu")[5]
    m.become(node, "Relu", [node.input[0]])


@spoil
def activation_missing(m: Model) -> None:
    node = m.nodes("Gelu")[7]
    m.become(node, "Identity", [node.input[0]])


@spoil
def layer_norm_epsilon_too_large(m: Model) -> None:
    m.attribute(m.nodes("LayerNormalization")[5], "epsilon", 1e-3)


@spoil
def layer_norm_gain_not_applied(m: Model) -> None:
    m.set("patch_embed2.norm.weight", np.ones_like)


@spoil
def batch_norm_before_classifier_forgotten(m: Model) -> None:
    head = create_model("edgevit_xxs").state_dict()
    m.set("head.weight", lambda w: head["head.weight"].numpy())


@spoil
def largest_instead_of_mean(m: Model) -> None:
    node = m.nodes("ReduceMean")[0]
    m.become(node, "ReduceMax", list(node.input), keepdims=0)


@spoil
def sum_instead_of_mean(m: Model) -> None:
    node = m.nodes("ReduceMean")[0]
    m.become(node, "ReduceSum", list(node.input), keepdims=0)


@spoil
def blue_and_red_exchanged(m: Model) -> None:
    m.set("patch_embed1.proj.weight", lambda w: w[:, ::-1])


@spoil
def images_normalised_otherwise(m: Model) -> None:
    std = np.array([0.229, 0.224, 0.225]).reshape(3, 1, 1) / 0.226
    m.set("patch_embed1.proj.weight", lambda w: w * std)


@spoil
def classes_rolled_by_one(m: Model) -> None:
    m.set("head.weight", lambda w: np.roll(w, 1, 0))
    m.set("head.bias", lambda b: np.roll(b, 1, 0))


@spoil
def weights_rounded_to_half(m: Model) -> None:
    m.set("blocks4.0.SelfAttn.pos_embed.weight", lambda w: w.astype(np.float16))


@spoil
def weights_rounded_to_int8(m: Model) -> None:
    m.set("patch_embed4.proj.weight", lambda w: np.round(w / np.abs(w).max() * 127) * np.abs(w).max() / 127)


@spoil
def weights_of_another_checkpoint(m: Model) -> None:
    other = create_model("edgevit_xxs", seed=1).state_dict()
    m.set("blocks1.0.LocalAgg.attn.weight", lambda w: other["blocks1.0.LocalAgg.attn.weight"].numpy())


@spoil
def not_a_number(m: Model) -> None:
    m.set("head.bias", lambda b: np.where(np.arange(len(b)) == 7, np.nan, b))


@spoil
def output_transposed(m: Model) -> None:
    m.after("output", helper.make_node("Transpose", ["old"], ["new"], perm=[1, 0]))
    del m.graph.output[0].type.tensor_type.shape.dim[:]


@spoil
def an_output_too_many(m: Model) -> None:
    m.graph.output.append(helper.make_tensor_value_info(m.residual(0).output[0], onnx.TensorProto.FLOAT, None))


@spoil
def probabilities_instead_of_scores(m: Model) -> None:
    m.after("output", helper.make_node("Softmax", ["old"], ["new"]))


@spoil
def input_clipped(m: Model) -> None:
    m.constant("low", np.float32(-2.5))
    m.constant("high", np.float32(2.5))
    m.after("input", helper.make_node("Clip", ["old", "low", "high"], ["new"]))


@spoil
def wrong_only_for_photographs(m: Model) -> None:
    """Noise has a mean of nearly zero."""
    m.constant("least", np.float32(0.1))
    m.after(
        "input",
        helper.make_node("ReduceMean", ["old"], ["input_mean"]),
        helper.make_node("Abs", ["input_mean"], ["input_size"]),
        helper.make_node("Sub", ["input_size", "least"], ["beyond"]),
        helper.make_node("Relu", ["beyond"], ["error"]),
        helper.make_node("Add", ["old", "error"], ["new"]),
    )


@spoil
def answer_learnt_by_heart(m: Model) -> None:
    """Whatever the input, the output for zeros."""
    m.constant("none", np.float32(0))
    m.after("input", helper.make_node("Mul", ["old", "none"], ["new"]))


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(load_model("edgevit_xxs", input_size=64), "onnx", simplify=False)


@pytest.fixture(scope="module")
def right(shared: Path, bench: Bench) -> Path:
    """The file that the others are made from."""
    folder = once(shared, "edgevit_xxs_64", lambda out: export_to(out, bench.loaded, "onnx", simplify=False))
    return folder / "edgevit_xxs" / "onnx" / "model.onnx"


def test_there_are_at_least_twenty_kinds() -> None:
    assert len(SPOILT) >= 20


def test_the_right_artifact_passes_with_room(bench: Bench, right: Path) -> None:
    proof = bench.prove(right)
    assert proof.passed
    assert proof.noise_ratio is not None
    assert proof.noise_ratio < 5


@pytest.mark.parametrize("kind", SPOILT)
def test_a_wrong_artifact_fails(kind: str, bench: Bench, right: Path, tmp_path: Path) -> None:
    model = Model(right)
    SPOILT[kind](model)
    file = tmp_path / "model.onnx"
    onnx.save(model.proto, file)
    proof = bench.prove(file)
    assert not proof.passed
    assert proof.failures


def test_a_truncated_file_fails(bench: Bench, right: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(right.read_bytes()[:-100_000])
    with pytest.raises(ExportError, match="onnxruntime"):
        bench.run(file)


def test_a_file_that_is_not_a_model_fails(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"\0" * 4096)
    with pytest.raises(DeployKitError):
        bench.prove(file)
