"""Where coremltools 9.0 would write another model than it was given."""

from __future__ import annotations

from typing import Any

INEXACT_PASSES = ("common::fuse_elementwise_to_batchnorm",)
"""It writes a gain and a shift as a ``batch_norm`` with a variance of 1 and an epsilon of 1e-5: 5e-6 too small."""


def exact_pipeline() -> Any:
    """coremltools' default passes without those that change results by more than rounding."""
    import coremltools as ct

    pipeline = ct.PassPipeline()
    pipeline.remove_passes(INEXACT_PASSES)
    return pipeline


def register_translations() -> None:
    """Replace coremltools' translations of these operators by those below."""
    from coremltools.converters.mil.frontend.torch.torch_op_registry import register_torch_op

    for translate in (alias, gelu):
        register_torch_op(translate, override=True)


def alias(context: Any, node: Any) -> None:
    """``alias``, which torch.export leaves in graphs, gives back what it is given; coremltools has no translation."""
    x, *_ = _inputs(context, node)
    context.add(x, node.name)


def gelu(context: Any, node: Any) -> None:
    """GELU with ``approximate``, which is a keyword in exported programs; coremltools overlooks it there."""
    from coremltools.converters.mil import Builder as mb  # noqa: N813  # coremltools' own short name
    from coremltools.converters.mil.frontend.torch.ops import _get_kwinputs

    x, *rest = _inputs(context, node)
    approximate = rest[0] if rest else _get_kwinputs(context, node, "approximate", default=[None])[0]
    tanh = getattr(approximate, "val", approximate) == "tanh"  # text, or a variable that holds it
    context.add(mb.gelu(x=x, mode="TANH_APPROXIMATION" if tanh else "EXACT", name=node.name))


def _inputs(context: Any, node: Any) -> list[Any]:
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs

    return _get_inputs(context, node)
