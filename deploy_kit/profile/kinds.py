"""What an operator of a runtime does with the processor: compute, or one of the ways of moving memory about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Kind = Literal["compute", "layout", "normalisation", "elementwise", "reduction", "other"]
KINDS: tuple[Kind, ...] = ("compute", "layout", "normalisation", "elementwise", "reduction", "other")
MEMORY_BOUND: tuple[Kind, ...] = ("layout", "normalisation", "elementwise", "reduction")
"""Kinds that do so little arithmetic on each value that memory sets their pace. ``other`` is not known."""


def _table(**names: str) -> dict[str, Kind]:
    return {name: kind for kind in KINDS for name in names.get(kind, "").split()}


ATEN = _table(
    compute="conv1d conv2d conv3d _convolution convolution conv_transpose1d conv_transpose2d conv_transpose3d "
    "conv_transpose2d_clamp_run conv2d_transpose_clamp_run conv2d_clamp_run linear_clamp_run linear "
    "matmul bmm mm addmm baddbmm einsum scaled_dot_product_attention mkldnn_convolution "
    "_mkldnn_transposed_convolution _slow_conv2d_forward thnn_conv2d slow_conv_transpose2d "
    "_conv_depthwise2d _nnpack_spatial_convolution mv dot conv2d_relu linear_relu lstm gru rnn_tanh "
    "rnn_relu bilinear",
    layout="view reshape _reshape_alias _unsafe_view flatten unflatten permute transpose t squeeze unsqueeze "
    "select slice unbind split split_with_sizes chunk narrow expand expand_as contiguous clone copy cat "
    "stack roll index gather as_strided empty empty_like empty_strided resize resolve_conj resolve_neg "
    "alias detach to _to_copy pad constant_pad_nd reflection_pad2d replication_pad2d repeat tile "
    "pixel_shuffle pixel_unshuffle flip native_channel_shuffle channel_shuffle index_select "
    "upsample_nearest2d getitem lift_fresh zeros zeros_like _cat item _local_scalar_dense set_ "
    "_empty_affine_quantized q_scale q_zero_point int_repr "
    "broadcast_tensors movedim",
    normalisation="layer_norm native_layer_norm batch_norm native_batch_norm _batch_norm_impl_index group_norm "
    "native_group_norm instance_norm rms_norm _fused_rms_norm softmax _softmax log_softmax _log_softmax "
    "normalize _native_batch_norm_legit_no_training",
    elementwise="add sub rsub mul div addcmul addcdiv pow sqrt rsqrt exp log neg abs reciprocal relu relu6 gelu "
    "silu hardswish hardsigmoid hardtanh sigmoid tanh clamp clamp_min clamp_max leaky_relu elu mish "
    "prelu softplus maximum minimum where masked_fill eq ne lt gt le ge fill zero erf sin cos floor "
    "ceil round sign lerp add_relu mul_relu quantize_per_tensor quantize_per_channel dequantize "
    "fake_quantize_per_tensor_affine dropout square fake_quantize_per_channel_affine "
    "quantize_per_tensor_dynamic upsample_bilinear2d upsample_bicubic2d",
    reduction="mean sum amax amin max min var std var_mean argmax argmin topk sort cumsum norm linalg_vector_norm "
    "avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool2d max_pool2d max_pool2d_with_indices "
    "adaptive_max_pool2d prod all any",
)
"""PyTorch's operators, without namespace, overload and the underscore of those in place."""

ONNX = _table(
    compute="Conv FusedConv NhwcFusedConv ConvTranspose Gemm FusedGemm MatMul FusedMatMul Attention "
    "MultiHeadAttention QLinearConv QLinearMatMul QGemm MatMulInteger MatMulIntegerToFloat "
    "DynamicQuantizeMatMul ConvInteger Einsum TransposeMatMul MatMulNBits LSTM GRU RNN QAttention "
    "GroupQueryAttention",
    layout="Reshape Transpose Flatten Squeeze Unsqueeze Slice Split SplitToSequence SequenceAt Concat Gather "
    "GatherElements GatherND ScatterND ScatterElements Expand Tile Pad Identity Cast Shape Size "
    "DepthToSpace SpaceToDepth ReorderInput ReorderOutput MemcpyToHost MemcpyFromHost ConstantOfShape "
    "Constant Range QLinearConcat",
    normalisation="LayerNormalization SimplifiedLayerNormalization SkipLayerNormalization BatchNormalization "
    "GroupNormalization InstanceNormalization RMSNormalization LpNormalization Softmax LogSoftmax "
    "QLinearSoftmax MeanVarianceNormalization",
    elementwise="Add Sub Mul Div Pow Sqrt Exp Log Neg Abs Reciprocal Relu Gelu FastGelu BiasGelu QuickGelu Sigmoid "
    "Tanh HardSwish HardSigmoid Swish Clip LeakyRelu Elu Mish PRelu Softplus Erf Max Min Where Equal "
    "Greater Less And Or Not Floor Ceil Round Sign Sin Cos Sum QuantizeLinear DequantizeLinear "
    "DynamicQuantizeLinear QLinearAdd QLinearMul QLinearSigmoid QLinearLeakyRelu GreaterOrEqual "
    "LessOrEqual Resize Upsample",
    reduction="ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare "
    "ReduceLogSumExp AveragePool MaxPool GlobalAveragePool GlobalMaxPool QLinearAveragePool "
    "QLinearGlobalAveragePool ArgMax ArgMin TopK CumSum QLinearReduceMean",
)
"""ONNX's operators and those that onnxruntime makes of them."""

OPENVINO = _table(
    compute="Convolution GroupConvolution ConvolutionBackpropData GroupConvolutionBackpropData FullyConnected "
    "MatMul ScaledDotProductAttention ScaledDotProductAttentionWithKVCache Deconvolution RNNSeq "
    "LSTMSequence GRUSequence MHA",
    layout="Reorder Reshape Transpose Squeeze Unsqueeze Slice StridedSlice Split VariadicSplit Concat "
    "Concatenation Gather GatherElements GatherND Broadcast Tile Pad Convert DepthToSpace SpaceToDepth "
    "ShapeOf Roll ShuffleChannels ScatterNDUpdate ScatterUpdate ScatterElementsUpdate",
    normalisation="MVN RMS Softmax SoftMax LogSoftmax NormalizeL2 BatchNormInference GroupNormalization RMSNorm",
    elementwise="Add Subtract Multiply Divide Power Sqrt Exp Log Negative Abs Relu Gelu Sigmoid Tanh HSwish "
    "HSigmoid Swish Clamp PRelu Elu Mish SoftPlus Erf Maximum Minimum Select Eltwise FakeQuantize "
    "Interpolate MulAdd SquaredDifference Subgraph",
    reduction="ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL2 AvgPool MaxPool AdaptiveAvgPool TopK",
)
"""OpenVINO's operators and those that its CPU plugin makes of them; a ``Subgraph`` is code that it generates."""

TABLES: Mapping[str, Mapping[str, Kind]] = {
    "aten": ATEN,
    "torchscript-lite": ATEN,
    "onnx": ONNX,
    "openvino": OPENVINO,
}


def classify(runtime: str, operator: str) -> Kind:
    """The kind of an operator by its name in a runtime (a key of `TABLES`); ``other`` where it is not known."""
    table = TABLES[runtime]
    if table is not ATEN:
        return table.get(operator, "other")
    name = operator.rpartition("::")[2].removeprefix("aten.").split(".")[0]
    return table.get(name) or table.get(name.rstrip("_")) or "other"
