"""``deploykit init``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from deploy_kit.cli.console import print_json, print_line, print_note, show_stages
from deploy_kit.cli.parameters import InputSize, Json, Model, Weights

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
    from deploy_kit.init import Start, render, write
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
    result = InitResult(
        schema_version=1,
        model=model,
        targets=targets,
        written=[str(dir / path) for path in files],
        next=_next(dir, [*map(str, files)]),
        notes=missing + _not_published() + _elsewhere(dir),
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
    go = [] if folder.resolve() == Path.cwd() else [f"cd {folder}"]
    add = f"git add {' '.join(files)} deploykit-baseline.json"
    return [*go, "deploykit check --update-baseline", add, "git commit --message 'Check the models with deploykit'"]


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
    roots = [parent for parent in folder.resolve().parents if (parent / ".git").exists()]
    if (folder / ".git").exists() or not roots:
        return []
    return [f"GitHub reads workflows in {roots[0] / '.github'} alone: move it there, or use --dir {roots[0]}"]
