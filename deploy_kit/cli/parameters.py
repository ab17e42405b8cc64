"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A reference model (see `deploykit models`), package.module:callable, a .pt2 file, or timm/NAME.",
    ),
]
ArtifactPath = Annotated[
    Path, typer.Argument(metavar="ARTIFACT", help="The folder that `deploykit export` made, or a file in it.")
]
Targets = Annotated[
    list[str], typer.Option("--target", "-t", help="A target (see `deploykit targets`), or all; may be given again.")
]
Target = Annotated[str, typer.Option("--target", "-t", help="A target; see `deploykit targets`.")]
Weights = Annotated[
    Path | None,
    typer.Option(help="A checkpoint (.pth, .pt, .safetensors or .npz), or timm for the weights that timm fetches."),
]
InputSize = Annotated[
    str | None,
    typer.Option(
        help="224, 224x288 or 1x3x224x224; of integers from 0 to 99, 1x12:int64:100; commas between several inputs."
    ),
]
Activation = Annotated[str | None, typer.Option(help="gelu, gelu_tanh, hardswish, relu or silu, of a reference model.")]
Classes = Annotated[int | None, typer.Option(help="Number of classes; none is the published number.")]
Seed = Annotated[int, typer.Option(help="Seed of the random weights that a model has without --weights.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
