"""What a variant of a model is: a change of its graph, and what that does to its function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from deploy_kit.graph import Graph


class Effect(StrEnum):
    """What a variant does to what the model computes."""

    APPROXIMATE = "approximate"
    RETRAIN = "retrain"

    @property
    def advice(self) -> str:
        """What is to be done before such a variant is shipped."""
        if self == Effect.APPROXIMATE:
            return "nearly the same function: measure its accuracy"
        return "another function: the model must be trained again"


@dataclass(frozen=True)
class Variant:
    """One change to measure.

    ``edit`` changes a captured graph in place and returns at how many places it did; with 0 the model has nothing of
    the kind. New weights that a variant needs are random: they cost as much as trained ones.
    """

    group: str
    name: str
    effect: Effect
    edit: Callable[[Graph], int]
