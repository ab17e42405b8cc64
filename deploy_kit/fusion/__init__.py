"""Fusion: exact rewrites of the graph, one file a pass; see `PASSES` for the list."""

from __future__ import annotations

from deploy_kit.errors import unknown_name
from deploy_kit.fusion.affine_into_neighbours import affine_into_neighbours
from deploy_kit.fusion.attention_scale_into_query import attention_scale_into_query
from deploy_kit.fusion.average_pool_to_depthwise_conv import average_pool_to_depthwise_conv
from deploy_kit.fusion.average_pool_to_slice import average_pool_to_slice
from deploy_kit.fusion.channels_last_input import channels_last_input
from deploy_kit.fusion.common_subexpressions import common_subexpressions
from deploy_kit.fusion.compose_permutations import compose_permutations
from deploy_kit.fusion.compose_views import compose_views
from deploy_kit.fusion.constant_folding import constant_folding
from deploy_kit.fusion.constants_between_views import constants_between_views
from deploy_kit.fusion.decompose_attention import decompose_attention
from deploy_kit.fusion.decompose_rms_norm import decompose_rms_norm
from deploy_kit.fusion.decompose_tanh_gelu import decompose_tanh_gelu
from deploy_kit.fusion.elementwise_in_place import elementwise_in_place
from deploy_kit.fusion.gelu_on_tokens import gelu_on_tokens
from deploy_kit.fusion.gelu_to_sigmoid import gelu_to_sigmoid
from deploy_kit.fusion.gelu_to_tanh import gelu_to_tanh
from deploy_kit.fusion.group_norm_to_products import group_norm_to_products
from deploy_kit.fusion.identity_into_depthwise import identity_into_depthwise
from deploy_kit.fusion.layer_norm_affine_into_linear import layer_norm_affine_into_linear
from deploy_kit.fusion.layer_norm_to_products import layer_norm_to_products
from deploy_kit.fusion.linear_into_linear import linear_into_linear
from deploy_kit.fusion.linear_to_pointwise_conv import linear_to_pointwise_conv
from deploy_kit.fusion.matmul_to_bmm import matmul_to_bmm
from deploy_kit.fusion.mean_before_linear import mean_before_linear
from deploy_kit.fusion.mean_keeps_dims import mean_keeps_dims
from deploy_kit.fusion.merge_parallel_projections import merge_parallel_projections
from deploy_kit.fusion.pad_into_convolution import pad_into_convolution
from deploy_kit.fusion.parallel_convs_into_one import parallel_convs_into_one
from deploy_kit.fusion.pointwise_conv_to_linear import pointwise_conv_to_linear
from deploy_kit.fusion.policy import Policy
from deploy_kit.fusion.raise_permutations import raise_permutations
from deploy_kit.fusion.rank_four_views import rank_four_views
from deploy_kit.fusion.resize_to_product import resize_to_product
from deploy_kit.fusion.rewrite import Pass, Rewrite
from deploy_kit.fusion.roll_to_slices import roll_to_slices
from deploy_kit.fusion.sink_permutations import sink_permutations
from deploy_kit.fusion.slice_before_layer_norm import slice_before_layer_norm
from deploy_kit.fusion.slice_into_pointwise_conv import slice_into_pointwise_conv
from deploy_kit.fusion.softmax_in_three_axes import softmax_in_three_axes
from deploy_kit.fusion.split_joint_projection import split_joint_projection
from deploy_kit.fusion.strided_slice_to_depthwise_conv import strided_slice_to_depthwise_conv
from deploy_kit.fusion.transposed_conv_to_product import transposed_conv_to_product
from deploy_kit.fusion.widen_transposed_conv_groups import widen_transposed_conv_groups
from deploy_kit.graph import Graph

PASSES: dict[str, Pass] = {
    function.__name__: Pass(function.__name__, function)
    for function in (
        constant_folding,
        common_subexpressions,
        decompose_attention,
        decompose_rms_norm,
        decompose_tanh_gelu,
        pad_into_convolution,
        affine_into_neighbours,
        parallel_convs_into_one,
        identity_into_depthwise,
        attention_scale_into_query,
        average_pool_to_slice,
        average_pool_to_depthwise_conv,
        slice_before_layer_norm,
        slice_into_pointwise_conv,
        layer_norm_affine_into_linear,
        linear_into_linear,
        transposed_conv_to_product,
        resize_to_product,
        pointwise_conv_to_linear,
        compose_permutations,
        roll_to_slices,
        constants_between_views,
        rank_four_views,
        sink_permutations,
        raise_permutations,
        gelu_on_tokens,
        mean_before_linear,
        split_joint_projection,
        merge_parallel_projections,
        layer_norm_to_products,
        group_norm_to_products,
        linear_to_pointwise_conv,
        strided_slice_to_depthwise_conv,
        widen_transposed_conv_groups,
        mean_keeps_dims,
        matmul_to_bmm,
        softmax_in_three_axes,
        compose_views,
        channels_last_input,
        elementwise_in_place,
    )
}
"""Every pass, by name."""

APPROXIMATIONS: dict[str, Pass] = {
    function.__name__: Pass(function.__name__, function, exact=False) for function in (gelu_to_tanh, gelu_to_sigmoid)
}
"""What is not exact, by name; no policy has one."""


def fuse_graph(graph: Graph, policy: Policy) -> tuple[Graph, list[Rewrite]]:
    """Apply a policy's passes in its order.

    Returns:
        A new graph, and every rewrite that was made. ``graph`` itself is not changed.
    """
    fused = graph.copy()
    rewrites: list[Rewrite] = []
    for name in policy.names:
        if name not in PASSES:
            raise unknown_name("pass", name, PASSES)
        rewrites += PASSES[name].run(fused)
    fused.clean()
    return fused, rewrites


__all__ = ["APPROXIMATIONS", "PASSES", "Pass", "Policy", "Rewrite", "fuse_graph"]
