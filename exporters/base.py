"""What a target is to the rest of deploykit."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from deploy_kit.fusion import Policy
from deploy_kit.fusion.policy import read_policy
from deploy_kit.graph import Graph
from deploy_kit.parity.compare import Precision
from deploy_kit.precision import Lowered, simulated
from deploy_kit.stages import Stages

POLICIES = Path(__file__).with_name("policies")
"""The policies of the targets here, one file a target and class of device."""

UNVERIFIED = "nothing here, emitted only"
"""``Ran.verified_by`` of an artifact that nothing here can run."""


class Options(BaseModel):
    """What a user may choose of a target; each exporter extends it, and unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PrecisionOptions(Options):
    """Of a target that computes in fp16 or int8 as well.

    ``calibration`` is a folder of images to measure ranges on (None is two photographs); the modules in
    ``keep_fp32`` stay in float32, and with ``auto_mixed`` the fewest others that int8 needs to keep its limits.
    """

    precision: Precision = "fp32"
    calibration: Path | None = None
    keep_fp32: tuple[str, ...] = ()
    auto_mixed: bool = False


@dataclass(frozen=True)
class Requirement:
    """Something that a target needs: whether it is here, which, what it is for, and how to get it.

    A target works without an ``optional`` one, as ``purpose`` says.
    """

    name: str
    found: str | None
    purpose: str
    install: str
    optional: bool = False


@dataclass(frozen=True)
class Exported:
    """What an exporter wrote: the file to load, what is in it, and how it was made.

    ``details`` are the target's own facts for the manifest; ``notes`` are for the user to read;
    ``undelegated`` names convolutions and matrix products that were left to slow kernels; ``delegated_share`` is
    the part of all operators that an accelerated backend takes, None for a runtime that has no such division.
    """

    main_file: str
    operators: dict[str, int]
    toolchain: dict[str, str]
    details: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    undelegated: list[str] = field(default_factory=list)
    delegated_share: float | None = None


@dataclass(frozen=True)
class Ran:
    """Outputs of an artifact for each set of inputs, and the runtime that computed them.

    ``outputs`` is None where nothing here can run the artifact; ``reason`` then says why, and ``source`` holds
    the outputs of the file that the artifact was made from, where that can be run.
    """

    outputs: list[list[Tensor]] | None
    verified_by: str
    reason: str | None = None
    source: Ran | None = None


def save_inputs(cases: Sequence[tuple[Tensor, ...]], path: Path) -> None:
    """Write each case's inputs for a worker to read with ``torch.load``."""
    save_tensors([tuple(x.contiguous() for x in case) for case in cases], path)


def save_tensors(value: Any, path: Path) -> None:
    """Write tensors in lists, tuples or dicts from Python: torch's own writer aborts where the disk is full."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    path.write_bytes(buffer.getvalue())


def packaged_policy(name: str) -> Policy:
    """The policy in ``exporters/policies``, by the name of its target and class of device, such as ``onnx.cpu``."""
    return read_policy(POLICIES / f"{name}.json")


class Exporter(ABC):
    """One target: its needs, its fusion policy, how to write its file and how to run it here."""

    name: ClassVar[str]
    summary: ClassVar[str]
    options_type: ClassVar[type[Options]] = Options

    @abstractmethod
    def requirements(self) -> list[Requirement]:
        """What the target needs on this machine, and what of it is here."""

    @abstractmethod
    def policy(self, options: Any) -> Policy:
        """The passes that this target's runtime gains from."""

    def alternatives(self, options: Any) -> dict[str, list[Any]]:
        """Other values of options that make a file for the same purpose, which may be faster; for tuning to try."""
        return {}

    def dynamic_batch(self, options: Any) -> bool:
        """Whether the graph is to be captured with its batch left free."""
        return False

    def precision(self, options: Any) -> Precision:
        """What the artifact computes in, which decides the limits of its proof."""
        return getattr(options, "precision", "fp32")

    def stored_type(self, dtype: torch.dtype) -> torch.dtype:
        """What an input or output of a graph is in the artifact, where its type is ``dtype``."""
        return dtype

    def lower(self, graph: Graph, options: Any) -> Lowered:
        """The fused graph in the precision of the artifact; in float32 for a target that reduces it on its own."""
        return Lowered(graph)

    def simulated(self, graph: Graph, options: Any) -> Graph | None:
        """What `lower` made, for PyTorch to compute with the artifact's rounding; None where it cannot.

        It tells an artifact that is wrong from one whose precision costs too much.
        """
        return simulated(graph, self.precision(options))

    @abstractmethod
    def export(self, graph: Graph, folder: Path, options: Any, stages: Stages) -> Exported:
        """Write ``graph`` into ``folder``; raises `deploy_kit.errors.ExportError`."""

    @abstractmethod
    def run(self, file: Path, inputs: Sequence[tuple[Tensor, ...]], options: Any, details: dict[str, Any]) -> Ran:
        """Run the artifact's main file on each set of inputs, in a process of its own."""
