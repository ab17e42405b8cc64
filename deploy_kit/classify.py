"""Classifying image files with an artifact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from deploy_kit.api import parse_options
from deploy_kit.artifact import Artifact
from deploy_kit.errors import UserError
from deploy_kit.exporters import get_exporter
from deploy_kit.preprocessing import read_image


def classify(artifact: Artifact, images: Sequence[Path]) -> list[Tensor]:
    """Class scores for each image file, float32 of shape [classes], from the artifact's own runtime.

    Raises:
        UserError: the artifact does not classify images, or a file is not an image.
    """
    manifest = artifact.manifest
    if manifest.preprocessing is None or len(manifest.outputs) != 1 or len(manifest.outputs[0].shape) != 2:
        raise UserError(f"{manifest.model.name} does not classify images", fix="run it with its runtime's own tools")
    batch = manifest.inputs[0].shape[0] or 1
    inputs = [manifest.preprocessing.apply(read_image(path)).expand(batch, -1, -1, -1) for path in images]
    exporter = get_exporter(manifest.target)
    options = parse_options(exporter, manifest.options)
    ran = exporter.run(artifact.main_file, [(x.contiguous(),) for x in inputs], options, manifest.details)
    if ran.outputs is None:
        raise UserError(f"nothing here can run a {manifest.target} artifact", fix="run it on its device")
    return [outputs[0][0] for outputs in ran.outputs]


def read_labels(path: Path) -> list[str]:
    """The names of the classes, one a line; `UserError` where there is no such file."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{str(path)!r} is not a file of labels: {error}") from error
