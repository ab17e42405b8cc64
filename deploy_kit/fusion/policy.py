"""Which passes a target gets, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """One pass of a policy and the measurement or the limit of the runtime that chose it."""

    name: str
    why: str


@dataclass(frozen=True)
class Policy:
    """The passes that a target gets, in order."""

    passes: tuple[Choice, ...]

    @property
    def names(self) -> list[str]:
        """The names of the passes, in order."""
        return [choice.name for choice in self.passes]


FOLDS = (
    "constant_folding",
    "batch_norm_into_producer",
    "batch_norm_into_consumer",
    "batch_norm_into_classifier",
    "identity_into_depthwise",
    "attention_scale_into_query",
    "average_pool_to_slice",
    "slice_before_layer_norm",
    "slice_into_pointwise_conv",
    "layer_norm_affine_into_linear",
    "compose_permutations",
)
"""The passes that are exact and leave less to compute, on any runtime, in order."""


def folds(why: str) -> tuple[Choice, ...]:
    """Every pass of `FOLDS`, with a target's reason for them."""
    return tuple(Choice(name, why) for name in FOLDS)
