"""The manifest: everything that is known about an artifact, in one versioned JSON document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deploy_kit.errors import UserError
from deploy_kit.outcome import Outcome
from deploy_kit.parity.inputs import InputType
from deploy_kit.parity.proof import Proof
from deploy_kit.preprocessing import Preprocessing
from deploy_kit.statistics import Statistics

SCHEMA_VERSION: Literal[1] = 1
MANIFEST = "manifest.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WeightsRecord(_Record):
    """Where a model's weights came from, and the sha256 of its state dict.

    ``random`` weights are drawn from ``seed``: such an artifact is for measuring, not for predicting. ``timm`` ones
    too, unless they have a ``path``: timm's name of the pretrained weights.
    ``package`` ones are those that a model of ours was trained to, and comes with.
    """

    kind: Literal["random", "checkpoint", "program", "callable", "timm", "package"]
    sha256: str
    seed: int | None = None
    path: str | None = None

    @property
    def untrained(self) -> bool:
        """Whether they are random."""
        return self.kind == "random" or (self.kind == "timm" and self.path is None)

    @property
    def description(self) -> str:
        """A short line for tables."""
        if self.untrained:
            return f"random (seed {self.seed}): not trained"
        if self.kind == "checkpoint":
            return f"{Path(self.path or '').name}, sha256 {self.sha256[:12]}"
        if self.kind == "timm":
            return f"timm's {self.path}, sha256 {self.sha256[:12]}"
        if self.kind == "package":
            return f"trained weights of the package, sha256 {self.sha256[:12]}"
        return "of the program" if self.kind == "program" else "as the callable made them"


class ApproximationRecord(_Record):
    """What was approximated, with consent: at how many places, and how far that is from the model, in float64.

    ``top1_agreement`` is None where outputs are not class scores.
    """

    name: str
    places: int
    max_relative_error: float
    snr_db: float
    top1_agreement: float | None

    @property
    def description(self) -> str:
        """A line for tables."""
        agrees = "" if self.top1_agreement is None else f", the first class agrees in {self.top1_agreement:.0%}"
        off = f"{self.max_relative_error:.1e} off the model at most, {self.snr_db:.0f} dB"
        return f"{self.places} x {self.name}: {off}{agrees}"


class ModelRecord(_Record):
    """What was exported; ``source`` is what ``deploykit export`` was given, and builds it again.

    ``input_shapes`` are the model's own, and ``input_types`` what was said of each; none where all are float32, or the
    model makes its own inputs. With ``embeds_preprocessing`` the artifact takes uint8 images instead.
    ``approximation`` is what it computes in the model's place.
    """

    name: str
    source: str
    activation: str | None
    num_classes: int | None
    input_shapes: list[list[int]]
    input_types: list[InputType] = []
    weights: WeightsRecord
    embeds_preprocessing: bool = False
    approximation: ApproximationRecord | None = None

    @property
    def input_size(self) -> str:
        """The shapes and types of the inputs as ``--input-size`` takes them."""
        shapes = ["x".join(map(str, shape)) for shape in self.input_shapes]
        types = self.input_types or [InputType()] * len(shapes)
        return ",".join(shape if kind == InputType() else f"{shape}:{kind}" for shape, kind in zip(shapes, types))


class TensorRecord(_Record):
    """One input or output; a dimension of None is free."""

    name: str
    shape: list[int | None]
    dtype: str


class RewriteRecord(_Record):
    """One rewrite: its pass, the module of the original model, and what was done."""

    pass_name: str
    module: str
    detail: str


class FusionRecord(_Record):
    """The passes of the target's policy, what they rewrote, and what that did to the graph."""

    passes: list[str]
    rewrites: list[RewriteRecord]
    before: Statistics
    after: Statistics


class RatioRecord(_Record):
    """How many times faster one file is than another: the median over processes, and its range."""

    median: float
    lowest: float
    highest: float


class TrialRecord(_Record):
    """One change that a search for the fastest form tried, ``over`` the changes that it had taken before.

    ``faster`` is against the form without it; None where it was not timed. ``noise_ratio`` is of its proof.
    """

    change: str
    over: list[str]
    result: str
    taken: bool
    faster: RatioRecord | None = None
    noise_ratio: float | None = None


UNTRIED = "not tried"
"""The result of a change that the budget of a search did not reach."""


class TuningRecord(_Record):
    """How the form of an artifact was found: where and how it was measured, and everything that was tried.

    ``unit`` is of what was measured: an emulated processor counts instructions. ``noise`` is how many times faster a
    file seemed than a copy of itself, in any process; ``conditions`` are what was not good on the device meanwhile.
    ``complete`` is whether the budget was enough for every change. ``faster`` is the artifact's form against the
    target's own; None where that was kept.
    """

    created: str
    device: str
    described: str
    threads: int
    warmup: int
    iterations: int
    budget_s: float
    spent_s: float
    unit: Literal["seconds", "instructions"] = "seconds"
    noise: float
    conditions: list[str] = []
    trials: list[TrialRecord]
    complete: bool
    taken: list[str]
    faster: RatioRecord | None

    @property
    def tried(self) -> int:
        """How many of the changes the budget reached."""
        return sum(trial.result != UNTRIED for trial in self.trials)


class FileRecord(_Record):
    """One file of the artifact, by its path in the folder."""

    path: str
    bytes: int
    sha256: str


class Manifest(_Record):
    """The whole document. ``main_file`` is the one that a runtime loads."""

    schema_version: Literal[1] = SCHEMA_VERSION
    created: str
    toolchain: dict[str, str]
    target: str
    outcome: Outcome
    options: dict[str, Any]
    model: ModelRecord
    inputs: list[TensorRecord]
    outputs: list[TensorRecord]
    preprocessing: Preprocessing | None
    fusion: FusionRecord
    operators: dict[str, int]
    delegated_share: float | None = None
    details: dict[str, Any]
    notes: list[str]
    main_file: str
    files: Annotated[list[FileRecord], Field(min_length=1)]
    proof: Proof
    measurements: list[dict[str, Any]] = []
    tuning: TuningRecord | None = None

    def to_json(self) -> str:
        """The document's text."""
        return self.model_dump_json(indent=2) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the artifact in ``folder``; `UserError` where there is none that can be understood."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(
            f"{str(folder)!r} is not an artifact: it has no {MANIFEST}",
            fix="pass the folder that `deploykit export` made, such as artifacts/edgevit_s/torchscript-lite",
        )
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{str(path)!r} cannot be read: {error}", fix="export the artifact again") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{str(path)!r} has schema version {version!r}; this deploykit reads version {SCHEMA_VERSION}",
            fix="export the artifact again, or use the deploykit that wrote it",
        )
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{str(path)!r} is damaged: {where}: {first['msg']}", fix="export the artifact again"
        ) from error
