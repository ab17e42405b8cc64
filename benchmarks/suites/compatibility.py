"""The compatibility matrix: every reference model exported to every installed target, and proven.

    python -m deploy_kit.benchmarks.suites.compatibility --smallest
    python -m deploy_kit.benchmarks.suites.compatibility --check --budget 1800   # what CI runs: make compatibility

Each export runs in a process of its own, with a time limit. What came of it replaces what is known of that model and
target in ``docs/compatibility.json``; the rest stays, such as the results of targets that are not installed here. The
table in ``docs/compatibility.md`` is written from it after each export, so that a run may be ended at any time.
With ``--check`` nothing is written, and what came of each is compared with what is known.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from deploy_kit.benchmarks import markdown
from deploy_kit.cells.recipe import CellSpec, ModelOptions, target_options
from deploy_kit.cells.result import GOOD
from deploy_kit.cells.run import run_cell
from deploy_kit.cli.console import print_line, print_table
from deploy_kit.disk import replace
from deploy_kit.errors import DeployKitError, UserError
from deploy_kit.exporters import get_exporter, list_targets
from deploy_kit.models import get_architecture, list_models, smallest_models
from deploy_kit.outcome import Outcome

SMALLER = {
    "efficientvit_l3": "128x128",
    "efficientvit_seg_b3_ade20k": "256x256",
    "efficientvit_seg_l1_ade20k": "128x128",
    "efficientvit_seg_l2_ade20k": "128x128",
    "efficientvit_seg_b1_cityscapes": "256x512",
    "efficientvit_seg_b2_cityscapes": "256x512",
    "efficientvit_seg_b3_cityscapes": "128x256",
    "efficientvit_seg_l1_cityscapes": "128x256",
    "efficientvit_seg_l2_cityscapes": "128x256",
}
"""Input sizes of models that have over 20 billion MACs at their default size, too much to prove them at here."""

TABLE = "compatibility"

PAGE = f"""# Compatibility

Each reference model at its default precision and input size, or the size beside its name, with seeded random weights,
exported to each target and proven against the model in float64; the figure is the signal-to-noise ratio. This command
writes the table, and `make compatibility` checks in CI that the smallest model of each family, and as many others as
time allows, still do as well:

```console
$ python -m deploy_kit.benchmarks.suites.compatibility
```

{markdown.place(TABLE)}
"""


@dataclass(frozen=True)
class Cell:
    """What came of one model and target; what is not known is None.

    ``snr_db`` of an artifact that nothing here can run is that of the file it was made from.
    """

    model: str
    target: str
    outcome: str
    snr_db: float | None = None
    delegated_share: float | None = None
    reason: str | None = None
    date: str = ""
    versions: tuple[tuple[str, str], ...] = ()


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill the matrix and print what was tried; 1 where something of it failed, or is worse than what is known."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", help="none is all reference models")
    parser.add_argument("--targets", nargs="+", help="none is all installed targets")
    parser.add_argument("--smallest", action="store_true", help="of the models, the smallest of each family")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where an outcome is worse than known")
    parser.add_argument("--missing", action="store_true", help="only what has no result yet: go on with a run")
    parser.add_argument("--budget", type=int, help="seconds after which only the smallest of each family are begun")
    parser.add_argument("--jobs", type=int, default=1, help="exports at a time")
    parser.add_argument("--limit", type=int, default=1800, help="seconds until an export is ended")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="the folder of compatibility.md and .json")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    chosen = parser.parse_args(arguments)
    models = [get_architecture(name).name for name in chosen.models or list_models()]
    first = smallest_models(models)
    models = first if chosen.smallest else [*first, *(name for name in models if name not in first)]
    targets = installed(chosen.targets)
    known = cells = read_cells(chosen.docs)
    skipped = {(cell.model, cell.target) for cell in known} if chosen.missing else set()
    end = time.monotonic() + (chosen.budget or math.inf)

    def attempt(pair: tuple[str, str]) -> Cell | None:
        model, target = pair
        if pair in skipped or (model not in first and time.monotonic() > end):
            return None
        start = time.perf_counter()
        cell = measure(model, target, chosen.limit, Path(scratch))
        seconds = time.perf_counter() - start
        print(f"{model}, {target}: {seconds:.1f} s, {describe(cell)}", file=sys.stderr, flush=True)
        return cell

    tried = []
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch, ThreadPoolExecutor(chosen.jobs) as pool:
        for cell in pool.map(attempt, itertools.product(models, targets)):
            tried += [] if cell is None else [cell]
            if cell is not None and not chosen.check:
                cells = merge(cells, [cell])
                write_docs(cells, chosen.docs)
    if chosen.json:
        print(json.dumps([asdict(cell) for cell in tried], indent=2))
    else:
        _print(tried, models, targets)
    bad = worse(tried, known) if chosen.check else [cell for cell in tried if cell.outcome not in GOOD]
    return 1 if bad else 0


def worse(tried: Iterable[Cell], known: Iterable[Cell]) -> list[Cell]:
    """The cells that failed, where it is not known that they do."""
    failing = {(cell.model, cell.target): cell.outcome for cell in known if cell.outcome not in GOOD}
    return [cell for cell in tried if cell.outcome not in (*GOOD, failing.get((cell.model, cell.target)))]


def installed(names: Sequence[str] | None) -> list[str]:
    """The targets that have all they need here; `UserError` where one of ``names`` does not."""
    usable = []
    for name in names or list_targets():
        missing = [need for need in get_exporter(name).requirements() if need.found is None and not need.optional]
        if names and missing:
            raise UserError(f"the target {name} needs {missing[0].name}, which is not here", fix=missing[0].install)
        if not missing:
            usable.append(name)
    return usable


def measure(model: str, target: str, limit: int, scratch: Path) -> Cell:
    """Export one model to one target in a process of its own; what the model computes is kept in ``scratch``."""
    (precision, options), *_ = target_options(target, (), {})
    of_model = ModelOptions(input_size=SMALLER.get(model))
    spec = CellSpec(model=model, target=target, precision=precision, options=options, of_model=of_model)
    with tempfile.TemporaryDirectory(prefix="deploykit-", dir=scratch) as folder:
        found = run_cell(spec, Path(folder, "artifact"), limit=limit, references=scratch / f"{model}.pt")
    return Cell(
        model,
        target,
        found.outcome,
        snr_db=found.snr_db,
        delegated_share=found.delegated_share,
        reason=_one_line((found.reason or "").removeprefix(f"{model} for {target}: ")),
        date=datetime.now(UTC).date().isoformat(),
        versions=tuple(sorted(found.toolchain.items())),
    )


def _one_line(reason: str) -> str | None:
    """A reason that fits into a list, without the folders of this machine; None where there is none."""
    home = str(Path(__file__).resolve().parents[2])
    return " ".join(reason.replace(home + "/", "").split())[:400] or None


def merge(known: Iterable[Cell], new: Iterable[Cell]) -> list[Cell]:
    """All cells of models that are still there, the new ones in the place of the old."""
    cells = {(cell.model, cell.target): cell for cell in (*known, *new)}
    models = list_models()
    order = {name: index for index, name in enumerate([*models, *(model for model, _ in cells if model not in models)])}
    return sorted(filter(_is_there, cells.values()), key=lambda cell: (order[cell.model], cell.target))


def _is_there(cell: Cell) -> bool:
    try:
        get_architecture(cell.model)
    except UserError:
        return False
    return True


def read_cells(docs: Path) -> list[Cell]:
    """The cells that are known; `UserError` where the file is damaged."""
    file = docs / "compatibility.json"
    markdown.check_folder(docs)
    if not file.is_file():
        return []
    try:
        return [
            Cell(**{**cell, "versions": tuple((name, number) for name, number in cell["versions"])})
            for cell in json.loads(file.read_text(encoding="utf-8"))
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{str(file)!r} is damaged: {error}", fix="restore it, or delete it to start again") from error


def write_docs(cells: Sequence[Cell], docs: Path) -> None:
    """Write the cells, and the page's table between its markers; what stands around them stays."""
    page = docs / "compatibility.md"
    text = markdown.filled(page, TABLE, PAGE, render(cells))
    replace(docs / "compatibility.json", json.dumps([asdict(cell) for cell in cells], indent=1) + "\n")
    replace(page, text)


