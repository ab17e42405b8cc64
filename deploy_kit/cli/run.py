"""``deploykit run``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from deploy_kit.cli.console import print_json, print_note, print_table
from deploy_kit.cli.parameters import ArtifactPath, Json


@dataclass(frozen=True)
class Prediction:
    """One class of one image, the most probable first; ``label`` is None without a file of labels."""

    image: str
    rank: int
    index: int
    probability: float
    label: str | None


def command(
    artifact: ArtifactPath,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes to show.")] = 5,
    labels: Annotated[Path | None, typer.Option(help="A text file with the name of a class a line.")] = None,
    json: Json = False,
) -> None:
    """Classify image files with ARTIFACT in its own runtime, preprocessed as its manifest says."""
    from deploy_kit.artifact import open_artifact
    from deploy_kit.classify import classify, read_labels

    opened = open_artifact(artifact)
    names = None if labels is None else read_labels(labels)
    predictions = []
    for path, scores in zip(images, classify(opened, images)):
        count = min(top, scores.numel())
        probabilities, indices = scores.softmax(0).topk(count)
        for rank, (probability, index) in enumerate(zip(probabilities.tolist(), indices.tolist()), 1):
            label = names[index] if names is not None and index < len(names) else None
            predictions.append(Prediction(str(path), rank, index, probability, label))
    if json:
        print_json(predictions)
        return
    print_table(
        f"{opened.manifest.model.name}, {opened.manifest.target}",
        ["image", "#", "class", "probability", "label"],
        [(p.image, p.rank, p.index, f"{p.probability:.2%}", p.label) for p in predictions],
    )
    if opened.manifest.model.weights.untrained:
        print_note(f"the weights are {opened.manifest.model.weights.description}, so the classes mean nothing")
