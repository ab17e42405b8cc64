"""``deploykit check``."""

from __future__ import annotations

import os
import re
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy_kit.cli.console import print_line, print_note
from deploy_kit.cli.parameters import Json

if TYPE_CHECKING:
    from deploy_kit.cells.recipe import Recipe
    from deploy_kit.check.findings import CheckReport, Finding
    from deploy_kit.sweep.store import Store

UNITS = {"MB": 1_000_000, "GB": 1_000_000_000, "TB": 1_000_000_000_000}

INTERRUPTED = "interrupted; what was done is in the cache, and --changed-only goes on from there"


def command(
    recipe: Annotated[
        Path | None,
        typer.Argument(metavar="[RECIPE]", help="A TOML file; none is deploykit.toml, where it is there."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Instead of the recipe's models; may be given again.")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option("--target", "-t", help="Instead of the recipe's targets; may be given again.")
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option("--precision", help="fp32, fp16 or int8, instead; may be given again.")
    ] = None,
    input_size: Annotated[
        str | None,
        typer.Option(help="Of all models: 224, 224x288, 1x3x224x224 or 1x12:int64:100; commas between several inputs."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Seconds until a cell is ended as too slow.")] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Cells at a time.")] = None,
    memory: Annotated[
        float | None, typer.Option(metavar="GB", help="What they may take together; none is what is free.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="What is expected; none is NAME-baseline.json beside the recipe NAME.toml.")
    ] = None,
    update_baseline: Annotated[
        bool, typer.Option("--update-baseline", help="Expect from now on what is found, failures too, and exit with 0.")
    ] = False,
    changed_only: Annotated[
        bool,
        typer.Option(
            "--changed-only",
            help="Take cells from the cache that are made of the same code, weights, toolchain and options. "
            "Without it everything is exported and proven again.",
        ),
    ] = False,
    format: Annotated[str, typer.Option(help="table, json, junit, markdown or sarif.")] = "table",
    out: Annotated[Path | None, typer.Option(help="Write that into this file, and print the table.")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Where artifacts and results are kept; none is ~/.cache/deploykit/check.")
    ] = None,
    cache_limit: Annotated[
        str, typer.Option(help="What is kept at most, such as 500MB; the longest unused goes first.")
    ] = "5GB",
    store: Annotated[
        str | None, typer.Option(metavar="URL", help="Also record the check in this database, as deploykit sweep does.")
    ] = None,
    json: Json = False,
) -> None:
    """Export and prove every cell of RECIPE, models x targets x precisions, and compare them with the baseline.

    Each cell has a process of its own: one that crashes or hangs is a result. The exit code is 1 where a finding is an
    error. In GitHub's workflows the findings are annotations, and the step's summary has the table.
    """
    from deploy_kit.check.baseline import baseline_of, read_baseline, write_baseline
    from deploy_kit.check.cache import default_folder
    from deploy_kit.check.engine import Settings, check, new_baseline, open_cache, tidy
    from deploy_kit.check.formats import FORMATS
    from deploy_kit.errors import UserError, unknown_name

    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    if json and format not in ("table", "json"):
        raise UserError(f"--json and --format {format} are two formats", fix="leave one out")
    if out is not None:
        _require_place(out, "--out")
    given = _given(model, target, precision, limit=limit, jobs=jobs, memory_gb=memory)
    chosen, beside = _recipe(recipe, given, input_size)
    file = baseline_of(beside) if baseline is None else baseline
    if update_baseline:
        _require_place(file, "--baseline")
    needed = baseline is not None and not update_baseline
    expected = read_baseline(file) if needed or file.exists() else None
    whole = not (model or target or precision)
    settings = Settings(
        cache_folder=default_folder() if cache is None else cache.absolute(),
        cache_limit_bytes=_bytes(cache_limit),
        changed_only=changed_only,
        command=shlex.join(["deploykit", *sys.argv[1:]]),
    )
    kept = None if store is None else _open(store)
    called = None if expected is None else _near(file)
    found = open_cache(settings)
    with found.holding():
        try:
            report = check(chosen, expected, settings, _announce, whole=whole, called=called, cache=found)
        except KeyboardInterrupt:  # typer turns it into exit code 130
            print_note(INTERRUPTED)
            raise
        if recipe is not None:
            report = _naming(report, recipe)
        if update_baseline:
            expected = new_baseline(report, chosen, expected, settings, whole=whole)
            write_baseline(expected, file)
    report = tidy(report, expected, settings)
    try:
        _tell(report, "json" if json else format, out)
    finally:
        if kept is not None:
            _record(report, chosen, kept)
    if update_baseline:
        print_note(f"{_near(file)} expects this now: commit it")
    elif not report.passed:
        raise typer.Exit(1)


def _require_place(file: Path, option: str) -> None:
    """Raise `UserError` where a file that an option names cannot be written; it is made in its folder, and replaced."""
    from deploy_kit.errors import UserError

    if not file.absolute().parent.is_dir():
        raise UserError(f"there is no folder {str(file.parent)!r}", fix="make it first")
    if file.is_dir():
        raise UserError(f"{str(file)!r} is a folder", fix=f"name a file in it with {option}")
    places = [file] if file.exists() else []
    if file.is_file() or not places:  # a pipe, or /dev/stdout, is not replaced
        places.append(Path(os.path.realpath(file)).parent)
    if not all(os.access(place, os.W_OK) for place in places):
        raise UserError(f"{str(file)!r} cannot be written", fix=f"choose another {option}")


def _given(
    model: list[str] | None, target: list[str] | None, precision: list[str] | None, **others: Any
) -> dict[str, Any]:
    """What the command line says in the place of a recipe's values."""
    here = [str(Path(name).absolute()) if name.endswith(".pt2") else name for name in model or ()]
    values = {"models": here or None, "targets": target or None, "precisions": precision or None, **others}
    return {name: value for name, value in values.items() if value is not None}


def _recipe(path: Path | None, given: Mapping[str, Any], input_size: str | None) -> tuple[Recipe, Path]:
    """The recipe with what the command line says instead, and its file; of flags alone, what that would be here."""
    from deploy_kit.cells.recipe import DEFAULT_RECIPE, make_recipe, model_names, read_recipe

    document: dict[str, Any] = {}
    file = path or DEFAULT_RECIPE
    place = file.absolute()
    if path is not None or DEFAULT_RECIPE.exists() or "models" not in given:
        found = read_recipe(file)
        if not given and input_size is None:
            return found, place
        document = found.model_dump(exclude_none=True)
    document |= given
    names = model_names(tuple(document["models"]))
    document["model"] = {name: options for name, options in document.get("model", {}).items() if name in names}
    if input_size is not None:
        for name in names:
            document["model"][name] = {**document["model"].get(name, {}), "input_size": input_size}
    return make_recipe(document, place.parent, "what was asked for"), place


def _bytes(text: str) -> int:
    from deploy_kit.errors import UserError

    found = re.fullmatch(r"(\d+(?:\.\d+)?)(MB|GB|TB)", text)
    if found is None:
        raise UserError(f"--cache-limit {text!r} is no size", fix="write it as 500MB or 5GB")
    return int(float(found[1]) * UNITS[found[2]])


def _near(file: Path) -> str:
    """A path as people write it: from the current folder, where it is in that."""
    whole, here = file.absolute(), Path.cwd()
    return str(whole.relative_to(here)) if whole.is_relative_to(here) else str(file)


def _announce(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def _naming(report: CheckReport, recipe: Path) -> CheckReport:
    """A report whose commands are for this recipe, where it has another name than the usual one."""
    from deploy_kit.cells.recipe import DEFAULT_RECIPE
    from deploy_kit.check.baseline import UPDATE

    if Path(_near(recipe)) == DEFAULT_RECIPE:
        return report
    command = UPDATE.replace("check", f"check {shlex.quote(str(recipe))}", 1)

    def named(findings: Sequence[Finding]) -> list[Finding]:
        return [each.model_copy(update={"fix": each.fix.replace(UPDATE, command)}) for each in findings]

    cells = [each.model_copy(update={"findings": named(each.findings)}) for each in report.cells]
    return report.model_copy(update={"cells": cells, "findings": named(report.findings)})


def _open(url: str) -> Store:
    """The database, before anything is done, so that a wrong URL is told at once."""
    from deploy_kit.sweep.store import open_store

    return open_store(url)


def _record(report: CheckReport, recipe: Recipe, store: Store) -> None:
    """Keep a check's results in a database, as a run of its own."""
    host = socket.gethostname()
    try:
        run = store.begin("check", report.commit, host, recipe)
        _add(report, run, host, store)
        store.finish(run)
    finally:
        store.close()


def _add(report: CheckReport, run: str, host: str, store: Store) -> None:
    from deploy_kit.cells.entry import Entry

    for checked in report.cells:
        artifact = None if checked.artifact is None else str(checked.artifact)
        store.add(
            Entry(
                run=run,
                kind="check",
                created=report.created,  # of the check: a cell from the cache may be older
                commit=report.commit,
                host=host,
                result=checked.result,
                artifact=artifact,
            )
        )


def _tell(report: CheckReport, format: str, out: Path | None) -> None:
    """Print or write a report, and tell GitHub where this is one of its workflows."""
    from deploy_kit.check.formats import github, write

    if out is None and format != "table":
        print(write(report, format), end="")
    else:
        _table(report)
    if out is not None:
        _write(out, write(report, format))
        print_line(f"{format}: {out}")
    if os.environ.get("GITHUB_ACTIONS") == "true":
        print(github.annotations(report), end="", file=sys.stderr)  # GitHub reads both streams
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        try:
            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(write(report, "markdown"))
        except OSError as error:
            print_note(f"the step's summary cannot be written into {summary!r}: {error.strerror or error}")


def _table(report: CheckReport) -> None:
    from deploy_kit.check.formats import table

    table.show(report)


def _write(out: Path, text: str) -> None:
    from deploy_kit.disk import replace
    from deploy_kit.errors import DeployKitError

    try:
        replace(out, text)
    except OSError as error:
        raise DeployKitError(
            f"the report cannot be written into {str(out)!r}: {error.strerror or error}", fix="choose another --out"
        ) from error
