"""The baseline: what is expected of each cell, in a file that is committed and reviewed."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from deploy_kit.cells.recipe import CellSpec
from deploy_kit.cells.result import GOOD, CellResult, InstructionCount, Score
from deploy_kit.check.findings import Checked
from deploy_kit.disk import replace
from deploy_kit.errors import DeployKitError, UserError
from deploy_kit.manifest import read_manifest
from deploy_kit.outcome import Outcome
from deploy_kit.parity.compare import NO_NOISE_DB

SCHEMA: Literal[1] = 1
RECIPE = ".toml"
"""How the name of a recipe ends."""

UPDATE = "deploykit check --update-baseline"

LONGEST_REASON = 500


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Known(_Record):
    """What is expected of a cell; what is not known is None.

    ``reason`` is that of an expected failure. ``sha256`` is that of the artifact as `artifact_sha256` has it, ``key``
    the content key of what it is made of, and ``runner`` says what times it, where latency is compared.
    """

    outcome: Outcome
    reason: str | None = None
    bytes: int | None = None
    noise_ratio: float | None = None
    snr_db: float | None = None
    max_relative_error: float | None = None
    undelegated: dict[str, int] | None = None
    accuracy: Score | None = None
    instructions: InstructionCount | None = None
    sha256: str | None = None
    key: str
    runner: str | None = None

    @property
    def works(self) -> bool:
        """Whether an artifact is expected."""
        return self.outcome in GOOD


class Baseline(_Record):
    """What is expected, by the cells' ids."""

    schema_version: Literal[1] = SCHEMA
    cells: dict[str, Known]

    def to_json(self) -> str:
        """The file's text: sorted, a line a figure, and nothing in it that changes where no cell does."""
        cells = [_cell(name, known) for name, known in sorted(self.cells.items())]
        inside = ",\n".join(cells)
        return f'{{\n "schema_version": {self.schema_version},\n "cells": {{\n{inside}\n }}\n}}\n'


def _cell(name: str, known: Known) -> str:
    fields = known.model_dump(mode="json", exclude_none=True)
    lines = [f"   {json.dumps(field)}: {_text(value)}" for field, value in fields.items()]
    return f"  {_text(name)}: {{\n" + ",\n".join(lines) + "\n  }"


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)


def baseline_of(recipe: Path) -> Path:
    """Where a recipe's baseline is, unless another is named: beside it, ``lab-baseline.json`` of ``lab.toml``.

    So recipes that are in one folder have one each.
    """
    return recipe.with_name(f"{recipe.name.removesuffix(RECIPE)}-baseline.json")


def read_baseline(path: Path) -> Baseline:
    """The baseline in a file; `UserError` where it is not there, damaged, or of a newer deploykit."""
    called = f"the baseline {str(path)!r}"
    again = f"restore the file as it was committed, or write it anew: {UPDATE}"
    try:
        document = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_doubles)
    except FileNotFoundError:
        raise UserError(f"there is no baseline {str(path)!r}", fix=f"write it: {UPDATE}") from None
    except OSError as error:
        raise UserError(f"{called} cannot be read: {error.strerror or error}", fix=again) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{called} is damaged: {error}", fix=again) from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA:
        newer = isinstance(version, int) and version > SCHEMA
        raise UserError(
            f"{called} has schema version {version!r}; this deploykit reads version {SCHEMA}",
            fix="install the deploykit that wrote it, or a newer one" if newer else again,
        )
    try:
        return Baseline.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{called} is damaged: {where}: {first['msg']}", fix=again) from error


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is in it twice")
    return found


def write_baseline(baseline: Baseline, path: Path) -> None:
    """Write the file; it is whole or as it was, and `DeployKitError` says why it could not be written."""
    try:
        replace(path, baseline.to_json())
    except OSError as error:
        raise DeployKitError(
            f"the baseline cannot be written into {str(path)!r}: {error.strerror or error}",
            fix="free some space, or name another file with --baseline",
        ) from error


