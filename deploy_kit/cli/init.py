"""``deploykit init``."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy_kit.cli.console import print_json, print_line, print_note, show_stages
from deploy_kit.cli.parameters import InputSize, Json, Model, Weights

if TYPE_CHECKING:
    from deploy_kit.init import Start

ALL = "all"
"""The name that stands for every installed target."""


@dataclass(frozen=True)
class InitResult:
    """What was written, and what is to be done next, in order."""

    schema_version: int
    model: str
    targets: list[str]
    written: list[str]
    next: list[str]
    notes: list[str]


def command(
    model: Model,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", help="A target of `deploykit targets`; none is all that are installed here."),
    ] = None,
    weights: Weights = None,
    input_size: InputSize = None,
    dir: Annotated[Path, typer.Option(help="The root of your repository, which gets the files.")] = Path("."),
    pre_commit: Annotated[
        bool, typer.Option("--pre-commit", help="Also write a hook that checks before each push.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a recipe and a workflow that are there.")] = False,
    json: Json = False,
) -> None:
    """Write a recipe and a CI workflow that check MODEL: deploykit.toml and .github/workflows/deploykit.yml."""
    from deploy_kit.cells.recipe import installed_targets
    from deploy_kit.errors import UserError
    from deploy_kit.exporters import get_exporter
    from deploy_kit.init import Start, beside, render, write
    from deploy_kit.sources import load_model

    if not dir.is_dir():
        raise UserError(f"there is no folder {str(dir)!r}", fix="make it, or name the root of your repository")
    for name in target or []:
        if name != ALL:
            get_exporter(name)
    with show_stages() as stages, stages.stage(f"load {model}"):
        load_model(model, weights=weights, input_size=input_size)
    installed = installed_targets()
    targets = list(dict.fromkeys(target)) if target and ALL not in target else installed
    start = Start(model, targets, input_size, None if weights is None else str(weights))
    files = render(start, dir, pre_commit=pre_commit)
    write(files, dir, force=force)
    missing = [f"{name} is not installed here: its cells are unavailable" for name in targets if name not in installed]
    named = _named(start)
    committed = [beside(str(path), dir) for path in named if path.resolve().is_relative_to(_repository(dir))]
    result = InitResult(
        schema_version=1,
        model=model,
        targets=targets,
        written=[str(dir / path) for path in files],
        next=_next(dir, [*map(str, files), *committed]),
        notes=missing + _missing_in_ci(dir, named) + _not_published() + _elsewhere(dir),
    )
    if json:
        print_json(result)
        return
    for path in result.written:
        print_line(f"wrote {path}")
    print_line("next:")
    for step in result.next:
        print_line(f"  {step}")
    for note in result.notes:
        print_note(note)


def _next(folder: Path, files: list[str]) -> list[str]:
    """Commands: the first check, whose results are what later ones are compared with, and the commit of them."""
    go = [] if folder.resolve() == Path.cwd() else [shlex.join(["cd", str(folder)])]
    add = shlex.join(["git", "add", "--", *files, "deploykit-baseline.json"])
    return [*go, "deploykit check --update-baseline", add, "git commit --message 'Check the models with deploykit'"]


def _named(start: Start) -> list[Path]:
    """The files that the recipe names."""
    files = [start.model] if start.model.endswith(".pt2") else []
    return [Path(path) for path in [*files, start.weights] if path not in (None, "timm")]


def _repository(folder: Path) -> Path:
    """The root of the repository that a folder is in; the folder itself where it is in none."""
    whole = folder.resolve()
    return next((each for each in (whole, *whole.parents) if (each / ".git").exists()), whole)


def _missing_in_ci(folder: Path, named: list[Path]) -> list[str]:
    """A word on files that cannot be committed."""
    root = _repository(folder)
    return [
        f"{path} is not in {root}: CI has to get it, or move it there and write the recipe again"
        for path in named
        if not path.resolve().is_relative_to(root)
    ]


def _not_published() -> list[str]:
    """A word on a deploykit that the workflow installs by its version, and that came from elsewhere."""
    from deploy_kit.init import WORKFLOW, from_a_folder

    if not from_a_folder():
        return []
    return [
        f"{WORKFLOW} installs deploykit from the package index; this one is from a folder: say there where CI gets it"
    ]


def _elsewhere(folder: Path) -> list[str]:
    """A word on workflows that GitHub would not find."""
    root = _repository(folder)
    if root == folder.resolve():
        return []
    return [f"GitHub reads workflows in {root / '.github'} alone: move it there, or use --dir {shlex.quote(str(root))}"]
