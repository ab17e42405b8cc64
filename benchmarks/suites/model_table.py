"""The table of the reference models: what is counted of each, and what its authors report.

    python -m deploy_kit.benchmarks.suites.model_table

Counts the multiply-accumulates of every model into ``models/macs.json``, which ``deploykit models`` reads, and writes
the table in ``docs/models.md``. ``--models`` counts some of them again and keeps what is known of the others.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from deploy_kit.benchmarks import markdown
from deploy_kit.capture import capture
from deploy_kit.cli.models import ModelRow, giga, list_rows, shorten
from deploy_kit.disk import replace
from deploy_kit.errors import DeployKitError, UserError
from deploy_kit.models import Architecture, get_architecture, list_models
from deploy_kit.models.registry import COUNTS, counted_macs
from deploy_kit.statistics import count

TABLE = "models"
COLUMNS = (
    "model",
    "input",
    "parameters",
    "MACs counted",
    "MACs published",
    "why they differ by over 1%",
    "quality",
    "published latency",
    "paper",
)
PAGE = f"""# Reference models

Parameters and MACs (multiply-accumulates of one input, attention included) are counted on the model; quality and
latency are what the authors report, and nothing is there that they do not. This command counts and writes the table:

```console
$ python -m deploy_kit.benchmarks.suites.model_table
```

{markdown.place(TABLE)}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, and write both files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", help="those to count again; none is all reference models")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="the folder of models.md")
    chosen = parser.parse_args(arguments)
    names = [get_architecture(name).name for name in chosen.models or list_models()]
    markdown.check_folder(chosen.docs)
    known = dict(counted_macs()) if chosen.models else {}
    for name in names:
        known[name] = count_macs(name)
        print(f"{name} {giga(known[name])}", file=sys.stderr, flush=True)
    write_counts({name: known[name] for name in list_models() if name in known})
    page = chosen.docs / "models.md"
    replace(page, page_text(page))
    return 0


def count_macs(name: str) -> int:
    """Multiply-accumulates of one input of the default size, counted on the captured graph; nothing is computed."""
    architecture = get_architecture(name)
    counted = count(capture(architecture.without_values(), _inputs(architecture))).macs
    if counted is None:
        raise UserError(f"{name} has operators that are not counted", fix="count them in deploy_kit/statistics.py")
    return counted


def _inputs(architecture: Architecture) -> tuple[Tensor, ...]:
    if architecture.draw is None:
        return (torch.empty(1, 3, *architecture.input_size, device="meta"),)
    return tuple(x.to("meta") for x in architecture.draw(0, architecture.input_size))


def write_counts(macs: dict[str, int]) -> None:
    """Replace what `counted_macs` returns."""
    replace(COUNTS, json.dumps(macs, indent=1) + "\n")
    counted_macs.cache_clear()


def page_text(page: Path) -> str:
    """The text of the page with the table that the data gives now."""
    return markdown.filled(page, TABLE, PAGE, markdown.table_of(COLUMNS, map(_cells, list_rows())))


def _cells(row: ModelRow) -> list[str]:
    cells = (
        f"`{row.name}`",
        row.input_size,
        f"{row.parameters:,}",
        giga(row.macs),
        giga(row.published_macs),
        row.macs_note,
        row.quality,
        None if row.published_latency is None else f"{row.latency}: {_link(row.published_latency.source)}",
        _link(row.paper),
    )
    return [cell or "" for cell in cells]


def _link(source: str) -> str:
    """A link to an address, which words about the place may follow after a comma."""
    return f"[{shorten(source)}]({source.partition(', ')[0]})"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DeployKitError as error:
        sys.exit(f"error: {error}\n  fix: {error.fix}")