def render(cells: Sequence[Cell]) -> str:
    """The table in Markdown, the reasons of what is not in order, and when and with what each column was measured."""
    targets = sorted({cell.target for cell in cells})
    table = {(cell.model, cell.target): cell for cell in cells}
    notes = [cell for cell in cells if cell.outcome not in GOOD]
    rows = [
        [_label(model), *(_text(table.get((model, target)), notes) for target in targets)]
        for model in dict.fromkeys(cell.model for cell in cells)
    ]
    lines = [markdown.table_of(["model", *targets], rows)]
    if notes:
        lines.append("")
    for number, cell in enumerate(notes, 1):
        lines.append(f"{number}. `{cell.model}`, `{cell.target}`: {cell.reason or 'no reason was given'}")
    lines.append("")
    lines += [_measured(target, [cell for cell in cells if cell.target == target]) for target in targets]
    return "\n".join(lines)


def _label(model: str) -> str:
    return f"`{model}` at {SMALLER[model]}" if model in SMALLER else f"`{model}`"


def _text(cell: Cell | None, notes: list[Cell]) -> str:
    if cell is None:
        return "not tried"
    return f"{describe(cell)} ({notes.index(cell) + 1})" if cell in notes else describe(cell)


def describe(cell: Cell) -> str:
    """A cell in a few words."""
    words = [cell.outcome]
    if cell.snr_db is not None:
        source = " of its source" if cell.outcome == Outcome.EMITTED_UNVERIFIED else ""
        words.append(f"{cell.snr_db:.0f} dB{source}")
    if cell.delegated_share is not None:
        words.append(f"{cell.delegated_share:.0%} delegated")
    return ", ".join(words)


def _measured(target: str, cells: Sequence[Cell]) -> str:
    """When a column was measured, and with which versions."""
    dates = sorted({cell.date for cell in cells})
    numbers: dict[str, set[str]] = {}
    for cell in cells:
        for name, number in cell.versions:
            numbers.setdefault(name, set()).add(number)
    versions = ", ".join(f"{name} {' and '.join(sorted(found))}" for name, found in sorted(numbers.items()))
    return f"- `{target}`: {' to '.join(dict.fromkeys((dates[0], dates[-1])))}{f'; {versions}' if versions else ''}"


def _print(cells: Sequence[Cell], models: Sequence[str], targets: Sequence[str]) -> None:
    table = {(cell.model, cell.target): describe(cell) for cell in cells}
    rows = [(model, *(table.get((model, target)) for target in targets)) for model in models]
    print_table("outcomes, with the SNR against float64", ["model", *targets], rows)
    for cell in cells:
        if cell.outcome not in GOOD:
            print_line(f"{cell.model}, {cell.target}: {cell.reason}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DeployKitError as error:
        sys.exit(f"error: {error}\n  fix: {error.fix}")
