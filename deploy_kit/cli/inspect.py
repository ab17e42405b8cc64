"""``deploykit inspect``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from deploy_kit.cli.console import format_bytes, print_json, print_note, print_table
from deploy_kit.cli.parameters import ArtifactPath, Json


def command(artifact: ArtifactPath, json: Json = False) -> None:
    """Show what ARTIFACT is: its model, files, signature, operators, fusion and proof."""
    from deploy_kit.artifact import open_artifact
    from deploy_kit.cli.tuning import print_tuning
    from deploy_kit.cli.verify import print_proof

    opened = open_artifact(artifact)
    manifest = opened.manifest
    if json:
        print_json(manifest)
        return
    model, preprocessing = manifest.model, manifest.preprocessing
    print_table(
        str(opened.folder),
        ["", ""],
        [
            ("model", f"{model.name} ({model.source})"),
            ("weights", model.weights.description),
            ("activation", model.activation),
            ("approximated", None if model.approximation is None else model.approximation.description),
            ("target", manifest.target),
            *((f"input {tensor.name}", _signature(tensor.shape, tensor.dtype)) for tensor in manifest.inputs),
            *((f"output {tensor.name}", _signature(tensor.shape, tensor.dtype)) for tensor in manifest.outputs),
            ("preprocessing", None if preprocessing is None else _describe(preprocessing.model_dump())),
            *((name, value) for name, value in manifest.details.items()),
            ("made with", _describe(manifest.toolchain)),
            ("created", manifest.created),
        ],
    )
    print_table(
        "files",
        ["file", "size", "sha256"],
        [(file.path, format_bytes(file.bytes), file.sha256) for file in manifest.files],
    )
    rewrites = Counter(rewrite.pass_name for rewrite in manifest.fusion.rewrites)
    print_table("fusion", ["pass", "rewrites"], [(name, rewrites[name]) for name in manifest.fusion.passes])
    if manifest.tuning is not None:
        print_tuning(manifest.target, manifest.tuning)
    print_table("operators", ["operator", "calls"], list(manifest.operators.items()))
    print_proof(manifest.proof)
    for note in manifest.notes:
        print_note(note)


def _signature(shape: list[int | None], dtype: str) -> str:
    return f"{dtype} [{', '.join('batch' if size is None else str(size) for size in shape)}]"


def _describe(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