def updated(
    baseline: Baseline | None,
    cells: Sequence[Checked],
    *,
    whole: bool,
    runners: Mapping[str, str] | None = None,
    elsewhere: Iterable[CellSpec] = (),
) -> Baseline:
    """A baseline that expects what a check found.

    A cell that could not be tried here, as its target is not installed, stays as it is expected; one that is made of
    the same as before, and in which nothing differs, stays as it is written.

    Args:
        whole: whether the check was of the whole recipe: cells that it does not have are then forgotten.
        elsewhere: what the recipe has where their targets are installed, as `Recipe.elsewhere` says: they stay too.
        runners: of the cells whose latency is compared, what times them; see `deploy_kit.check.latency`.
    """
    before = {} if baseline is None else baseline.cells
    found = {cell.id: before[cell.id] for cell in elsewhere if cell.id in before} if whole else dict(before)
    for checked in cells:
        name = checked.result.cell.id
        runner = (runners or {}).get(name)
        if checked.result.outcome == Outcome.UNAVAILABLE or _stays(before.get(name), checked, runner):
            found |= {name: before[name]} if name in before else {}
        else:
            found[name] = known_of(checked, runner)
    return Baseline(cells=dict(sorted(found.items())))


def _stays(known: Known | None, checked: Checked, runner: str | None) -> bool:
    if known is None or runner is not None or known.runner is not None:
        return False
    return known.key == checked.key and known.outcome == checked.result.outcome and not checked.findings


def known_of(checked: Checked, runner: str | None = None) -> Known:
    """What a check found of a cell, as the baseline has it: figures to the digits that say something."""
    result = checked.result
    if not result.works:
        return Known(outcome=result.outcome, reason=steady(result.reason or ""), key=checked.key)
    return Known(
        outcome=result.outcome,
        bytes=result.bytes,
        noise_ratio=_digits(result.noise_ratio),
        snr_db=_snr(result.snr_db),
        max_relative_error=_digits(result.max_relative_error),
        undelegated=result.undelegated,
        accuracy=result.accuracy,
        instructions=result.instructions,
        sha256=result.sha256 if checked.artifact is None else artifact_sha256(checked.artifact),
        key=checked.key,
        runner=runner,
    )


def artifact_sha256(folder: Path) -> str:
    """What tells an artifact from others: the sha256 of its file, or of all of them in `sha256sum`'s format, by path.

    The main file alone would not do: a weights file beside it may be another.
    """
    files = sorted((file.path, file.sha256) for file in read_manifest(folder).files)
    if len(files) == 1:
        return files[0][1]
    return hashlib.sha256("".join(f"{sha256}  {path}\n" for path, sha256 in files).encode()).hexdigest()


def steady(reason: str) -> str:
    """The words of a failure without what differs from run to run and from machine to machine: paths and addresses."""
    words = " ".join(reason.split())
    words = re.sub(r"(?<![\w/:.])/(?:[^\s/'\":,;]+/)+", "", words)
    words = re.sub(r"\b(deploykit-|tmp)\w{8}\b", r"\1*", words)
    words = re.sub(r"\b0x[0-9a-fA-F]{6,}\b", "0x*", words)
    return words if len(words) <= LONGEST_REASON else words[: LONGEST_REASON - 3] + "..."


def fails_alike(known: Known, result: CellResult) -> bool:
    """Whether two failures are the same one: the outcome, and the words but for figures, paths and addresses."""
    words = [re.sub(r"\d+(\.\d+)?(e[-+]?\d+)?", "#", steady(reason or "")) for reason in (known.reason, result.reason)]
    return known.outcome == result.outcome and words[0] == words[1]


def _digits(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.3g}")


def _snr(value: float | None) -> float | None:
    """To a tenth; of an output without error it is `NO_NOISE_DB`, as JSON has no infinity."""
    if value is None or math.isnan(value) or value == -math.inf:
        return None
    return round(min(value, NO_NOISE_DB), 1)
