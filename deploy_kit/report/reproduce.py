"""The commands that repeat what a page shows."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy_kit.cells.recipe import CellSpec
from deploy_kit.errors import DeployKitError
from deploy_kit.manifest import Manifest
from deploy_kit.report.data import Step, Timing

NO_FLAG = "export has no option for {}: put it into a recipe under [options.{}]"
MEMORY = "it was made from a module in memory: only the program that made it can make it again"


def of_cell(cell: CellSpec, known: Collection[str] | None = None) -> list[Step]:
    """How a cell of a recipe is exported alone; ``known`` are the options of ``export``, None says that all are."""
    of_model = cell.of_model
    flags = {
        "weights": of_model.weights,
        "input_size": of_model.input_size,
        "activation": of_model.activation,
        "num_classes": of_model.num_classes,
        "seed": of_model.seed or None,
    }
    words, note = _export(cell.model, cell.target, flags, cell.options, known)
    return [Step(what="Export and prove it", command=words, note=note)]


def of_manifest(manifest: Manifest, folder: Path, known: Collection[str] | None = None) -> list[Step]:
    """How an artifact is made again, and proven again; ``known`` as for `of_cell`."""
    model = manifest.model
    verify = Step(what="Prove the artifact again", command=shlex.join(["deploykit", "verify", str(folder)]))
    if model.source == "module":
        return [Step(what="Export and prove it", command="", note=MEMORY)]
    named = model.weights.kind in ("random", "checkpoint", "timm") and not re.search("[:/]", model.source)
    weights = {"checkpoint": model.weights.path, "timm": "timm" if model.weights.path else None}
    flags = {
        "weights": weights.get(model.weights.kind),
        "input_size": None if model.source.endswith(".pt2") else model.input_size,
        "activation": model.activation if named else None,
        "num_classes": model.num_classes,
        "seed": model.weights.seed or None,
        "embed_preprocessing": model.embeds_preprocessing or None,
        "approximate": model.approximation.name if model.approximation else None,
    }
    changed = _changed(manifest.target, manifest.options)
    words, note = _export(model.source, manifest.target, flags, changed, known)
    return [Step(what="Export and prove it", command=words, note=note), verify]


def of_timings(timings: Sequence[Timing]) -> list[Step]:
    """The commands that measured, as they were kept."""
    return [Step(what=f"Measure it on {each.setup}", command=each.command) for each in timings if each.command]


def _export(
    model: str, target: str, flags: Mapping[str, Any], options: Mapping[str, Any], known: Collection[str] | None
) -> tuple[str, str]:
    """The command, and what it cannot say."""
    words = ["deploykit", "export", model, "--target", target]
    given = {**flags, **options}
    unknown = [name for name in options if known is not None and name not in known]
    for name, value in given.items():
        if name not in unknown:
            words += _words(name, value)
    note = NO_FLAG.format(", ".join(f"{name} = {options[name]!r}" for name in unknown), target) if unknown else ""
    return shlex.join(words), note


def _words(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if value is None or value is False:
        return []
    if value is True:
        return [flag]
    if isinstance(value, list | tuple):
        return [word for each in value for word in (flag, str(each))]
    return [flag, str(value)]


def _changed(target: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not the target's own; all that say something where the target is not known here."""
    from deploy_kit.exporters import get_exporter

    try:
        usual = get_exporter(target).options_type().model_dump(mode="json")
    except DeployKitError:
        usual = {}
    return {name: value for name, value in options.items() if value != usual.get(name)}
