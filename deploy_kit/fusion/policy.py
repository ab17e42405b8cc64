"""Which passes a target gets, and why; policies are JSON files, one a target and class of device."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter

from deploy_kit.errors import unknown_name


@dataclass(frozen=True)
class Measured:
    """What a pass does to one model: how many times faster it is with the pass than without, all others in place.

    The median over processes, with their range.
    """

    model: str
    faster: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Conditions:
    """Where and when a policy was measured, and the command that does it again.

    ``unit`` is what a ratio is of: seconds, or the instructions of an inference that an emulated processor counts.
    """

    machine: str
    date: str
    threads: int
    versions: dict[str, str]
    command: str
    unit: str = "seconds"


@dataclass(frozen=True)
class Choice:
    """One pass of a policy, why it is there or left out, and what it gained where that was measured.

    ``needed`` passes make a model right, or loadable at all, and are never left out. ``unchanged`` are the measured
    models whose graph is the same with and without the pass.
    """

    name: str
    why: str
    on: bool = True
    needed: bool = False
    measured: tuple[Measured, ...] = ()
    unchanged: tuple[str, ...] = ()


@dataclass(frozen=True)
class Policy:
    """The passes that a target gets or could get, in order; those that are ``on`` are applied.

    ``conditions`` are those of the measurements; None where there are none.
    """

    passes: tuple[Choice, ...]
    conditions: Conditions | None = None

    @property
    def names(self) -> list[str]:
        """The names of the passes that are on, in order."""
        return [choice.name for choice in self.passes if choice.on]

    @property
    def optional(self) -> list[str]:
        """The names of the passes that may be on or off."""
        return list(dict.fromkeys(choice.name for choice in self.passes if not choice.needed))

    @property
    def models(self) -> list[str]:
        """The names of the models that any pass was measured on, or changes nothing in."""
        known = [[*(found.model for found in choice.measured), *choice.unchanged] for choice in self.passes]
        return sorted({name for names in known for name in names})

    def toggled(self, name: str) -> Policy:
        """The policy without a pass that it has on, or with one that it has off; `UserError` where it may not be."""
        if name not in self.optional:
            raise unknown_name("optional pass of the policy", name, self.optional)
        passes = (replace(choice, on=not choice.on) if choice.name == name else choice for choice in self.passes)
        return replace(self, passes=tuple(passes))

    def to_json(self) -> str:
        """The text of the policy's file."""
        return json.dumps(asdict(self), indent=1) + "\n"


def read_policy(file: Path) -> Policy:
    """The policy in a file that `Policy.to_json` wrote; `ValueError` where it is damaged."""
    return TypeAdapter(Policy).validate_json(file.read_text(encoding="utf-8"))


def policy_of(names: Iterable[str]) -> Policy:
    """The policy of just these passes, in this order."""
    return Policy(tuple(Choice(name, "as it was exported") for name in names))


FOLDS = (
    "common_subexpressions",
    "constant_folding",
    "pad_into_convolution",
    "affine_into_neighbours",
    "linear_into_linear",
    "parallel_convs_into_one",
    "identity_into_depthwise",
    "attention_scale_into_query",
    "average_pool_to_slice",
    "slice_before_layer_norm",
    "slice_into_pointwise_conv",
    "layer_norm_affine_into_linear",
    "compose_permutations",
    "compose_views",
)
"""The passes that are exact and leave less to compute, on any runtime, in order."""


def folds(why: str) -> tuple[Choice, ...]:
    """Every pass of `FOLDS`, with a target's reason for them."""
    return tuple(Choice(name, why) for name in FOLDS)
